"""Names of the numbers that a run reports: the stage and the split behind each, and its title. Imports no torch.

A number is called `PREFIX/NAME`, such as `seed/best_miou_tail`: the prefix says what was measured, `best_` marks a
background threshold tuned on the same masks, and a part such as `_tail` limits the mean to a third of the classes.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from sfc.config import Data

PARTS = ("", "_head", "_middle", "_tail")
"""All classes, then thirds of the foreground classes by their number of training images."""


class Measure(NamedTuple):
    """Origin of the numbers under one prefix: a title for tables, the stage, and the split by its name in `data`."""

    title: str
    stage: str
    split: Literal["train", "select", "val"]


MEASURES = {
    "seed": Measure("seeds", "seeds", "select"),
    "seed_val": Measure("seeds", "seeds", "val"),
    "proxy": Measure("objectives without masks", "proxies", "select"),
    "pseudo": Measure("pseudo-labels", "labels", "select"),
    "pseudo_train": Measure("pseudo-labels", "labels", "train"),
    "segmentation": Measure("segmentation", "evaluation", "select"),
    "val": Measure("segmentation", "evaluation", "val"),
}
"""By prefix, in the order of the stages."""


def prefix_of(name: str) -> str:
    """`seed/best_miou` -> `seed`."""
    return name.partition("/")[0]


def split_of(name: str, data: Data) -> str:
    """The split on which a number is measured, by the number's name or prefix; a user's own metric is on select."""
    measure = MEASURES.get(prefix_of(name))
    return str(getattr(data, measure.split if measure else "select"))


def title_of(name: str) -> str:
    """`pseudo_train/miou` -> `pseudo-labels, train`: the object of the measurement and the role of the split."""
    measure = MEASURES.get(prefix_of(name))
    return f"{measure.title}, {measure.split}" if measure else name
