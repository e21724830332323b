"""How much each parameter mattered: Optuna's fANOVA over complete trials, and over the searches inside them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.importance import FanovaImportanceEvaluator
from optuna.trial import FrozenTrial, create_trial

from tune.space.parameter import encode
from tune.study.edit import same_ranges

LEAST = 4
"""Trials below which nothing is said."""
STEADY = 20
"""Trials below which the shares still move from one to the next."""


@dataclass(frozen=True)
class Share:
    """How much one parameter mattered."""

    value: float
    """Part of the variance that parameters explain, in [0, 1]."""
    trials: int
    """Number of trials that have the parameter, among which it is judged."""


def inner_of(trial: FrozenTrial) -> list[dict[str, Any]]:
    """Evaluations of the search inside a trial (`tune.study.trial.search_inner`), the published values first; []
    without one."""
    return trial.user_attrs.get("inner") or []


def shares(trials: Iterable[FrozenTrial]) -> dict[str, Share]:
    """Each parameter's share of the variance of the trials' values, the largest first.

    fANOVA (Hutter et al., ICML 2014) as Optuna has it, seeded. PED-ANOVA, Optuna's default, knows conditional
    parameters, but with fewer than about 30 trials it held a parameter without any effect as important as the
    strongest one.

    Returns:
        Empty where fewer than `LEAST` trials have a value, or all have the same. A parameter that never varied has no
        share.
    """
    done = [t for t in trials if t.value is not None and math.isfinite(t.value)]
    common = [name for name in (done[0].params if done else {}) if all(name in t.params for t in done)]
    result = {name: Share(value, len(done)) for name, value in _fanova(done, common).items()}
    for name in dict.fromkeys(name for t in done for name in t.params if name not in common):
        having = [t for t in done if name in t.params]
        if (value := _fanova(having, [*common, name]).get(name)) is not None:
            result[name] = Share(value, len(having))
    return dict(sorted(result.items(), key=lambda item: -item[1].value))


def _fanova(trials: Sequence[FrozenTrial], names: Sequence[str]) -> dict[str, float]:
    varied = [name for name in names if len({str(t.params[name]) for t in trials}) > 1]
    if len(trials) < LEAST or len({t.value for t in trials}) < 2 or not varied:
        return {}
    study = optuna.create_study(direction="maximize")
    study.add_trials(same_ranges(trials))
    result = FanovaImportanceEvaluator(seed=0).evaluate(study, params=varied)
    total = sum(result.values())
    return {name: float(value / total) for name, value in result.items()} if total > 0 else {}


def inner_trials(trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
    """The evaluations of all inner searches as trials of one study; each value is taken relative to the mean of its
    own trial, so the outer search's effect is not counted."""
    pool = [
        (entry["values"], entry["first"] - statistics.mean(e["first"] for e in inner_of(trial)))
        for trial in trials
        for entry in inner_of(trial)
    ]
    names = dict.fromkeys(name for values, _ in pool for name in values)
    ranges = {name: _range([values[name] for values, _ in pool if name in values]) for name in names}
    return [
        create_trial(
            params={n: float(v) if isinstance(ranges[n], FloatDistribution) else encode(v) for n, v in values.items()},
            distributions={name: ranges[name] for name in values},
            value=value,
        )
        for values, value in pool
    ]


def is_numeric(values: Iterable[Any]) -> bool:
    """Whether all values are numbers, and none is a truth value."""
    return all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)


def _range(values: Sequence[Any]) -> BaseDistribution:
    if is_numeric(values):
        return FloatDistribution(min(values), max(values))
    return CategoricalDistribution(list(dict.fromkeys(encode(v) for v in values)))
