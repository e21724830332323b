"""COCO 2014 and 2017, from small trees in the official layout."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sfc.config import Data
from sfc.data import open_dataset
from sfc.data.check import PublishedCounts, compare
from sfc.data.coco import PUBLISHED, CocoImage, prepare_coco, read_instances, render
from sfc.data.images import VOID
from sfc.errors import UserError
from tests.sfc.data.conftest import SHAPE, box, runs

Root = Callable[..., Path]
SMALL = PublishedCounts(3, {"train": 2, "train_all": 3, "val": 1, "val_all": 2})


def painted(*annotations: dict) -> np.ndarray:
    listed = [{"id": i, "iscrowd": 0, **annotation} for i, annotation in enumerate(annotations)]
    return render(CocoImage("a.jpg", *SHAPE, listed), {1: 1, 3: 2, 10: 3})


def region(*boxes: tuple[int, int, int, int]) -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    for top, left, bottom, right in boxes:
        mask[top:bottom, left:right] = True
    return mask


def refusal(root: Path) -> str:
    with pytest.raises(UserError) as caught:
        prepare_coco(root, 2017)
    assert not (root / "prepared" / "coco17").exists()
    return str(caught.value)


def rewrite(root: Path, change: Callable[[dict], None]) -> None:
    path = root / "annotations" / "instances_train2017.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_the_years_divide_the_same_images() -> None:
    for all_ in ("", "_all"):
        sums = {PUBLISHED[year].images[f"train{all_}"] + PUBLISHED[year].images[f"val{all_}"] for year in PUBLISHED}
        assert len(sums) == 1


@pytest.mark.parametrize("year", [2014, 2017])
def test_splits_labels_and_classes(coco_root: Root, year: int) -> None:
    root = coco_root(year=year)
    prepare_coco(root, year)
    data = open_dataset(Data(format=f"coco{year % 100}", root=str(root), select="train"))
    assert data.classes == ("person", "car", "traffic_light") and data.label_source == "csv"
    numbers = {name: [int(i[-12:]) for i in data.ids(name)] for name in data.split_names()}
    assert numbers == {"train": [1, 2], "train_all": [1, 2, 3], "val": [4], "val_all": [4, 5]}
    assert data.split("train_all").labels.tolist() == [[1, 0, 0], [1, 0, 1], [0, 0, 0]]
    assert all(data.split(name).has_masks for name in numbers)
    assert not data.mask(data.ids("train_all")[2]).any()


def test_a_smaller_region_lies_in_front_whatever_the_order() -> None:
    large, small = (
        {"category_id": 1, "segmentation": box(0, 0, 6, 6)},
        {"category_id": 3, "segmentation": box(1, 1, 3, 3)},
    )
    expected = np.zeros(SHAPE, np.uint8)
    expected[region((0, 0, 6, 6))], expected[region((1, 1, 3, 3))] = 1, 2
    assert np.array_equal(painted(large, small), expected) and np.array_equal(painted(small, large), expected)


def test_of_equally_large_regions_the_lower_id_lies_in_front() -> None:
    first, second = ({"category_id": c, "segmentation": box(0, x, 2, x + 2)} for c, x in ((1, 0), (3, 1)))
    assert painted(first, second)[0, :4].tolist() == [1, 1, 2, 0]
    assert painted(second, first)[0, :4].tolist() == [1, 2, 2, 0]


def test_a_crowd_is_void_behind_what_is_smaller_and_in_front_of_what_is_larger() -> None:
    crowd = {"category_id": 1, "iscrowd": 1, "segmentation": runs(region((0, 0, 4, 4)))}
    person = {"category_id": 1, "segmentation": box(0, 0, 2, 2)}
    table = {"category_id": 3, "segmentation": box(0, 0, 6, 8)}
    assert (painted(crowd)[region((0, 0, 4, 4))] == VOID).all() and (painted(crowd) == VOID).sum() == 16
    mask = painted(crowd, person, table)
    assert (mask[:2, :2] == 1).all() and mask[3, 3] == VOID and mask[5, 7] == 2


def test_run_lengths_and_several_polygons_agree() -> None:
    shape = region((0, 0, 2, 2), (3, 4, 6, 8))
    for form in (runs(shape), box(0, 0, 2, 2) + box(3, 4, 6, 8)):
        assert np.array_equal(painted({"category_id": 10, "segmentation": form}), shape * 3)


@pytest.mark.parametrize("segmentation", [[], [[]], [[1, 1, 4, 4]]])
def test_polygons_of_fewer_than_three_points_cover_nothing(segmentation: list) -> None:
    assert not painted({"category_id": 1, "segmentation": segmentation}).any()


@pytest.mark.parametrize(
    "segmentation",
    [
        {"size": [3, 3], "counts": [0, 9]},
        {"size": [6, 8], "counts": [0, 4800]},
        {"counts": [1]},
        None,
        [["x"] * 6],
        {"size": [6, 8], "counts": "zzzz"},
    ],
)
def test_a_region_that_can_not_be_read_is_named(segmentation: object) -> None:
    with pytest.raises(UserError, match=r"a\.jpg: the region of annotation 0"):
        painted({"category_id": 1, "segmentation": segmentation})


def test_a_crowd_counts_as_a_label(coco_root: Root) -> None:
    root = coco_root(
        {
            1: [{"category_id": 3, "iscrowd": 1, "segmentation": runs(region((0, 0, 6, 8)))}],
            4: [{"category_id": 1, "segmentation": box(0, 0, 2, 2)}],
        }
    )
    prepare_coco(root, 2017)
    data = open_dataset(Data(format="coco17", root=str(root), select="train"))
    assert data.split("train").labels.tolist() == [[0, 1, 0]]  # one image, one class, and no pixel that shows it
    assert set(np.unique(data.mask(data.ids("train")[0]))) == {VOID}


@pytest.mark.parametrize("part", [0.0, 0.5, 0.99])
def test_a_json_that_is_cut_short_is_named(coco_root: Root, part: float) -> None:
    root = coco_root()
    path = root / "annotations" / "instances_val2017.json"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * part)])
    message = refusal(root)
    assert str(path) in message and "cut short" in message


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.pop("categories"), "KeyError: 'categories'"),
        (lambda c: c["images"][0].pop("height"), "'height'"),
        (lambda c: c["annotations"][0].update(image_id=99), "unknown image_id 99"),
        (lambda c: c["annotations"][0].update(category_id=99), "unknown category_id 99"),
        (lambda c: c.update(images=3), "not an instances file"),
        (lambda c: c["categories"].pop(), "different categories"),
        (
            lambda c: c["images"][0].update(file_name="elsewhere/000000000004.png"),
            "1 images have the name of another",
        ),
    ],
)
def test_a_json_of_another_form_is_named(coco_root: Root, change: Callable[[dict], None], words: str) -> None:
    root = coco_root(
        {
            4: [{"category_id": 1, "segmentation": box(0, 0, 2, 2)}],
            1: [{"category_id": 1, "segmentation": box(0, 0, 2, 2)}],
        }
    )
    rewrite(root, change)
    assert words in refusal(root)


def test_a_json_that_is_a_list_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[]")
    with pytest.raises(UserError, match="not an instances file"):
        read_instances(tmp_path / "a.json")


def test_all_missing_parts_are_listed(coco_root: Root) -> None:
    root = coco_root()
    shutil.rmtree(root / "val2017")
    (root / "annotations" / "instances_train2017.json").unlink()
    message = refusal(root)
    assert "\n  val2017" in message and "\n  annotations/instances_train2017.json" in message


def test_images_that_are_missing_are_counted_and_named_and_may_come_later(coco_root: Root) -> None:
    root = coco_root()
    aside = (root / "train2017" / "000000000002.jpg").rename(root / "aside.jpg")
    folder = prepare_coco(root, 2017)
    problems = compare(folder, SMALL).problems
    assert problems == [
        f"split {split}: 1 of {n} images are missing: 000000000002" for split, n in (("train", 2), ("train_all", 3))
    ]
    with pytest.raises(UserError, match="1 of 2 images of the split train"):
        open_dataset(Data(format="coco17", root=str(root), select="train")).split("train")
    aside.rename(root / "train2017" / "000000000002.jpg")
    assert prepare_coco(root, 2017) == folder and compare(folder, SMALL).problems == []


def test_every_difference_is_listed(coco_root: Root) -> None:
    problems = compare(prepare_coco(coco_root(), 2017), PUBLISHED[2017]).problems
    assert problems == [
        "3 classes, published: 80",
        "split train: 2 images, published: 117,266",
        "split train_all: 3 images, published: 118,287",
        "split val: 1 images, published: 4,952",
        "split val_all: 2 images, published: 5,000",
    ]


def test_a_mask_of_another_size_than_its_image_is_refused(coco_root: Root) -> None:
    root = coco_root()
    rewrite(root, lambda c: [image.update(width=9) for image in c["images"]])
    prepare_coco(root, 2017)
    data = open_dataset(Data(format="coco17", root=str(root), select="train"))
    with pytest.raises(UserError, match=r"9 x 6, its image is 8 x 6"):
        data.mask(data.ids("train")[0])


def test_preparing_again_changes_nothing_and_other_annotations_are_prepared_anew(coco_root: Root) -> None:
    root = coco_root()
    folder = prepare_coco(root, 2017)
    before = {path: path.lstat().st_mtime_ns for path in folder.rglob("*")}
    assert prepare_coco(root, 2017) == folder
    assert {path: path.lstat().st_mtime_ns for path in folder.rglob("*")} == before
    rewrite(root, lambda c: c["annotations"].pop())
    prepare_coco(root, 2017)
    assert (folder / "image_labels.csv").read_text().splitlines()[2] == "000000000002,traffic_light"


def test_an_interrupted_preparation_goes_on_with_the_masks_that_are_missing(coco_root: Root) -> None:
    root = coco_root()
    folder = prepare_coco(root, 2017)
    partial = folder.rename(folder.with_suffix(".partial"))
    kept, gone = (partial / "SegmentationClass" / f"{i:012d}.png" for i in (1, 2))
    stamp = kept.stat().st_mtime_ns
    gone.unlink()
    (partial / "image_labels.csv").write_text("half")
    assert prepare_coco(root, 2017) == folder and not partial.exists()
    assert (folder / "SegmentationClass" / kept.name).stat().st_mtime_ns == stamp
    assert compare(folder, SMALL).problems == []


def test_what_other_annotations_left_half_done_is_replaced(coco_root: Root) -> None:
    root = coco_root()
    folder = prepare_coco(root, 2017)
    partial = folder.rename(folder.with_suffix(".partial"))
    (partial / "SegmentationClass" / "stray.png").touch()
    rewrite(root, lambda c: c["annotations"].pop())
    prepare_coco(root, 2017)
    assert not (folder / "SegmentationClass" / "stray.png").exists()
