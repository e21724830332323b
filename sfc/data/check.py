"""Checks of a whole data set: files, labels and masks before a training, and the counts of a prepared benchmark."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from sfc.config import Data
from sfc.data.dataset import Dataset, open_folder
from sfc.data.images import IMAGES, find_image
from sfc.errors import UserError


@dataclass
class Report:
    """Counts of a data set by split, and its problems."""

    problems: list[str] = field(default_factory=list)
    counts: dict[str, np.ndarray] = field(default_factory=dict)
    """(C,) images of each class."""
    images: dict[str, int] = field(default_factory=dict)
    masks: dict[str, int] = field(default_factory=dict)

    def distinct(self) -> Report:
        """This report with each problem once, as splits share images."""
        self.problems = list(dict.fromkeys(self.problems))
        return self


@dataclass(frozen=True)
class PublishedCounts:
    """Published numbers of a benchmark: foreground classes, images by split, images by split and class."""

    classes: int
    images: dict[str, int]
    with_class: dict[str, dict[str, int]] = field(default_factory=dict)


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
        with_mask = {name for name in ids if data.mask_path(name).is_file()}
        for name in ids:
            whys = [data.problem(name), data.problem(name, mask=True) if name in with_mask else ""]
            report.problems += [f"{name}: {why}" for why in whys if why]
        if ids:
            report.masks[split] = len(with_mask)
        if 0 < len(with_mask) < len(ids):
            report.problems.append(f"split {split}: {len(ids) - len(with_mask)} of {len(ids)} masks are missing")
    if section.train in report.counts:
        empty = [data.classes[c] for c in np.flatnonzero(report.counts[section.train] == 0)]
        report.problems += [f"split {section.train}: no image of the class {name}" for name in empty]
    return report.distinct()


def compare(folder: Path, published: PublishedCounts) -> Report:
    """Counts of a prepared benchmark that differ from the published ones; images, labels and masks that are missing."""
    data, report = open_folder(folder), Report()
    if len(data.classes) != published.classes:
        report.problems.append(f"{len(data.classes)} classes, published: {published.classes}")
    for split, expected in published.images.items():
        ids = _count(data, split, report)
        if not ids:
            continue
        if len(ids) != expected:
            report.problems.append(f"split {split}: {len(ids):,} images, published: {expected:,}")
        for kind, missing in (
            ("images", [name for name in ids if find_image(data.root / IMAGES, name) is None]),
            ("masks", [name for name in ids if not data.mask_path(name).is_file()]),
        ):
            if missing:
                some = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
                report.problems.append(f"split {split}: {len(missing):,} of {len(ids):,} {kind} are missing: {some}")
        by_class = dict(zip(data.classes, report.counts[split].tolist(), strict=True))
        for name, expected in published.with_class.get(split, {}).items():
            if (number := by_class.get(name, 0)) != expected:
                report.problems.append(f"split {split}: {number:,} images with {name}, published: {expected:,}")
    return report.distinct()


def _count(data: Dataset, split: str, report: Report) -> tuple[str, ...]:
    """Names in a split, whose images and classes are counted in the report; none if its list can't be read."""
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
