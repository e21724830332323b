"""A data set in PASCAL VOC layout: images, image labels, masks where there are any."""

from __future__ import annotations

import csv
import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from sfc.data.images import VOID, find_image, open_image, read_image, read_mask
from sfc.errors import UserError

LabelSource = Literal["csv", "xml", "masks"]
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
    """Image names in a list, one a line. They become names of files that are read and written, so none may lead out of
    its folder.

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
            raise UserError(
                f"{where}: {name[:20]}... has {len(name.encode())} bytes, at most {LONGEST_NAME} are allowed"
            )
        if name in lines:
            raise UserError(f"{where}: {name} stands there twice, first in line {lines[name]}")
        lines[name] = number
    return tuple(lines)


@dataclass(frozen=True)
class Split:
    """Some images of a data set."""

    name: str
    ids: tuple[str, ...]
    labels: np.ndarray = field(repr=False)
    """(N, C) uint8 in {0, 1}."""
    fingerprint: str
    """Changes with the images, their labels or their masks."""
    has_masks: bool

    def __len__(self) -> int:
        return len(self.ids)

    def first(self, number: int) -> Split:
        """Its first images alone."""
        return replace(self, ids=self.ids[:number], labels=self.labels[:number])


@dataclass(frozen=True)
class Dataset:
    """A folder in VOC layout.

    JPEGImages/, SegmentationClass/ (optional; palette or grey PNG, 255 = void), ImageSets/Segmentation/SPLIT.txt,
    classes.txt (one foreground class a line, in mask order from 1), and labels: image_labels.csv (image, labels
    separated by spaces), else Annotations/ID.xml, else the classes that occur in the mask.
    """

    root: Path
    classes: tuple[str, ...]
    skip_broken: bool = False
    cache: Path | None = None
    """Folder that remembers which images could be read."""

    @property
    def label_source(self) -> LabelSource:
        if (self.root / "image_labels.csv").is_file():
            return "csv"
        return "xml" if (self.root / "Annotations").is_dir() else "masks"

    def image(self, name: str) -> Image.Image:
        """RGB image. Raises OSError where it can't be read."""
        return read_image(self.image_path(name))

    def image_path(self, name: str) -> Path:
        path = find_image(self.root / "JPEGImages", name)
        if path is None:
            raise FileNotFoundError(f"{self.root / 'JPEGImages' / name}: no such image")
        return path

    def mask_path(self, name: str) -> Path:
        return self.root / "SegmentationClass" / f"{name}.png"

    def mask(self, name: str) -> np.ndarray:
        """(H, W) uint8. Raises OSError where it can't be read, UserError where it does not fit classes or image."""
        mask = read_mask(self.mask_path(name))
        if (image := find_image(self.root / "JPEGImages", name)) is not None:
            with open_image(image) as header:
                size = header.size
            if mask.shape[::-1] != size:
                raise UserError(
                    f"{self.mask_path(name)}: {mask.shape[1]} x {mask.shape[0]}, its image is {size[0]} x {size[1]}"
                )
        wrong = np.unique(mask[(mask > len(self.classes)) & (mask != VOID)])
        if len(wrong):
            raise UserError(f"{self.mask_path(name)}: values {wrong.tolist()} stand for no class")
        return mask

    def split_names(self) -> list[str]:
        return sorted(p.stem for p in (self.root / "ImageSets" / "Segmentation").glob("*.txt"))

    def ids(self, split: str) -> tuple[str, ...]:
        """Names in a split's list.

        Raises:
            UserError: there is no such list, it is empty, or `read_ids` refuses it.
        """
        path = self.root / "ImageSets" / "Segmentation" / f"{split}.txt"
        if split not in self.split_names():
            raise UserError(f"{path}: no such split; the data has: {', '.join(self.split_names()) or 'none'}")
        ids = read_ids(path)
        if not ids:
            raise UserError(f"{path}: the split names no image")
        return ids

    @cached_property
    def _csv(self) -> dict[str, list[str]]:
        return _read_labels(self.root / "image_labels.csv")

    def _label_names(self, name: str) -> list[str]:
        source = self.label_source
        if source == "csv":
            if name not in self._csv:
                raise UserError(f"{self.root / 'image_labels.csv'}: no row for the image {name}")
            return self._csv[name]
        if source == "xml":
            path = self.root / "Annotations" / f"{name}.xml"
            if not path.is_file():
                raise UserError(f"{path}: missing, and the labels of {name} with it")
            try:
                return [str(node.text).strip() for node in ElementTree.parse(path).iterfind("object/name")]
            except ElementTree.ParseError as error:
                raise UserError(f"{path}: not XML ({error})") from None
        if not self.mask_path(name).is_file():
            raise UserError(f"{name}: no label (image_labels.csv, Annotations/) and no mask to derive one from")
        try:
            mask = self.mask(name)
        except OSError as error:
            raise UserError(f"{self.mask_path(name)}: can't be read, and the labels with it ({error})") from None
        return [self.classes[v - 1] for v in np.unique(mask) if v not in (0, VOID)]

    def label(self, name: str) -> np.ndarray:
        """(C,) uint8 in {0, 1}.

        Raises:
            UserError: the image has no label, or one that is not in classes.txt.
        """
        found = np.zeros(len(self.classes), np.uint8)
        for text in self._label_names(name):
            if text not in self.classes:
                raise UserError(f"{name}: its label {text!r} is not in {self.root / 'classes.txt'}")
            found[self.classes.index(text)] = 1
        return found

    def split(self, name: str) -> Split:
        """A split with its labels; images that can't be read are refused, or left out with `skip_broken`.

        Raises:
            UserError: missing files, missing labels, broken images (named, with their count).
        """
        ids = self.ids(name)
        state = self._state(ids)
        digest = hashlib.sha256(json.dumps([self.classes, self.label_source, state]).encode())
        broken = self._broken(ids, digest.hexdigest())
        if broken and not self.skip_broken:
            shown = "\n  ".join(f"{i}: {why}" for i, why in list(broken.items())[:10])
            raise UserError(
                f"{self.root}: {len(broken)} of {len(ids)} images of the split {name} can't be read:\n  {shown}"
                "\nMend them, or go on without them by data.skip_broken=true"
            )
        ids = tuple(i for i in ids if i not in broken)
        if not ids:
            raise UserError(f"{self.root}: no image of the split {name} can be read")
        labels = np.stack([self.label(i) for i in ids])
        digest.update(labels.tobytes() + json.dumps(sorted(broken)).encode())
        masks = all(self.mask_path(i).is_file() for i in ids)
        return Split(name, ids, labels, digest.hexdigest()[:16], masks)

    def _state(self, ids: tuple[str, ...]) -> list[list[str]]:
        """Name and content of each image and mask; a file is read again only when its size or its time changed."""
        paths = [find_image(self.root / "JPEGImages", i) for i in ids] + [self.mask_path(i) for i in ids]
        found = [path if path is not None and path.is_file() else None for path in paths]
        key = hashlib.sha256(str(self.root).encode() + "\0".join(ids).encode()).hexdigest()[:16]
        memory = self.cache / f"content-{key}.json" if self.cache else None
        known: dict[str, str] = {}
        if memory and memory.is_file():
            known = json.loads(memory.read_text(encoding="utf-8"))

        def content(path: Path | None) -> tuple[str, str]:
            if path is None:
                return "", ""
            status = path.stat()
            stamp = f"{path.name} {status.st_size} {status.st_mtime_ns}"
            return stamp, known.get(stamp) or hashlib.sha256(path.read_bytes()).hexdigest()[:16]

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            contents = list(pool.map(content, found))
        fresh = {stamp: value for stamp, value in contents if stamp}
        if memory and fresh != known:
            _remember(memory, fresh)
        named = ["" if path is None else path.name for path in found]
        return [[name, value] for name, (_, value) in zip(named, contents, strict=True)]

    def _broken(self, ids: tuple[str, ...], state: str) -> dict[str, str]:
        """Images that can't be decoded, with the reason. Decoding all takes time, so it is done once for a state of
        the files and remembered in the cache folder."""
        memory = self.cache / f"{state[:16]}.json" if self.cache else None
        if memory and memory.is_file():
            return json.loads(memory.read_text(encoding="utf-8"))
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            reasons = dict(zip(ids, pool.map(self._why_broken, ids), strict=True))
        broken = {name: why for name, why in reasons.items() if why}
        if memory:
            _remember(memory, broken)
        return broken

    def _why_broken(self, name: str) -> str:
        try:
            self.image(name)
        except (OSError, Image.DecompressionBombError) as error:
            return str(error).replace(f"{self.root}", ".")
        return ""


def _read_labels(path: Path) -> dict[str, list[str]]:
    """Labels by image from a CSV file with the columns image and labels; further columns are not read.

    Raises:
        UserError: another header, a row with too few or too many cells, two rows for one image, or no text.
    """
    lines: dict[str, int] = {}
    labels: dict[str, list[str]] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # Excel marks its files
            rows = csv.DictReader(file, restkey="further cells")
            if not {"image", "labels"} <= set(rows.fieldnames or ()):
                raise UserError(f"{path}:1: the columns must be `image,labels`, found {rows.fieldnames}")
            for row in rows:
                where, name = f"{path}:{rows.line_num}", row["image"]
                if row["labels"] is None:
                    raise UserError(f"{where}: no labels for {name}")
                if "further cells" in row:
                    raise UserError(
                        f"{where}: the row of {name} has more cells than the header; labels are separated by spaces, "
                        "not by commas"
                    )
                if name in lines:
                    raise UserError(f"{where}: a second row for {name}; the first is line {lines[name]}")
                lines[name], labels[name] = rows.line_num, row["labels"].split()
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a CSV file in UTF-8 ({error})") from None
    return labels


def _remember(memory: Path, value: dict[str, str]) -> None:
    memory.parent.mkdir(parents=True, exist_ok=True)
    partial = memory.with_suffix(f".{os.getpid()}")
    partial.write_text(json.dumps(value), encoding="utf-8")
    partial.replace(memory)


def open_folder(root: Path, *, skip_broken: bool = False, cache: Path | None = None) -> Dataset:
    """The data set in a folder.

    Raises:
        UserError: the folder is missing, or lacks its images, lists or classes, or image_labels.csv can't be read.
    """
    if not root.is_dir():
        raise UserError(f"data.root: there is no folder {root}")
    if not (root / "JPEGImages").is_dir() or not any((root / "JPEGImages").iterdir()):
        raise UserError(f"data.root: {root}/JPEGImages is missing or empty; the data must be in VOC layout")
    if not (root / "ImageSets" / "Segmentation").is_dir():
        raise UserError(f"data.root: {root}/ImageSets/Segmentation, which lists the splits, is missing")
    if not (root / "classes.txt").is_file():
        raise UserError(f"data.root: {root}/classes.txt is missing: one foreground class a line, in mask order from 1")
    classes = tuple(read_lines(root / "classes.txt").values())
    if not classes or len(set(classes)) < len(classes) or len(classes) > 254:
        raise UserError(f"{root}/classes.txt: needs 1 to 254 different names, has {list(classes)[:10]}")
    data = Dataset(root.resolve(), classes, skip_broken, cache)
    if data.label_source == "csv":
        _ = data._csv  # its errors now, once, and not with each image
    return data
