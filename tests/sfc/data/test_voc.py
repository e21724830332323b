"""VOC 2012 with SBD, from small trees in the official layout."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sfc.config import Data
from sfc.data import open_dataset
from sfc.data.check import PublishedCounts
from sfc.data.voc import CLASSES, PUBLISHED, WITH_CLASS, prepare_voc, read_mat, verify_voc
from sfc.errors import UserError
from sfc.method.weighting import distribution_weights
from tests.sfc.data.conftest import SHAPE, write_mat

Root = Callable[..., Path]
SMALL = {"train": 1, "val": 1, "trainval": 2, "train_aug": 4}
COUNTS = dict.fromkeys(CLASSES, 0) | {"cat": 1, "person": 3, "sheep": 1, "boat": 1}
SBD_CLS = "benchmark_RELEASE/dataset/cls"


def opened(root: Path, **options):
    prepare_voc(root)
    return open_dataset(Data(format="voc", root=str(root), train="train_aug", select="train", **options))


def refusal(root: Path) -> str:
    with pytest.raises(UserError) as caught:
        prepare_voc(root)
    assert not (root / "prepared" / "voc").exists()
    return str(caught.value)


def test_the_known_counts_are_those_of_the_method() -> None:
    assert sum(WITH_CLASS.values()) == 16458 and len(CLASSES) == 20 and list(CLASSES) == sorted(CLASSES)
    assert PUBLISHED.images["train"] + PUBLISHED.images["val"] == PUBLISHED.images["trainval"]
    weights = dict(zip(CLASSES, distribution_weights(list(WITH_CLASS.values()), resampling=396), strict=True))
    assert min(weights, key=weights.get) == "bird" and max(weights, key=weights.get) == "cow"


def test_train_aug_is_voc_s_train_and_sbd_without_voc_s_val(voc_root: Root) -> None:
    data = opened(voc_root())
    assert data.ids("train_aug") == ("both", "s_train", "s_val", "v_train")
    assert (data.ids("train"), data.ids("val"), data.ids("trainval")) == (
        ("v_train",),
        ("v_val",),
        ("v_train", "v_val"),
    )
    assert data.classes == CLASSES and data.label_source == "xml"
    assert all(data.split(name).has_masks for name in SMALL)


def test_labels_are_all_objects_difficult_ones_too_and_no_parts(voc_root: Root) -> None:
    data = opened(voc_root())
    split = data.split("train_aug")
    names = {
        image: [CLASSES[c] for c in np.flatnonzero(row)] for image, row in zip(split.ids, split.labels, strict=True)
    }
    assert names == {
        "both": ["person"],
        "s_train": ["person"],
        "s_val": ["boat", "sheep"],
        "v_train": ["cat", "person"],
    }


def test_masks_are_voc_s_own_before_sbd_s(voc_root: Root) -> None:
    data = opened(voc_root())
    assert set(np.unique(data.mask("v_train"))) == {8} and set(np.unique(data.mask("v_val"))) == {8}
    assert set(np.unique(data.mask("s_train"))) == {15}


def test_a_folder_of_augmented_masks_stands_in_for_sbd(voc_root: Root) -> None:
    data = opened(voc_root(sbd=False, aug=True))
    assert data.ids("train_aug") == ("both", "s_train", "s_val", "v_train")
    assert set(np.unique(data.mask("s_val"))) == {3} and set(np.unique(data.mask("v_train"))) == {8}


def test_of_both_sbd_counts(voc_root: Root) -> None:
    root = voc_root(aug=True)
    (root / SBD_CLS / "s_val.mat").unlink()
    data = opened(root)
    assert set(np.unique(data.mask("s_train"))) == {15} and set(np.unique(data.mask("s_val"))) == {3}


def test_voc_without_sbd_says_what_is_missing_and_where_it_goes(voc_root: Root) -> None:
    message = refusal(voc_root(sbd=False))
    assert "not SBD" in message and "benchmark_RELEASE/dataset" in message and "--download" in message


def test_all_missing_parts_of_voc_are_listed(voc_root: Root, tmp_path: Path) -> None:
    root = voc_root()
    voc = root / "VOCdevkit" / "VOC2012"
    shutil.rmtree(voc / "Annotations")
    (voc / "ImageSets" / "Segmentation" / "val.txt").unlink()
    message = refusal(root)
    assert "\n  Annotations" in message and "\n  ImageSets/Segmentation/val.txt" in message
    assert "JPEGImages" not in message
    assert "JPEGImages" in refusal(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (np.full(SHAPE, 21, np.uint8), r"values \[21\] stand for no class"),
        (np.full(SHAPE, 255, np.uint8), r"values \[255\]"),
        (np.zeros((2, 2, 2), np.uint8), "expected uint8"),
        (np.zeros(SHAPE), "float64"),
    ],
)
def test_masks_of_sbd_with_other_values_are_named(voc_root: Root, mask: np.ndarray, words: str) -> None:
    root = voc_root()
    write_mat(root / SBD_CLS / "s_val.mat", mask)
    with pytest.raises(UserError, match=words):
        read_mat(root / SBD_CLS / "s_val.mat")
    assert "s_val.mat" in refusal(root)


@pytest.mark.parametrize("content", [b"", b"no matrix", b"MATLAB 5.0 MAT-file" + b"\0" * 200])
def test_what_is_no_mask_of_sbd_is_named(voc_root: Root, content: bytes) -> None:
    root = voc_root()
    (root / SBD_CLS / "both.mat").write_bytes(content)
    message = refusal(root)
    assert "both.mat" in message and "not a mask of SBD" in message


def test_counts_that_are_right_are_no_problem(voc_root: Root) -> None:
    found = verify_voc(prepare_voc(voc_root()), PublishedCounts(20, SMALL, {"train_aug": COUNTS}))
    assert found.problems == [] and found.images == SMALL
    assert found.counts["train_aug"].sum() == 6


def test_every_difference_is_listed(voc_root: Root) -> None:
    root = voc_root()
    voc = root / "VOCdevkit" / "VOC2012"
    (voc / "JPEGImages" / "s_val.jpg").unlink()
    (voc / "Annotations" / "both.xml").unlink()
    (voc / "SegmentationClass" / "v_val.png").unlink()
    (root / SBD_CLS / "s_train.mat").unlink()
    problems = verify_voc(prepare_voc(root), PUBLISHED).problems
    text = "\n".join(problems)
    for words in (
        "split train: 1 images, published: 1,464",
        "split train_aug: 4 images, published: 10,582",
        "split train_aug: 1 of 4 images are missing: s_val",
        "split train_aug: 1 of 4 masks are missing: s_train",
        "split val: 1 of 1 masks are missing: v_val",
        "both.xml: missing",
        "split train_aug: 2 images with person, published: 4,155",
    ):
        assert words in text, words
    assert len(set(problems)) == len(problems)


def test_difficult_objects_are_named_where_they_explain_the_counts(voc_root: Root) -> None:
    folder = prepare_voc(voc_root())
    problems = verify_voc(folder, PublishedCounts(20, SMALL, {"train_aug": COUNTS | {"boat": 0}})).problems
    assert problems[0] == "split train_aug: 1 images with boat, published: 0"
    assert "without difficult objects" in problems[1]
    others = verify_voc(folder, PublishedCounts(20, SMALL, {"train_aug": COUNTS | {"sheep": 0}})).problems
    assert not any("difficult" in problem for problem in others)


def test_an_image_without_an_object_has_no_label(voc_root: Root) -> None:
    root = voc_root()
    (root / "VOCdevkit" / "VOC2012" / "Annotations" / "both.xml").write_text("<annotation></annotation>")
    assert opened(root).split("train_aug").labels.sum(1).tolist() == [0, 1, 2, 2]


def test_preparing_again_changes_nothing(voc_root: Root) -> None:
    root = voc_root()
    folder = prepare_voc(root)
    before = {path: path.lstat().st_mtime_ns for path in folder.rglob("*")}
    assert prepare_voc(root) == folder
    assert {path: path.lstat().st_mtime_ns for path in folder.rglob("*")} == before


def test_another_list_or_mask_is_prepared_anew(voc_root: Root) -> None:
    root = voc_root()
    (root / SBD_CLS / "both.mat").unlink()
    assert verify_voc(prepare_voc(root), PublishedCounts(20, SMALL)).problems
    write_mat(root / SBD_CLS / "both.mat", np.full(SHAPE, 2, np.uint8))
    assert verify_voc(prepare_voc(root), PublishedCounts(20, SMALL)).problems == []
    (root / "benchmark_RELEASE" / "dataset" / "val.txt").write_text("")
    assert opened(root).ids("train_aug") == ("both", "s_train", "v_train")


def test_what_an_interrupted_preparation_left_is_replaced(voc_root: Root) -> None:
    root = voc_root()
    folder = prepare_voc(root)
    partial = folder.rename(folder.with_suffix(".partial"))
    (partial / "stray").mkdir()
    (partial / "classes.txt").write_text("half")
    (partial / "SegmentationClass" / "s_val.png").unlink()
    assert prepare_voc(root) == folder and not partial.exists() and not (folder / "stray").exists()
    assert verify_voc(folder, PublishedCounts(20, SMALL)).problems == []
    assert (root / "VOCdevkit" / "VOC2012" / "JPEGImages" / "both.jpg").is_file()


def test_the_root_can_be_moved(voc_root: Root, tmp_path: Path) -> None:
    root = voc_root()
    prepare_voc(root)
    moved = root.rename(tmp_path / "moved")
    assert open_dataset(Data(format="voc", root=str(moved), train="train_aug", select="train")).image("both").size == (
        8,
        6,
    )


def test_a_benchmark_that_was_not_prepared_names_the_command(voc_root: Root) -> None:
    root = voc_root()
    with pytest.raises(UserError, match=f"python -m sfc data voc --root {root}"):
        open_dataset(Data(format="voc", root=str(root)))


def test_trainval_can_not_choose_what_val_reports(voc_root: Root) -> None:
    root = voc_root()
    prepare_voc(root)
    with pytest.raises(UserError, match=r"data\.select: the split trainval has 1 images of val"):
        open_dataset(Data(format="voc", root=str(root), train="train_aug", select="trainval"))


@pytest.mark.parametrize(
    "file", ["VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt", "benchmark_RELEASE/dataset/val.txt"]
)
def test_a_name_that_leads_elsewhere_is_refused_before_anything_is_written(voc_root: Root, file: str) -> None:
    root = voc_root()
    with (root / file).open("a") as names:
        names.write("../../escaped\n")
    with pytest.raises(UserError, match=r"val\.txt:\d+: \.\./\.\./escaped is a path"):
        prepare_voc(root)
    assert not (root / "prepared").exists()
