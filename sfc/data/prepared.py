"""What benchmarks in their official layouts share: a folder in VOC layout is made from them once, then verified.

The folder lies at `<root>/prepared/<name>`, links to the images instead of copying them, and is read by the same code
as every other data set.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sfc.data.dataset import Dataset
from sfc.data.images import find_image
from sfc.errors import UserError
from sfc.runtime.locks import locked

MADE_FROM = "made_from.json"
MASKS = "SegmentationClass"


@dataclass(frozen=True)
class Known:
    """What a benchmark is known to hold."""

    classes: int
    """C, foreground classes."""
    images: dict[str, int]
    """By split."""
    with_class: dict[str, dict[str, int]] = field(default_factory=dict)
    """Images with each class, by split and class."""


@dataclass
class Found:
    """What a prepared folder holds, and how that differs from what is known."""

    images: dict[str, int] = field(default_factory=dict)
    counts: dict[str, np.ndarray] = field(default_factory=dict)
    """(C,) images with each class, by split."""
    problems: list[str] = field(default_factory=list)


def prepared_folder(root: Path, name: str) -> Path:
    """Where the folder of a benchmark is, or will be."""
    return root / "prepared" / name


def require(root: Path, parts: Iterable[str], hint: str) -> None:
    """Raises UserError with the list of all parts that are not below `root`."""
    missing = [part for part in parts if not (root / part).exists()]
    if missing:
        raise UserError(f"{root} lacks\n  " + "\n  ".join(missing) + f"\n{hint}")


def publish(folder: Path, made_from: dict[str, Any], build: Callable[[Path], None]) -> Path:
    """`folder`, built unless it is there and was made from the same sources by the same rule.

    It appears whole or not at all. Of what an interrupted preparation from the same sources left, the masks are kept,
    each of which was written atomically; everything else is written anew.

    Args:
        folder: the result.
        made_from: JSON values that name the sources' content and the rule's version.
        build: writes into the folder that it is given.

    Raises:
        UserError: the place can't be written.
    """
    wanted = json.dumps(made_from, sort_keys=True)

    def same(path: Path) -> bool:
        return (path / MADE_FROM).is_file() and (path / MADE_FROM).read_text(encoding="utf-8") == wanted

    try:
        with locked(folder.with_suffix(".lock")):
            if same(folder):
                return folder
            partial = folder.with_suffix(".partial")
            if partial.exists() and not same(partial):
                shutil.rmtree(partial)
            partial.mkdir(exist_ok=True)
            for path in partial.iterdir():
                if path.is_dir() and not path.is_symlink() and path.name != MASKS:
                    shutil.rmtree(path)
                elif path.name not in (MASKS, MADE_FROM):
                    path.unlink()
            (partial / MADE_FROM).write_text(wanted, encoding="utf-8")
            (partial / MASKS).mkdir(exist_ok=True)
            build(partial)
            if folder.exists():  # made from other sources
                shutil.rmtree(folder)
            partial.rename(folder)
    except PermissionError as error:
        raise UserError(f"{folder} can't be written: {error.strerror}") from None
    return folder


def link(path: Path, target: Path) -> None:
    """A relative link, so that the root can be moved; one that is there is replaced."""
    path.unlink(missing_ok=True)
    path.symlink_to(os.path.relpath(target.resolve(), path.parent.resolve()))


def write_lists(folder: Path, splits: dict[str, Iterable[str]], classes: Iterable[str]) -> None:
    """ImageSets/Segmentation/SPLIT.txt and classes.txt."""
    lists = folder / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for split, ids in splits.items():
        (lists / f"{split}.txt").write_text("".join(f"{name}\n" for name in ids), encoding="utf-8")
    (folder / "classes.txt").write_text("".join(f"{name}\n" for name in classes), encoding="utf-8")


def verify(data: Dataset, known: Known) -> Found:
    """Counts of a prepared folder beside the known ones; images, labels and masks that are missing."""
    found = Found()
    if len(data.classes) != known.classes:
        found.problems.append(f"{len(data.classes)} classes, known: {known.classes}")
    for split, expected in known.images.items():
        try:
            ids = data.ids(split)
        except UserError as error:
            found.problems.append(str(error))
            continue
        found.images[split] = len(ids)
        if len(ids) != expected:
            found.problems.append(f"split {split}: {len(ids):,} images, known: {expected:,}")
        for what, missing in (
            ("images", [name for name in ids if find_image(data.root / "JPEGImages", name) is None]),
            ("masks", [name for name in ids if not data.mask_path(name).is_file()]),
        ):
            if missing:
                some = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
                found.problems.append(f"split {split}: {len(missing):,} of {len(ids):,} {what} are missing: {some}")
        found.counts[split] = _count(data, ids, found.problems)
        for name, expected in known.with_class.get(split, {}).items():
            number = int(found.counts[split][data.classes.index(name)]) if name in data.classes else 0
            if number != expected:
                found.problems.append(f"split {split}: {number:,} images with {name}, known: {expected:,}")
    found.problems = list(dict.fromkeys(found.problems))  # splits share images
    return found


def _count(data: Dataset, ids: tuple[str, ...], problems: list[str]) -> np.ndarray:
    counts = np.zeros(len(data.classes), np.int64)
    for name in ids:
        try:
            counts += data.label(name)
        except UserError as error:
            problems.append(str(error))
    return counts
