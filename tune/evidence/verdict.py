"""What a comparison says: an arm against a reference in a few lines, the same for a search and for an ablation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sfc.scoring.names import PARTS
from tune.evidence.stats import Interval
from tune.evidence.tables import Difference, Numbers, differences, heading, mean, ran
from tune.space.sections import UPPER_BOUND

JUDGED = ("val", "pseudo_train", "seed_val")
"""Prefixes of the numbers that a verdict may be about: the first that both arms have."""
Word = Literal["better", "worse", "no difference shown"]


@dataclass(frozen=True)
class Verdict:
    """An arm against a reference."""

    arm: str
    reference: str
    seeds: int
    """Seeds that both have."""
    rows: dict[str, Difference]
    """By number, such as `val/miou_tail`; the first is the one that the verdict is about."""

    @property
    def word(self) -> Word:
        """Better or worse where the intervals over seeds and over images both exclude zero."""
        if not self.rows:
            return "no difference shown"
        first = next(iter(self.rows.values()))
        if not (first.seeds.excludes_zero and first.images.excludes_zero):
            return "no difference shown"
        return "better" if first.seeds.value > 0 else "worse"

    @property
    def sentence(self) -> str:
        """The verdict in one sentence."""
        if not self.rows:
            return f"{self.arm} against {self.reference}: they have no number in common"
        about = heading(next(iter(self.rows)))
        if self.seeds < 2:
            return f"{self.arm} against {self.reference}: one seed can show no difference in {about}"
        if self.word == "no difference shown":
            return f"{self.arm} against {self.reference}: no difference shown in {about}, {self.seeds} seeds"
        return f"{self.arm} is {self.word} than {self.reference} in {about}, {self.seeds} seeds"

    def lines(self) -> list[str]:
        """The sentence, then a line for each number, in points of mIoU."""
        return [self.sentence, *(f"  {heading(name)}: {text(d)}" for name, d in self.rows.items())]


def interval(value: Interval) -> str:
    """`-0.4 to +3.0` in points; a dash where there is none."""
    return f"{100 * value.low:+.1f} to {100 * value.high:+.1f}" if math.isfinite(value.low) else "-"


def text(difference: Difference) -> str:
    """A difference with both intervals, in points."""
    return (
        f"{100 * difference.seeds.value:+.1f} points, 95 % over seeds {interval(difference.seeds)}, "
        f"over images {interval(difference.images)}"
    )


def verdict(numbers: Numbers, arm: str, reference: str) -> Verdict:
    """An arm against a reference of the same numbers: mIoU and tail of each stage that both have, the last stage first.

    Args:
        numbers: of an ablation or a comparison, with folders that hold the counts of each image.
        arm, reference: two of its arms.
    """
    rows: dict[str, Difference] = {}
    for stage in JUDGED:
        if stage == JUDGED[-1] and rows:
            break  # seeds are on the way to what is there
        common = differences(numbers, stage, arm, reference)
        rows |= {f"{stage}/miou{part}": common[part] for part in ("", PARTS[-1]) if part in common}
    both = ran(numbers, arm).keys() & ran(numbers, reference).keys()
    return Verdict(arm, reference, len(both), rows)


def share_of_bound(numbers: Numbers, arms: Sequence[str]) -> dict[str, float]:
    """What part each arm reaches of the segmentation mIoU that the true masks as labels give; empty without these."""
    bound = mean(numbers, UPPER_BOUND, "val/miou") if UPPER_BOUND in numbers["arms"] else math.nan
    shares = {arm: mean(numbers, arm, "val/miou") / bound for arm in arms if arm != UPPER_BOUND} if bound else {}
    return {arm: value for arm, value in shares.items() if math.isfinite(value)}


def bound_line(numbers: Numbers) -> str | None:
    """The shares in one line of text."""
    shares = share_of_bound(numbers, list(numbers["arms"]))
    if not shares:
        return None
    parts = ", ".join(f"{arm} {100 * value:.0f} %" for arm, value in shares.items())
    return f"of the segmentation mIoU that the true masks as labels give (full supervision): {parts}"
