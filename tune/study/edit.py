"""An edited space file on a study that exists: what changed, what can't change, and trials of before and after it."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution, check_distribution_compatibility
from optuna.trial import FrozenTrial

from sfc.config.values import flat
from sfc.errors import UserError
from tune.space.sections import SpaceFile
from tune.space.space_file import Space


def differences(old: dict[str, Any], new: dict[str, Any]) -> dict[str, str]:
    """`old -> new` by name of each setting in which two flat dictionaries differ; `-` where one lacks it."""
    pairs = {name: (old.get(name, "-"), new.get(name, "-")) for name in (*old, *new)}
    return {name: f"{before} -> {after}" for name, (before, after) in pairs.items() if before != after}


def edits(before: SpaceFile, now: SpaceFile) -> list[str]:
    """A line for each difference between two versions of a space file; base and objective are not looked at."""

    def settings(file: SpaceFile) -> dict[str, Any]:
        ranges = {name: file.parameters[name].text() if name in file.parameters else "not searched" for name in names}
        published = {f"published {name}": value for name, value in file.published.items()}
        rest = flat(file.model_copy(update={"parameters": {}, "published": {}}))
        return ranges | published | {k: v for k, v in rest.items() if k != "base" and not k.startswith("objective.")}

    names = dict.fromkeys([*before.parameters, *now.parameters])
    return [f"{name}: {change}" for name, change in differences(settings(before), settings(now)).items()]


def check_choices(study: optuna.Study, space: Space) -> None:
    """Check that the storage takes further trials of a space: a range may change, choices and the kind may not.

    Raises:
        UserError: names each parameter that the study has with other choices or of another kind.
    """
    before: dict[str, BaseDistribution] = {}
    for trial in study.get_trials(deepcopy=False):
        before |= trial.distributions
    lines = []
    for name, parameter in space.outer.items():
        try:
            check_distribution_compatibility(before.get(name, parameter.distribution), parameter.distribution)
        except ValueError:
            lines.append(f"{name}: {parameter.text()}, where the study has {_text(before[name])}")
    if lines:
        raise UserError(
            f"the study {study.study_name} can't go on with other choices or another kind of a parameter, which Optuna "
            "keeps for all trials of a study. Give this search a name of its own by --study NAME, or take the edit "
            "back:\n  " + "\n  ".join(lines)
        )


def _text(distribution: BaseDistribution) -> str:
    if isinstance(distribution, FloatDistribution | IntDistribution):
        kind = "int" if isinstance(distribution, IntDistribution) else "uniform"
        return f"{'log_' * distribution.log}{kind} {[distribution.low, distribution.high]}"
    return f"choice {list(getattr(distribution, 'choices', ()))}"


def same_ranges(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Copies of finished trials in which every number has the range that holds the ranges of all of them: what Optuna's
    importance needs where a space was edited between the trials."""
    widest: dict[str, BaseDistribution] = {}
    for name, distribution in ((n, d) for trial in trials for n, d in trial.distributions.items()):
        other = widest.setdefault(name, distribution)
        if isinstance(distribution, FloatDistribution | IntDistribution):
            assert isinstance(other, FloatDistribution | IntDistribution)  # Optuna keeps the kind
            low, high = min(other.low, distribution.low), max(other.high, distribution.high)
            widest[name] = type(distribution)(low=low, high=high, log=distribution.log)  # type: ignore[arg-type]  # int
    copies = [copy(trial) for trial in trials]
    for trial in copies:
        trial.distributions = {name: widest[name] for name in trial.params}
    return copies
