"""Checks of a whole data set: files, labels and masks before a training, and the counts of a prepared benchmark."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from sfc.config import Data
from sfc.data.dataset import Dataset
from sfc.data.images import VOID, find_image, read_mask
from sfc.errors import UserError


@dataclass
class Report:
    """Counts of a data set by split, and its problems."""

    problems: list[str] = field(default_factory=list)
    counts: dict[str, np.ndarray] = field(default_factory=dict)
    """(C,) images of each class."""
    images: dict[str, int] = field(default_factory=dict)
    masks: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class PublishedCounts:
    """Numbers that a benchmark is known for."""

    classes: int
    """C, foreground classes."""
    images: dict[str, int]
    """Images by split."""
    with_class: dict[str, dict[str, int]] = field(default_factory=dict)
    """Images with each class, by split and class."""


def check_data(data: Dataset, section: Data) -> Report:
    """Missing and broken files, masks of another size than their image, unknown mask values, classes without an image.

    Args:
        data: the data set.
        section: names the splits; a select split that is missing is no problem of a single run.
    """
    report = Report()
    for split in dict.fromkeys([section.train, section.select, section.val]):
        if split == section.select and split not in data.split_names():
            continue
        ids = _count(data, split, report)
        if not ids:
            continue
        report.masks[split] = sum([_check_image(data, name, report.problems) for name in ids])
        if 0 < report.masks[split] < len(ids):
            report.problems.append(f"split {split}: {len(ids) - report.masks[split]} of {len(ids)} masks are missing")
    if section.train in report.counts:
        empty = [data.classes[c] for c in np.flatnonzero(report.counts[section.train] == 0)]
        report.problems += [f"split {section.train}: no image of the class {name}" for name in empty]
    return report


def compare(data: Dataset, published: PublishedCounts) -> Report:
    """Counts of a benchmark that differ from the published ones; images, labels and masks that are missing."""
    report = Report()
    if len(data.classes) != published.classes:
        report.problems.append(f"{len(data.classes)} classes, published: {published.classes}")
    for split, expected in published.images.items():
        ids = _count(data, split, report)
        if not ids:
            continue
        if len(ids) != expected:
            report.problems.append(f"split {split}: {len(ids):,} images, published: {expected:,}")
        for kind, missing in (
            ("images", [name for name in ids if find_image(data.root / "JPEGImages", name) is None]),
            ("masks", [name for name in ids if not data.mask_path(name).is_file()]),
        ):
            if missing:
                some = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
                report.problems.append(f"split {split}: {len(missing):,} of {len(ids):,} {kind} are missing: {some}")
        for name, expected in published.with_class.get(split, {}).items():
            number = int(report.counts[split][data.classes.index(name)]) if name in data.classes else 0
            if number != expected:
                report.problems.append(f"split {split}: {number:,} images with {name}, published: {expected:,}")
    report.problems = list(dict.fromkeys(report.problems))  # splits share images
    return report


def _count(data: Dataset, split: str, report: Report) -> tuple[str, ...]:
    """Names in a split, whose images and classes are counted in the report; none where its list can't be read."""
    try:
        ids = data.ids(split)
    except UserError as error:
        report.problems.append(str(error))
        return ()
    report.images[split], report.counts[split] = len(ids), np.zeros(len(data.classes), np.int64)
    for name in ids:
        try:
            report.counts[split] += data.label(name)
        except (UserError, OSError) as error:
            report.problems.append(str(error))
    return ids


def _check_image(data: Dataset, name: str, problems: list[str]) -> bool:
    """Add the problems of one image and its mask; returns whether it has a mask."""
    size = None
    if find_image(data.root / "JPEGImages", name) is None:
        problems.append(f"{name}: no image in JPEGImages/")
    else:
        try:
            size = data.image(name).size
        except (OSError, Image.DecompressionBombError) as error:
            problems.append(f"{name}: {error}")
    path = data.mask_path(name)
    if not path.is_file():
        return False
    try:
        mask = read_mask(path)
    except (OSError, Image.DecompressionBombError) as error:
        problems.append(f"{name}: {error}")
        return True
    if size is not None and mask.shape[::-1] != size:
        problems.append(f"{name}: the mask is {mask.shape[1]} x {mask.shape[0]}, the image {size[0]} x {size[1]}")
    wrong = np.unique(mask[(mask > len(data.classes)) & (mask != VOID)])
    if len(wrong):
        problems.append(f"{name}: mask values {wrong.tolist()} stand for no class")
    return True
