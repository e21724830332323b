"""Looking a data set through before anything is trained on it."""

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
    """What a look through found."""

    problems: list[str] = field(default_factory=list)
    counts: dict[str, np.ndarray] = field(default_factory=dict)
    """(C,) images of each class, by split."""
    images: dict[str, int] = field(default_factory=dict)
    masks: dict[str, int] = field(default_factory=dict)


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
        try:
            ids = data.ids(split)
        except UserError as error:
            report.problems.append(str(error))
            continue
        counts = np.zeros(len(data.classes), np.int64)
        report.images[split], report.masks[split] = len(ids), 0
        for name in ids:
            report.masks[split] += _check_image(data, name, report.problems)
            try:
                counts += data.label(name)
            except (UserError, OSError) as error:
                report.problems.append(f"{name}: {error}")
        report.counts[split] = counts
        if 0 < report.masks[split] < len(ids):
            report.problems.append(f"split {split}: {len(ids) - report.masks[split]} of {len(ids)} masks are missing")
    if section.train in report.counts:
        empty = [data.classes[c] for c in np.flatnonzero(report.counts[section.train] == 0)]
        report.problems += [f"split {section.train}: no image of the class {name}" for name in empty]
    return report


def _check_image(data: Dataset, name: str, problems: list[str]) -> int:
    """Adds what is wrong with one image and its mask; 1 if there is a mask."""
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
        return 0
    try:
        mask = read_mask(path)
    except OSError as error:
        problems.append(f"{name}: {error}")
        return 1
    if size is not None and mask.shape[::-1] != size:
        problems.append(f"{name}: the mask is {mask.shape[1]} x {mask.shape[0]}, the image {size[0]} x {size[1]}")
    wrong = np.unique(mask[(mask > len(data.classes)) & (mask != VOID)])
    if len(wrong):
        problems.append(f"{name}: mask values {wrong.tolist()} stand for no class")
    return 1
