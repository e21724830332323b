"""Verdicts: better or worse only where both intervals say so, in words that mislead nobody."""

import math
from pathlib import Path

import pytest

from tests.tune.evidence.test_tables import ablation
from tune.evidence.stats import NO_INTERVAL, Interval
from tune.evidence.tables import Difference
from tune.evidence.verdict import Verdict, bound_line, share_of_bound, verdict
from tune.space.sections import UPPER_BOUND

SURE, UNSURE = (0.01, 0.03), (-0.01, 0.03)


def made(seeds: tuple[float, float], images: tuple[float, float], value: float = 0.02, number: int = 3) -> Verdict:
    difference = Difference(Interval(value, *seeds), 0.01, Interval(value, *images), 0.04)
    return Verdict("chosen", "plain CAM", number, {"val/miou": difference})


@pytest.mark.parametrize(
    ("seeds", "images", "word"),
    [
        (SURE, SURE, "better"),
        (SURE, UNSURE, "no difference shown"),
        (UNSURE, SURE, "no difference shown"),
        (UNSURE, UNSURE, "no difference shown"),
    ],
)
def test_a_difference_counts_where_both_intervals_exclude_zero(
    seeds: tuple[float, float], images: tuple[float, float], word: str
) -> None:
    assert made(seeds, images).word == word and word in made(seeds, images).sentence


def test_a_reference_may_be_better() -> None:
    below = (-0.03, -0.01)
    assert made(below, below, -0.02).sentence == "chosen is worse than plain CAM in segmentation, val, 3 seeds"


def test_one_seed_shows_nothing() -> None:
    one = Verdict(
        "a", "b", 1, {"val/miou": Difference(Interval(0.5, math.nan, math.nan), math.nan, NO_INTERVAL, math.nan)}
    )
    assert one.word == "no difference shown" and "one seed can show no difference" in one.sentence
    assert "95 % over seeds -" in one.lines()[1]


def test_without_a_common_number_that_is_said() -> None:
    assert "no number in common" in Verdict("a", "b", 0, {}).sentence


def test_the_verdict_on_an_ablation_is_on_its_last_stage(tmp_path: Path) -> None:
    numbers = ablation(tmp_path, {"full": 0.1, "less": 0.3})
    arm = next(arm for arm in numbers["arms"] if arm != numbers["reference"])
    both = verdict(numbers, arm, numbers["reference"]), verdict(numbers, numbers["reference"], arm)
    assert next(iter(both[0].rows)).startswith(("val/", "pseudo_train/", "seed_val/"))
    values = [next(iter(v.rows.values())).seeds.value for v in both]
    assert values[0] == pytest.approx(-values[1]), "the other way round"


def test_the_share_of_the_upper_bound() -> None:
    def runs(*values: float) -> dict:
        return {"runs": [{"seed": i, "metrics": {"val/miou": v}} for i, v in enumerate(values)]}

    numbers = {"arms": {"chosen": runs(0.4, 0.6), UPPER_BOUND: runs(0.8, 0.8)}}
    assert share_of_bound(numbers, ["chosen", UPPER_BOUND]) == {"chosen": pytest.approx(0.625)}
    line = bound_line(numbers)
    assert line is not None and line.endswith("chosen 62 %")
    assert bound_line({"arms": {"chosen": runs(0.4)}}) is None
