"""Opening a data section: which folder it means, and that no image both trains or selects and reports."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sfc.config import Data
from sfc.data import open_dataset
from sfc.errors import UserError

Voc = Callable[..., Path]
IMAGES = {name: np.full((4, 6, 3), i, np.uint8) for i, name in enumerate("abcde")}


def section(root: Path, **options) -> Data:
    return Data.model_validate({"format": "folder", "root": str(root)} | options)


@pytest.mark.parametrize(
    ("splits", "words"),
    [
        ({"train": "ab", "val": "bc"}, r"data\.train: the split train has 1 images of val, which reports: b$"),
        ({"train": "abcde", "val": "edcba"}, r"data\.train: .* has 5 images of val, which reports: a, b, c, \.\.\.$"),
        ({"train": "ab", "select": "cd", "val": "de"}, r"data\.select: the split select has 1 images of val.*: d$"),
        ({"train": "ad", "select": "bc", "val": "de"}, r"data\.train: the split train has 1 images of val.*: d$"),
    ],
)
def test_an_image_that_reports_neither_trains_nor_selects(voc: Voc, splits: dict[str, str], words: str) -> None:
    root = voc(IMAGES, csv=dict.fromkeys(IMAGES, "cat"), splits={k: list(v) for k, v in splits.items()})
    with pytest.raises(UserError, match=words):
        open_dataset(section(root))


def test_the_splits_that_the_section_names_count_and_no_others(voc: Voc) -> None:
    splits = {"one": ["a", "b"], "two": ["b", "c"], "three": ["d", "e"], "all": list("abcde")}
    root = voc(IMAGES, csv=dict.fromkeys(IMAGES, "cat"), splits=splits)
    assert open_dataset(section(root, train="one", select="two", val="three")).split("two").ids == ("b", "c")
    with pytest.raises(UserError, match=r"data\.select: the split all has 2 images of three"):
        open_dataset(section(root, train="one", select="all", val="three"))


def test_a_split_that_is_missing_shares_nothing(voc: Voc) -> None:
    root = voc(IMAGES, csv=dict.fromkeys(IMAGES, "cat"), splits={"train": ["a", "b"]})
    assert open_dataset(section(root)).split_names() == ["train"]
