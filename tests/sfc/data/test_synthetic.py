"""The generated data set: its properties, not its looks."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from sfc.config import Data, Synthetic
from sfc.data import Dataset, open_dataset
from sfc.data.synthetic import class_names, generate, sample

SECTION = Synthetic(size=32, groups=2, train=6, select=2, val=2)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_seed_gives_the_same_files_and_another_seed_others(tmp_path: Path) -> None:
    one, two = (contents(generate(SECTION, tmp_path / name)) for name in "ab")
    assert one == two
    other = contents(generate(SECTION.model_copy(update={"seed": 1}), tmp_path))
    assert other.keys() == one.keys()
    images = [name for name in one if name.startswith("JPEGImages")]
    assert len(images) == 10 and all(other[name] != one[name] for name in images)


def test_splits_share_no_image_and_an_image_does_not_depend_on_how_many_there_are() -> None:
    section = SECTION.model_copy(update={"select": 6, "val": 6})
    splits = [[image.tobytes() for image, _ in sample(section, split)] for split in ("train", "select", "val")]
    assert len({image for split in splits for image in split}) == 18
    more = [image.tobytes() for image, _ in sample(section.model_copy(update={"train": 9}), "train")]
    assert more[:6] == splits[0]


@pytest.mark.parametrize("groups", [2, 5, 6])
def test_images_and_masks_have_the_promised_form(groups: int) -> None:
    section = Synthetic(size=40, groups=groups, train=12)
    for image, mask in sample(section, "train"):
        assert image.shape == (40, 40, 3) and image.dtype == np.uint8 and image.std() > 0
        assert mask.shape == (40, 40) and mask.dtype == np.uint8 and mask.max() <= 2 * groups
        assert (mask > 0).any() and (mask == 0).any()
    assert len(set(class_names(groups))) == 2 * groups


def test_labels_are_the_classes_of_the_mask(tiny: Dataset) -> None:
    for name in tiny.split_names():
        split = tiny.split(name)
        assert split.has_masks
        for label, image in zip(split.labels, split.ids, strict=True):
            mask = tiny.mask(image)
            assert (np.flatnonzero(label) + 1).tolist() == [v for v in np.unique(mask) if v]
            assert mask.shape[::-1] == tiny.image(image).size
    assert tiny.label_source == "csv" and tiny.split_names() == ["select", "train", "val"]


def test_the_set_reads_back_as_it_was_drawn(tiny: Dataset) -> None:
    section = Synthetic(size=32, groups=2, train=12, select=4, val=4)
    for name, (image, mask) in zip(tiny.split("val").ids, sample(section, "val"), strict=True):
        assert np.array_equal(np.asarray(tiny.image(name)), image) and np.array_equal(tiny.mask(name), mask)


def test_the_tail_is_long_and_lies_in_the_second_classes_of_the_pairs() -> None:
    groups = Synthetic().groups
    section = Synthetic()
    counts = np.zeros(2 * groups, np.int64)
    for _, mask in sample(section, "train"):
        counts[np.unique(mask[mask > 0]) - 1] += 1
    assert counts.min() > 0 and counts.max() >= 5 * counts.min()
    assert (counts[:groups] > counts[groups:]).all()


def test_it_is_generated_once(tmp_path: Path) -> None:
    folder = generate(SECTION, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert generate(SECTION, tmp_path) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_other_settings_get_another_folder(tmp_path: Path) -> None:
    others = [SECTION.model_copy(update=change) for change in ({"size": 33}, {"groups": 3}, {"train": 7}, {"seed": 2})]
    assert len({generate(section, tmp_path) for section in [SECTION, *others]}) == 5


def test_what_an_interrupted_run_left_is_replaced(tmp_path: Path) -> None:
    folder = generate(SECTION, tmp_path)
    whole = contents(folder)
    partial = folder.rename(folder.with_suffix(".partial"))
    (partial / "JPEGImages" / "train_00000.png").write_bytes(b"half")
    (partial / "stray").touch()
    assert generate(SECTION, tmp_path) == folder
    assert contents(folder) == whole and not partial.exists()


def test_the_rows_of_labels_are_a_csv(tmp_path: Path) -> None:
    folder = generate(SECTION, tmp_path)
    with (folder / "image_labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 10 and set(rows[0]) == {"image", "labels"}


def test_the_configured_set_is_opened(tmp_path: Path) -> None:
    data = open_dataset(Data(root=str(tmp_path), synthetic=SECTION))
    assert data.classes == tuple(class_names(2)) and len(data.split("train")) == 6
