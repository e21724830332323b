"""The choice among leading trials: right more often than the best single number, where numbers are noisy."""

import numpy as np

from tune.runs.confirm import choose
from tune.space.sections import Round

NOISE = 0.05
"""Deviation over seeds of a made-up objective, of the size that seed mIoU has on the default set."""
TRIALS = 20


def search(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """True values of trials that differ by as much as the noise, and their single numbers from the search."""
    true = rng.normal(0.6, NOISE, TRIALS)
    return true, true + rng.normal(0, NOISE, TRIALS)


def confirmed(true: np.ndarray, single: np.ndarray, rounds: tuple[Round, ...], rng: np.random.Generator) -> int:
    """The trial that the rounds choose; further seeds of a trial have the same noise."""
    numbers = true[:, None] + rng.normal(0, NOISE, (TRIALS, rounds[-1].seeds))

    def measure(number: int, step: Round, some: list[int]) -> list[float]:
        return [float(numbers[i, : step.seeds].mean()) for i in some]

    chosen = choose([int(i) for i in np.argsort(-single)], rounds, measure)
    assert chosen is not None
    return chosen


def test_the_confirmed_choice_is_right_more_often_than_the_best_single_trial() -> None:
    rng, rounds = np.random.default_rng(0), (Round(trials=6, seeds=2), Round(trials=3, seeds=4))
    right, lost = np.zeros(2), np.zeros(2)
    for _ in range(2000):
        true, single = search(rng)
        picks = (int(np.argmax(single)), confirmed(true, single, rounds, rng))
        right += [true[pick] == true.max() for pick in picks]
        lost += [true.max() - true[pick] for pick in picks]
    assert right[1] > right[0] + 0.15 * 2000, "15 points of a hundred searches more"
    assert lost[1] < 0.6 * lost[0], "and what is lost against the best is less by far"


def test_numbers_that_are_missing_choose_nothing_and_the_others_do() -> None:
    def measure(number: int, step: Round, some: list[str]) -> list[float]:
        return [{"a": float("nan"), "b": 0.3, "c": 0.2}[name] for name in some]

    rounds = (Round(trials=3, seeds=1),)
    assert choose(["a", "b", "c"], rounds, measure) == "b"
    assert choose(["a"], rounds, measure) is None


def test_a_round_that_was_cut_short_leaves_the_choice_of_the_one_before() -> None:
    def measure(number: int, step: Round, some: list[str]) -> list[float] | None:
        return [0.1, 0.9] if number == 1 else None

    assert choose(["a", "b"], (Round(trials=2, seeds=1), Round(trials=2, seeds=2)), measure) == "b"
    assert choose(["a", "b"], (Round(trials=2, seeds=1),), lambda *_: None) is None
