"""Folders in VOC layout, whole and damaged."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sfc.config import Data
from sfc.data import open_dataset
from sfc.data.check import check_data
from sfc.data.dataset import open_folder
from sfc.data.images import write_mask
from sfc.errors import UserError

Voc = Callable[..., Path]


def pixels(seed: int = 0, shape: tuple[int, int] = (6, 8)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (*shape, 3)).astype(np.uint8)


IMAGES = {"a": pixels(1), "b": pixels(2), "c": pixels(3)}
CSV = {"a": "cat", "b": "cat dog", "c": ""}
MASKS = {name: np.zeros((6, 8), np.uint8) for name in IMAGES}
MASKS["a"][0], MASKS["b"][0], MASKS["b"][1], MASKS["c"][0] = 1, 1, 2, 255


def refusal(root: Path, split: str = "train", **options) -> str:
    with pytest.raises(UserError) as caught:
        open_folder(root, **options).split(split)
    return str(caught.value)


@pytest.mark.parametrize("source", ["csv", "xml", "masks"])
def test_labels_come_from_csv_xml_or_masks(voc: Voc, source: str) -> None:
    given = {
        "csv": {"csv": CSV},
        "xml": {"xml": {"a": ["cat"], "b": ["dog", "cat", "dog"], "c": []}},
        "masks": {"masks": MASKS},
    }[source]
    data = open_folder(voc(IMAGES, **given))
    split = data.split("train")
    assert data.label_source == source and data.classes == ("cat", "dog")
    assert split.ids == ("a", "b", "c") and split.labels.tolist() == [[1, 0], [1, 1], [0, 0]]
    assert len(split) == 3 and split.has_masks == (source == "masks")
    assert np.array_equal(np.asarray(data.image("b")), IMAGES["b"])


def test_csv_comes_before_xml_before_masks(voc: Voc) -> None:
    everything = {"masks": MASKS, "xml": {name: ["dog"] for name in IMAGES}, "csv": CSV}
    assert open_folder(voc(IMAGES, **everything)).split("train").labels.tolist() == [[1, 0], [1, 1], [0, 0]]


def test_a_split_has_masks_only_if_each_image_has_one(voc: Voc) -> None:
    root = voc(IMAGES, csv=CSV, masks=MASKS, splits={"train": ["a", "b"], "val": ["c"]})
    (root / "SegmentationClass" / "a.png").unlink()
    data = open_folder(root)
    assert (data.split("train").has_masks, data.split("val").has_masks) == (False, True)
    assert data.split_names() == ["train", "val"]


def test_lists_may_have_blank_lines_windows_ends_and_spaces(voc: Voc) -> None:
    root = voc(IMAGES, csv=CSV)
    (root / "ImageSets" / "Segmentation" / "train.txt").write_bytes(b"a\r\n\r\n  c \r\n")
    assert open_folder(root).split("train").ids == ("a", "c")


def test_files_that_excel_saved_are_read(voc: Voc) -> None:
    root = voc(IMAGES, csv=CSV)
    for path in (root / "image_labels.csv", root / "classes.txt", root / "ImageSets" / "Segmentation" / "train.txt"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    split = open_folder(root).split("train")
    assert split.ids == ("a", "b", "c") and split.labels.tolist() == [[1, 0], [1, 1], [0, 0]]


@pytest.mark.parametrize(
    ("gone", "words"),
    [
        (".", "there is no folder"),
        ("JPEGImages", "JPEGImages is missing or empty"),
        ("ImageSets", "lists the splits"),
        ("classes.txt", "one foreground class a line"),
    ],
)
def test_a_missing_part_is_named(voc: Voc, gone: str, words: str) -> None:
    root = voc(IMAGES, csv=CSV)
    path = root / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    message = refusal(root)
    assert words in message and str(root) in message


def test_a_folder_without_an_image_is_refused(voc: Voc) -> None:
    assert "empty" in refusal(voc({}, splits={"train": ["a"]}))


@pytest.mark.parametrize("text", ["", "\n\n", "cat\ncat\n"])
def test_classes_are_different_names(voc: Voc, text: str) -> None:
    root = voc(IMAGES, csv=CSV)
    (root / "classes.txt").write_text(text)
    assert "1 to 254 different names" in refusal(root)


def test_254_classes_are_read_and_255_refused(voc: Voc) -> None:
    root = voc(IMAGES, csv=dict.fromkeys(IMAGES, "n7"), classes=tuple(f"n{i}" for i in range(254)))
    assert open_folder(root).split("train").labels.shape == (3, 254)
    (root / "classes.txt").write_text("".join(f"n{i}\n" for i in range(255)))
    assert "254" in refusal(root)


def test_an_unknown_split_is_refused_with_the_known_ones(voc: Voc) -> None:
    root = voc(IMAGES, csv=CSV, splits={"train": ["a"], "trainval": ["b"]})
    assert "no such split; the data has: train, trainval" in refusal(root, "test")


@pytest.mark.parametrize(("names", "words"), [([], "names no image"), (["a", "b", "a"], "a stands there twice")])
def test_a_list_names_each_image_once(voc: Voc, names: list[str], words: str) -> None:
    message = refusal(voc(IMAGES, csv=CSV, splits={"train": names}))
    assert words in message and "train.txt" in message


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("../../x", "../../x is a path"),
        ("..", "is a name with `..`"),
        ("a..b", "is a name with `..`"),
        ("/abs/x", "/abs/x is an absolute path"),
        ("sub/x", "sub/x is a path"),
        ("sub/../b", "sub/../b is a path"),
        ("n" * 201, "has 201 bytes, at most 200"),
        ("\u00e9" * 101, "has 202 bytes, at most 200"),
    ],
)
def test_a_name_that_leads_elsewhere_or_is_too_long_is_refused_with_its_line(voc: Voc, name: str, words: str) -> None:
    root = voc(IMAGES, csv=CSV, splits={"train": ["a", "", name], "val": ["b"]})
    for message in (refusal(root), *check_data(open_folder(root), Data(format="folder")).problems[:1]):
        assert "train.txt:3: " in message and words in message


@pytest.mark.parametrize("name", ["with space", "a:b", "a\\b", "\u00e9t\u00e9", "-rf", "a.b.c", "*?", "n" * 200])
def test_other_odd_characters_in_names_are_read(voc: Voc, name: str) -> None:
    root = voc({name: pixels()}, masks={name: MASKS["a"]}, csv={name: "cat"})
    data = open_folder(root)
    assert data.split("train").ids == (name,) and data.image(name).size == (8, 6) and data.split("train").has_masks
    assert check_data(data, Data(format="folder", val="train", train="x", select="y")).masks["train"] == 1


@pytest.mark.parametrize("split", ["../Segmentation/train", "sub/train", "..", ""])
def test_a_split_is_one_of_the_lists_and_no_path(voc: Voc, split: str) -> None:
    assert "no such split; the data has: train" in refusal(voc(IMAGES, csv=CSV), split)


@pytest.mark.parametrize("path", ["classes.txt", "ImageSets/Segmentation/train.txt"])
def test_a_list_that_is_not_utf_8_is_named(voc: Voc, path: str) -> None:
    root = voc(IMAGES, csv=CSV)
    (root / path).write_bytes(b"caf\xe9\n")
    assert f"{root / path}: not a text file in UTF-8" in refusal(root)


def test_a_label_that_is_no_class_is_named(voc: Voc) -> None:
    message = refusal(voc(IMAGES, csv=CSV | {"b": "cat bird"}))
    assert "b: " in message and "'bird'" in message and "classes.txt" in message


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"csv": {"a": "cat", "b": "dog"}}, "no row for the image c"),
        ({"xml": {"a": ["cat"], "b": ["dog"]}}, "c.xml"),
        ({"masks": {"a": MASKS["a"], "b": MASKS["b"]}}, "no mask to derive one from"),
    ],
)
def test_an_image_without_a_label_is_named(voc: Voc, given: dict, words: str) -> None:
    message = refusal(voc(IMAGES, **given))
    assert words in message and "c" in message


@pytest.mark.parametrize("text", ["name,classes\na,cat\n", "image,labels\na\n", ""])
def test_a_csv_of_another_form_is_refused_in_words(voc: Voc, text: str) -> None:
    root = voc({"a": pixels()}, csv={})
    (root / "image_labels.csv").write_text(text)
    assert "image_labels.csv" in refusal(root)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("image,labels\na,cat\nb,cat,dog\nc,\n", r"csv:3: the row of b has more cells .* separated by spaces"),
        ("image,labels\r\na,cat\r\nb,cat,\r\nc,\r\n", r"csv:3: the row of b has more cells"),
        ("image,labels,by\na,cat,Ann\nb,cat,dog,Ann\nc,,Bob\n", r"csv:3: the row of b has more cells"),
        ('image,labels\na,"cat,dog",dog\n', r"csv:2: the row of a has more cells"),
        ("image,labels\na,cat\nb,cat\n\na,cat\nc,\n", r"csv:5: a second row for a; the first is line 2"),
        ("image,labels\na,cat\nb,cat\na,dog\n", r"csv:4: a second row for a; the first is line 2"),
    ],
)
def test_a_row_with_too_many_cells_or_a_second_one_is_refused_with_its_line(voc: Voc, text: str, words: str) -> None:
    root = voc(IMAGES, csv={})
    (root / "image_labels.csv").write_bytes(text.encode())
    message = refusal(root)
    assert re.search(words, message) and str(root) in message


def test_further_columns_under_a_header_are_left_alone(voc: Voc) -> None:
    root = voc(IMAGES, csv={})
    (root / "image_labels.csv").write_text('by,image,labels\nAnn,a,cat\nBob,b,"cat dog"\n,c,\n')
    assert open_folder(root).split("train").labels.tolist() == [[1, 0], [1, 1], [0, 0]]


@pytest.mark.parametrize("content", [b"image,labels\na,caf\xe9\n", b"\xff\xfei\x00m\x00"])
def test_a_csv_that_is_not_utf_8_is_refused_in_words(voc: Voc, content: bytes) -> None:
    root = voc(IMAGES, csv={})
    (root / "image_labels.csv").write_bytes(content)
    assert "image_labels.csv: not a CSV file in UTF-8" in refusal(root)


def test_a_broken_xml_is_named(voc: Voc) -> None:
    root = voc(IMAGES, xml={name: ["cat"] for name in IMAGES})
    (root / "Annotations" / "b.xml").write_text("<annotation><object>")
    assert "b.xml" in refusal(root)


def test_broken_images_are_refused_by_name_with_their_count(voc: Voc) -> None:
    root = voc(IMAGES, csv=CSV, suffix=".jpg")
    whole = (root / "JPEGImages" / "b.jpg").read_bytes()
    (root / "JPEGImages" / "b.jpg").write_bytes(whole[: len(whole) // 2])
    (root / "JPEGImages" / "c.jpg").unlink()
    message = refusal(root)
    assert "2 of 3 images of the split train" in message and "data.skip_broken=true" in message
    assert "\n  b: " in message and "\n  c: " in message and "\n  a: " not in message


def test_broken_images_are_left_out_on_request(voc: Voc) -> None:
    root = voc(IMAGES, csv=CSV)
    whole = open_folder(root).split("train")
    (root / "JPEGImages" / "a.png").write_bytes(b"broken")
    split = open_folder(root, skip_broken=True).split("train")
    assert split.ids == ("b", "c") and split.labels.tolist() == [[1, 1], [0, 0]]
    assert split.fingerprint != whole.fingerprint
    for name in "bc":
        (root / "JPEGImages" / f"{name}.png").write_bytes(b"broken")
    assert "no image of the split train can be read" in refusal(root, skip_broken=True)


def test_of_many_broken_images_ten_are_shown(voc: Voc) -> None:
    root = voc({f"i{n:02}": pixels() for n in range(15)}, csv={})
    for path in (root / "JPEGImages").iterdir():
        path.write_bytes(b"")
    message = refusal(root)
    assert "15 of 15" in message and "i09" in message and "i10" not in message


def test_what_could_be_read_is_remembered_until_a_file_changes(voc: Voc, tmp_path: Path) -> None:
    root, cache = voc(IMAGES, csv=CSV), tmp_path / "cache"
    open_folder(root, cache=cache).split("train")
    (memory,) = (p for p in cache.iterdir() if not p.name.startswith("content-"))
    memory.write_text('{"b": "remembered"}')
    assert "b: remembered" in refusal(root, cache=cache)
    Image.fromarray(pixels(9, (20, 20))).save(root / "JPEGImages" / "b.png")
    assert open_folder(root, cache=cache).split("train").ids == ("a", "b", "c")


def test_the_fingerprint_follows_the_data_and_not_its_place(voc: Voc, tmp_path: Path) -> None:
    root = voc(IMAGES, csv=CSV, masks=MASKS)

    def fingerprint(at: Path = root) -> str:
        return open_folder(at).split("train").fingerprint

    first = fingerprint()
    moved = shutil.copytree(root, tmp_path / "moved")
    for path in moved.rglob("*"):
        os.utime(path, (1, 1))
    assert fingerprint(moved) == first
    seen = {first}
    changes = [
        lambda: Image.fromarray(pixels(8, (30, 40))).save(root / "JPEGImages" / "a.png"),
        lambda: (root / "image_labels.csv").write_text("image,labels\na,dog\nb,cat dog\nc,\n"),
        lambda: (root / "SegmentationClass" / "c.png").unlink(),
        lambda: (root / "classes.txt").write_text("dog\ncat\n"),
        lambda: (root / "ImageSets" / "Segmentation" / "train.txt").write_text("b\na\nc\n"),
        lambda: (root / "ImageSets" / "Segmentation" / "train.txt").write_text("b\na\n"),
    ]
    for change in changes:
        change()
        assert fingerprint() not in seen
        seen.add(fingerprint())


def test_the_fingerprint_sees_a_repainted_mask_of_the_same_size_on_disk(voc: Voc) -> None:
    root = voc(IMAGES, csv=CSV, masks=MASKS)
    path = root / "SegmentationClass" / "a.png"
    first, size = open_folder(root).split("train").fingerprint, path.stat().st_size
    mask = MASKS["a"].copy()
    mask[mask == 1] = 2
    write_mask(path, mask)
    assert path.stat().st_size == size
    assert open_folder(root).split("train").fingerprint != first


def test_mask_values_outside_the_classes_are_named(voc: Voc) -> None:
    root = voc(IMAGES, csv=CSV, masks=MASKS | {"b": np.full((6, 8), 9, np.uint8)})
    data = open_folder(root)
    assert set(np.unique(data.mask("c"))) == {0, 255}
    with pytest.raises(UserError, match=r"b\.png: values \[9\] stand for no class"):
        data.mask("b")


def test_a_broken_mask_that_gives_the_labels_is_named(voc: Voc) -> None:
    root = voc(IMAGES, masks=MASKS)
    (root / "SegmentationClass" / "b.png").write_bytes(b"broken")
    assert "b" in refusal(root)


def test_a_mask_of_another_size_than_its_image_is_named(voc: Voc) -> None:
    root = voc(IMAGES, csv=CSV, masks=MASKS | {"b": np.zeros((3, 3), np.uint8)})
    data = open_folder(root)
    with pytest.raises(UserError, match="b"):
        for name in data.split("train").ids:
            data.mask(name)


def test_a_folder_opens_by_its_section(voc: Voc, tmp_path: Path) -> None:
    root = voc(IMAGES, csv=CSV)
    data = open_dataset(Data(format="folder", root=str(root), skip_broken=True), cache=tmp_path / "cache")
    assert data.root == root.resolve() and data.skip_broken and data.cache == tmp_path / "cache"
    with pytest.raises(UserError, match=r"data\.root: there is no folder"):
        open_dataset(Data(format="folder", root=str(tmp_path / "nowhere")))


def test_one_pixel_images_are_images(voc: Voc) -> None:
    data = open_folder(voc({"a": pixels(0, (1, 1))}, csv={"a": "cat"}))
    assert data.split("train").ids == ("a",) and data.image("a").size == (1, 1)
