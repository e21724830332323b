"""A data set in PASCAL VOC layout: images, image labels, masks where there are any."""

from __future__ import annotations

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

from sfc.data.images import IMAGES, MASKS, VOID, find_image, open_image, read_image, read_mask
from sfc.data.lists import LABELS, LISTS, read_ids, read_labels, read_lines
from sfc.errors import UserError
from sfc.runtime.store import write_atomic

LabelSource = Literal["csv", "xml", "masks"]


@dataclass(frozen=True)
class Split:
    """A named list of a data set's images with their labels."""

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
        """The split's first images alone."""
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
        if (self.root / LABELS).is_file():
            return "csv"
        return "xml" if (self.root / "Annotations").is_dir() else "masks"

    def image(self, name: str) -> Image.Image:
        """RGB image. Raises OSError if the file can't be read."""
        return read_image(self.image_path(name))

    def image_path(self, name: str) -> Path:
        path = find_image(self.root / IMAGES, name)
        if path is None:
            raise FileNotFoundError(f"{self.root / IMAGES / name}: no such image")
        return path

    def mask_path(self, name: str) -> Path:
        return self.root / MASKS / f"{name}.png"

    def mask(self, name: str) -> np.ndarray:
        """(H, W) uint8. Raises OSError if the mask can't be read, UserError if it does not fit classes or image."""
        path = self.mask_path(name)
        mask = read_mask(path)
        if (image := find_image(self.root / IMAGES, name)) is not None:
            with open_image(image) as header:
                width, height = header.size
            if mask.shape != (height, width):
                raise UserError(f"{path}: {mask.shape[1]} x {mask.shape[0]}, its image is {width} x {height}")
        wrong = np.unique(mask[(mask > len(self.classes)) & (mask != VOID)])
        if len(wrong):
            raise UserError(f"{path}: values {wrong.tolist()} stand for no class")
        return mask

    def problem(self, name: str, *, mask: bool = False) -> str:
        """Why an image, or its mask, can't be read or does not fit; empty if all is well."""
        try:
            _ = self.mask(name) if mask else self.image(name)
        except (UserError, OSError, Image.DecompressionBombError) as error:
            return str(error).replace(f"{self.root}", ".")
        return ""

    def split_names(self) -> list[str]:
        return sorted(p.stem for p in (self.root / LISTS).glob("*.txt"))

    def ids(self, split: str) -> tuple[str, ...]:
        """Names in a split's list. Raises UserError if the list is missing or empty, or `read_ids` refuses it."""
        path = self.root / LISTS / f"{split}.txt"
        if split not in self.split_names():
            raise UserError(f"{path}: no such split; the data has: {', '.join(self.split_names()) or 'none'}")
        ids = read_ids(path)
        if not ids:
            raise UserError(f"{path}: the split names no image")
        return ids

    @cached_property
    def _csv(self) -> dict[str, list[str]]:
        return read_labels(self.root / LABELS)

    def _label_names(self, name: str) -> list[str]:
        source = self.label_source
        if source == "csv":
            if name not in self._csv:
                raise UserError(f"{self.root / LABELS}: no row for the image {name}")
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
        """(C,) uint8 in {0, 1}. Raises UserError if the image has no label, or one that is not in classes.txt."""
        label = np.zeros(len(self.classes), np.uint8)
        for text in self._label_names(name):
            if text not in self.classes:
                raise UserError(f"{name}: its label {text!r} is not in {self.root / 'classes.txt'}")
            label[self.classes.index(text)] = 1
        return label

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
        """Name and content of each image and mask; a file is read again only if the file's size or time changed."""
        paths = [find_image(self.root / IMAGES, i) for i in ids] + [self.mask_path(i) for i in ids]
        files = [path if path is not None and path.is_file() else None for path in paths]
        key = hashlib.sha256(str(self.root).encode() + "\0".join(ids).encode()).hexdigest()[:16]
        remembered = self._recall(f"content-{key}") or {}

        def content(path: Path | None) -> tuple[str, str]:
            if path is None:
                return "", ""
            status = path.stat()
            stamp = f"{path.name} {status.st_size} {status.st_mtime_ns}"
            return stamp, remembered.get(stamp) or hashlib.sha256(path.read_bytes()).hexdigest()[:16]

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            contents = list(pool.map(content, files))
        fresh = {stamp: value for stamp, value in contents if stamp}
        if fresh != remembered:
            self._remember(f"content-{key}", fresh)
        names = ["" if path is None else path.name for path in files]
        return [[name, value] for name, (_, value) in zip(names, contents, strict=True)]

    def _broken(self, ids: tuple[str, ...], state: str) -> dict[str, str]:
        """Images that can't be decoded, with the reason. As this takes time, the result for a state of the files stays
        in the cache folder."""
        if (broken := self._recall(state[:16])) is None:
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                reasons = dict(zip(ids, pool.map(self.problem, ids), strict=True))
            broken = {name: why for name, why in reasons.items() if why}
            self._remember(state[:16], broken)
        return broken

    def _recall(self, name: str) -> dict[str, str] | None:
        memory = self.cache / f"{name}.json" if self.cache else None
        return json.loads(memory.read_text(encoding="utf-8")) if memory and memory.is_file() else None

    def _remember(self, name: str, value: dict[str, str]) -> None:
        if self.cache:
            self.cache.mkdir(parents=True, exist_ok=True)
            write_atomic(self.cache / f"{name}.json", json.dumps(value))


def open_folder(root: Path, *, skip_broken: bool = False, cache: Path | None = None) -> Dataset:
    """The data set in a folder.

    Raises:
        UserError: the folder is missing, or lacks its images, lists or classes, or image_labels.csv can't be read.
    """
    if not root.is_dir():
        raise UserError(f"data.root: there is no folder {root}")
    if not (root / IMAGES).is_dir() or not any((root / IMAGES).iterdir()):
        raise UserError(f"data.root: {root}/{IMAGES} is missing or empty; the data must be in VOC layout")
    if not (root / LISTS).is_dir():
        raise UserError(f"data.root: {root}/{LISTS}, which lists the splits, is missing")
    if not (root / "classes.txt").is_file():
        raise UserError(f"data.root: {root}/classes.txt is missing: one foreground class a line, in mask order from 1")
    classes = tuple(read_lines(root / "classes.txt").values())
    if not classes or len(set(classes)) < len(classes) or len(classes) > 254:
        raise UserError(f"{root}/classes.txt: needs 1 to 254 different names, has {list(classes)[:10]}")
    data = Dataset(root.resolve(), classes, skip_broken, cache)
    if data.label_source == "csv":
        _ = data._csv  # errors of the table now, and not with each image
    return data
