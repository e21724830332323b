"""An edited space file on a study that exists: what changed, what can't change, and trials of before and after it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution, check_distribution_compatibility
from optuna.trial import FrozenTrial, create_trial

from sfc.errors import UserError
from tune.space.sections import SpaceFile
from tune.space.space_file import Space


def leaves(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as `section.key` and value."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """Name, old and new value of each setting in which two nested dictionaries differ; `-` where one lacks it."""
    old, new = leaves(before), leaves(now)
    pairs = [(name, old.get(name, "-"), new.get(name, "-")) for name in dict.fromkeys([*old, *new])]
    return [(name, was, is_now) for name, was, is_now in pairs if was != is_now]


def edits(before: SpaceFile, now: SpaceFile) -> list[str]:
    """A line for each difference between two versions of a space file; base and objective are not looked at."""
    lines = []
    for name in dict.fromkeys([*before.parameters, *now.parameters]):
        was, is_now = (file.parameters.get(name) for file in (before, now))
        if was != is_now:
            texts = [parameter.text() if parameter else "not searched" for parameter in (was, is_now)]
            lines.append(f"{name}: {texts[0]} -> {texts[1]}")
    old, new = (file.model_dump(mode="json", exclude={"parameters", "base", "objective"}) for file in (before, now))
    for name, was, is_now in differences(old, new):
        section, _, key = name.partition(".")
        lines.append(f"{f'published {key}' if section == 'published' else name}: {was} -> {is_now}")
    return lines


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
            widest[name] = type(distribution)(low=low, high=high, log=distribution.log)  # type: ignore[arg-type]
    return [
        create_trial(
            state=trial.state,
            value=trial.value,
            params=trial.params,
            distributions={name: widest[name] for name in trial.params},
            user_attrs=trial.user_attrs,
        )
        for trial in trials
    ]
