"""Text files of a data set: lists of images and classes, and the table of image labels."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path

from sfc.errors import UserError

LISTS, LABELS = "ImageSets/Segmentation", "image_labels.csv"
"""Folder of lists and table of labels in VOC layout."""
LONGEST_NAME = 200
"""Bytes in an image's name; file systems take 255, and the stages append suffixes."""


def read_lines(path: Path) -> dict[int, str]:
    """Lines of a text file that are not blank, without surrounding spaces, by number from 1.

    Raises:
        UserError: not UTF-8.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()  # Excel marks its files
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a text file in UTF-8 ({error.reason} at byte {error.start})") from None
    return {number: line.strip() for number, line in enumerate(lines, start=1) if line.strip()}


def read_ids(path: Path) -> tuple[str, ...]:
    """Image names in a list, one a line. Files are read and written by these names, so none may lead out of a folder.

    Raises:
        UserError: a name that has `/` or `..`, is too long for a file's name, or stands in the list twice.
    """
    lines: dict[str, int] = {}
    for number, name in read_lines(path).items():
        where = f"{path}:{number}"
        if "/" in name or ".." in name:
            kind = "an absolute path" if name.startswith("/") else "a path" if "/" in name else "a name with `..`"
            raise UserError(f"{where}: {name} is {kind}; an image's name is that of its file in JPEGImages alone")
        if len(name.encode()) > LONGEST_NAME:
            length = f"{len(name.encode())} bytes, at most {LONGEST_NAME} are allowed"
            raise UserError(f"{where}: {name[:20]}... has {length}")
        if name in lines:
            raise UserError(f"{where}: {name} stands there twice, first in line {lines[name]}")
        lines[name] = number
    return tuple(lines)


def read_labels(path: Path) -> dict[str, list[str]]:
    """Labels by image from a CSV file with the columns image and labels; further columns are not read.

    Raises:
        UserError: another header, a row with too few or too many cells, two rows for one image, or no text.
    """
    lines: dict[str, int] = {}
    labels: dict[str, list[str]] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file, restkey="further cells")
            if not {"image", "labels"} <= set(rows.fieldnames or ()):
                raise UserError(f"{path}:1: the columns must be `image,labels`, found {rows.fieldnames}")
            for row in rows:
                where, name = f"{path}:{rows.line_num}", row["image"]
                if row["labels"] is None:
                    raise UserError(f"{where}: no labels for {name}")
                if "further cells" in row:
                    why = "has more cells than the header; labels are separated by spaces, not by commas"
                    raise UserError(f"{where}: the row of {name} {why}")
                if name in lines:
                    raise UserError(f"{where}: a second row for {name}; the first is line {lines[name]}")
                lines[name], labels[name] = rows.line_num, row["labels"].split()
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a CSV file in UTF-8 ({error})") from None
    return labels


def write_lists(folder: Path, splits: Mapping[str, Iterable[str]], classes: Iterable[str]) -> None:
    """Write ImageSets/Segmentation/SPLIT.txt for each split and classes.txt."""
    (folder / LISTS).mkdir(parents=True)
    files = {f"{LISTS}/{split}.txt": ids for split, ids in splits.items()} | {"classes.txt": classes}
    for file, names in files.items():
        (folder / file).write_text("".join(f"{name}\n" for name in names), encoding="utf-8")


def write_labels(folder: Path, labels: Mapping[str, Iterable[str]]) -> None:
    """Write image_labels.csv from the class names of each image."""
    with (folder / LABELS).open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["image", "labels"], *([name, " ".join(text)] for name, text in labels.items())])
