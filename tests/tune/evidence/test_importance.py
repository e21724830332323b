"""Importance: what was built to matter comes first, and what can't be judged is left out."""

import math
from typing import Any

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from tune.evidence.importance import inner_trials, shares
from tune.study.study import values_of

UNIT = FloatDistribution(0, 1)
SPACES = {"strong": UNIT, "weak": UNIT, "rare": UNIT, "kind": CategoricalDistribution(["a", "[0.5]"])}


def trial(value: float, params: dict[str, Any], **attrs: Any) -> FrozenTrial:
    return create_trial(
        state=TrialState.COMPLETE,
        value=value,
        params=params,
        distributions={name: SPACES[name] for name in params},
        user_attrs=attrs,
    )


def some(count: int) -> list[FrozenTrial]:
    """`strong` moves the value a hundred times as far as `weak`; `rare` is in every third; `kind` never changes."""
    rng, made = np.random.default_rng(0), []
    for i in range(count):
        strong, weak, rare = rng.random(3)
        params = {"strong": strong, "weak": weak, "kind": "a"} | ({"rare": rare} if i % 3 == 0 else {})
        made.append(trial(strong + 0.01 * weak, params))
    return made


def test_what_matters_comes_first() -> None:
    found = shares(some(15))
    assert next(iter(found)) == "strong" and found["strong"].value > 0.7
    assert found["strong"].trials == 15
    assert math.isclose(sum(s.value for s in found.values() if s.trials == 15), 1)


def test_a_conditional_parameter_is_judged_among_its_own_trials() -> None:
    found = shares(some(15))
    assert found["rare"].trials == 5
    assert "rare" not in shares(some(9))  # three trials have it


def test_what_was_never_varied_has_no_share() -> None:
    assert "kind" not in shares(some(15))


@pytest.mark.parametrize("trials", [[], some(3), [trial(0.5, {"strong": x}) for x in (0.1, 0.2, 0.3, 0.4, 0.5)]])
def test_too_few_trials_or_none_that_differ_give_nothing(trials: list[FrozenTrial]) -> None:
    assert shares(trials) == {}


def test_inner_evaluations_are_compared_within_their_trial() -> None:
    rng, trials = np.random.default_rng(0), []
    for level in (0.1, 0.9, 0.5):
        inner = [
            {"values": {"strong": x, "kind": kind}, "first": level + 0.1 * x}
            for x, kind in zip(rng.random(6), [[0.5], "a", None] * 2, strict=True)
        ]
        trials.append(trial(level, {"weak": level}, inner=inner, settings={"weak": level, "strong": 1.0}))
    pooled = inner_trials(trials)
    assert len(pooled) == 18 and abs(sum(t.value for t in pooled)) < 1e-9
    assert max(abs(t.value) for t in pooled) < 0.1
    assert next(iter(shares(pooled))) == "strong"
    assert values_of(trials[0])["strong"] == 1.0 and values_of(some(1)[0])["kind"] == "a"
    assert inner_trials(some(3)) == []
