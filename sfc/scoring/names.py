"""Names of the numbers that a run reports: the stage and the split behind each, and its title. Imports no torch.

A number is called `PREFIX/NAME`, such as `seed/best_miou_tail`: the prefix says what was measured, `best_` marks a
background threshold tuned on the same masks, and a part such as `_tail` limits the mean to a third of the classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sfc.config import Data

PARTS = ("", "_head", "_middle", "_tail")
"""All classes, then thirds of the foreground classes by their number of training images."""


@dataclass(frozen=True)
class Measure:
    """What the numbers under one prefix are measured on."""

    title: str
    """For tables and pages."""
    stage: str
    """Stage that writes them."""
    split: Literal["train", "select", "val"]
    """Setting of the section `data` that names the split."""


MEASURES = {
    "seed": Measure("seeds", "seeds", "select"),
    "seed_val": Measure("seeds", "seeds", "val"),
    "proxy": Measure("objectives without masks", "proxies", "select"),
    "pseudo": Measure("pseudo-labels", "labels", "train"),
    "val": Measure("segmentation", "evaluation", "val"),
}
"""By prefix, in the order of the stages."""


def prefix_of(name: str) -> str:
    """`seed/best_miou` -> `seed`."""
    return name.partition("/")[0]


def split_of(name: str, data: Data) -> str:
    """The split on which a number is measured, from its name or prefix alone; one of the user's own is on select."""
    measure = MEASURES.get(prefix_of(name))
    return str(getattr(data, measure.split if measure else "select"))


def title_of(name: str) -> str:
    """`pseudo/miou` -> `pseudo-labels, train`: what was measured, and the role of the split."""
    measure = MEASURES.get(prefix_of(name))
    return f"{measure.title}, {measure.split}" if measure else name
