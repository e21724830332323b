"""Opening a data section: which folder it means, and that no image both trains or selects and reports."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sfc.config import Data, plugins
from sfc.config.files import build_config
from sfc.data import open_dataset
from sfc.data.check import check_data
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


PLUGIN = '''
"""A format of one's own: all images, masks and labels in one .npz."""
from pathlib import Path

import numpy as np
from PIL import Image


def open_npz(section):
    source = Path(section.root)
    folder = source.with_suffix("")
    if folder.is_dir():
        return folder
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (folder / name).mkdir(parents=True)
    with np.load(source) as arrays:
        for i, (image, mask) in enumerate(zip(arrays["images"], arrays["masks"])):
            Image.fromarray(image).save(folder / "JPEGImages" / f"{i}.png")
            Image.fromarray(mask).save(folder / "SegmentationClass" / f"{i}.png")
        for split in ("train", "val"):
            names = "".join(f"{i}\\n" for i in arrays[split])
            (folder / "ImageSets" / "Segmentation" / f"{split}.txt").write_text(names)
    (folder / "classes.txt").write_text("cat\\ndog\\n")
    return folder


def fails(section):
    raise ValueError("no such archive")


def text(section):
    return section.root


def nowhere(section):
    return Path(section.root) / "nowhere"
'''


@pytest.fixture
def own_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module own_npz in the current folder, and an .npz of three images; returns the latter."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(plugins, "_allowed", set())
    monkeypatch.delitem(sys.modules, "own_npz", raising=False)
    (tmp_path / "own_npz.py").write_text(PLUGIN)
    masks = np.zeros((3, 4, 6), np.uint8)
    masks[0, 0], masks[1, 0], masks[2, 0] = 1, 2, 255
    images = np.full((3, 4, 6, 3), 9, np.uint8)
    np.savez(tmp_path / "photos.npz", images=images, masks=masks, train=[0, 1], val=[2])
    return tmp_path / "photos.npz"


def test_a_format_of_one_s_own_gives_a_folder_that_is_read_as_every_other(own_format: Path, tmp_path: Path) -> None:
    plugins.allow("own_npz:open_npz")
    mine = section(own_format, format="own_npz:open_npz", select="train")
    data = open_dataset(mine, cache=tmp_path / "cache")
    assert data.split("train").labels.tolist() == [[1, 0], [0, 1]] and data.split("val").has_masks
    assert check_data(data, mine).problems == []
    assert open_dataset(mine).split("train").fingerprint == data.split("train").fingerprint
    with pytest.raises(UserError, match=r"data\.train: the split val has 1 images of val"):
        open_dataset(mine.model_copy(update={"train": "val"}))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("fails", r"data\.format: own_npz:fails failed: ValueError: no such archive \(.*own_npz\.py:\d+\)"),
        ("text", r"data\.format: own_npz:text must return a folder in VOC layout \(a Path\), not '.*photos\.npz'"),
        ("nowhere", r"there is no folder .*nowhere"),
        ("missing", r"has no missing; it has"),
    ],
)
def test_a_format_of_one_s_own_that_fails_says_so_in_words(own_format: Path, name: str, words: str) -> None:
    plugins.allow(f"own_npz:{name}")
    with pytest.raises(UserError, match=words):
        open_dataset(section(own_format, format=f"own_npz:{name}"))


def test_a_format_that_nobody_allowed_is_not_imported(own_format: Path) -> None:
    with pytest.raises(UserError, match="does not import code by itself"):
        open_dataset(section(own_format, format="own_npz:open_npz"))
    assert "own_npz" not in sys.modules


@pytest.mark.parametrize("name", ["foldr", "", "own_npz", "own_npz:", "a/b:c", "own_npz:a.b"])
def test_an_unknown_format_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(UserError, match="synthetic, folder, voc, coco14, coco17 or module:function"):
        build_config({"data": {"format": name}})
