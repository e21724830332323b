"""PASCAL VOC 2012 with the masks of SBD (Hariharan et al., ICCV 2011), as both are distributed.

Below the root: `VOCdevkit/VOC2012` (JPEGImages, Annotations, SegmentationClass, ImageSets/Segmentation) and
`benchmark_RELEASE/dataset` (cls/*.mat, train.txt, val.txt). In place of SBD the folder SegmentationClassAug that many
keep beside SegmentationClass (12,031 PNG masks of the same images) will do.

- Splits: train, val and trainval are VOC's lists. train_aug = VOC train + SBD train + SBD val - VOC val, sorted; from
  SegmentationClassAug alone: VOC train + the names in it - VOC val, which are the same images.
- Image labels: the classes of all objects in Annotations/ID.xml, those marked `difficult` too, as in the labels in
  common use (Ahn and Kwak, CVPR 2018); not the names of an object's parts. If class counts differ from the published
  ones, `verify_voc` says whether they agree without the difficult objects. No copy of the data set has been compared
  with these counts yet.
- Masks: VOC's own for VOC train and val; SBD's for the rest of train_aug. SBD has no void.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from scipy.io import loadmat

from sfc.data.check import PublishedCounts, Report, compare
from sfc.data.dataset import open_folder
from sfc.data.images import IMAGES, MASKS, write_mask
from sfc.data.lists import LISTS, read_ids, write_lists
from sfc.data.prepared import link, prepared_folder, publish, require
from sfc.errors import UserError

VERSION = 1
"""Raised when a rule above changes: folders that an earlier version prepared are made anew."""
VOC, SBD, AUG = "VOCdevkit/VOC2012", "benchmark_RELEASE/dataset", "SegmentationClassAug"
WITH_CLASS = {
    "aeroplane": 590,
    "bicycle": 504,
    "bird": 705,
    "boat": 468,
    "bottle": 714,
    "bus": 393,
    "car": 1150,
    "cat": 1005,
    "chair": 1228,
    "cow": 267,
    "diningtable": 613,
    "dog": 1188,
    "horse": 445,
    "motorbike": 492,
    "person": 4155,
    "pottedplant": 522,
    "sheep": 300,
    "sofa": 649,
    "train": 503,
    "tvmonitor": 567,
}
"""Images of train_aug with each class, 16,458 in all; the classes in mask order from 1."""
CLASSES = tuple(WITH_CLASS)
PUBLISHED = PublishedCounts(
    len(CLASSES), {"train": 1464, "val": 1449, "trainval": 2913, "train_aug": 10582}, {"train_aug": WITH_CLASS}
)
PARTS = (IMAGES, "Annotations", MASKS, LISTS)


def _augmented(root: Path) -> tuple[dict[str, Path], set[str]]:
    """Masks of images beyond VOC's own, by name, and the names of all these images. Raises UserError if SBD and
    SegmentationClassAug are both missing."""
    sbd = root / SBD
    folder = next((p for p in (root / VOC / AUG, root / AUG) if p.is_dir()), None)
    masks = {path.stem: path for path in folder.glob("*.png")} if folder else {}
    if all((sbd / f"{split}.txt").is_file() for split in ("train", "val")) and (sbd / "cls").is_dir():
        names = {*read_ids(sbd / "train.txt"), *read_ids(sbd / "val.txt")}
        return masks | {path.stem: path for path in (sbd / "cls").glob("*.mat")}, names
    if not masks:
        raise UserError(
            f"{root} has VOC 2012 but not SBD, and the training set train_aug is made of both. Put SBD's archive, "
            f"extracted, at {sbd} (cls/, train.txt, val.txt), or a folder {AUG} into {root / VOC}, or let "
            "--download fetch it"
        )
    return masks, set(masks)


def read_mat(path: Path) -> np.ndarray:
    """(H, W) uint8 class indices of a mask of SBD. Raises UserError if the file is something else, or has values that
    stand for no class."""
    try:
        mask = np.asarray(loadmat(path)["GTcls"][0]["Segmentation"][0])
    except Exception as error:  # damaged files raise almost anything in scipy's reader
        raise UserError(f"{path}: not a mask of SBD ({error or type(error).__name__})") from None
    if mask.ndim != 2 or mask.dtype != np.uint8:
        raise UserError(f"{path}: the mask is {mask.dtype} {list(mask.shape)}, expected uint8 [height, width]")
    if wrong := np.unique(mask[mask > len(CLASSES)]).tolist():
        raise UserError(f"{path}: values {wrong} stand for no class")
    return mask


def prepare_voc(root: Path) -> Path:
    """Folder in VOC layout, made unless it exists.

    Raises:
        UserError: parts of VOC or SBD are missing (all are listed), or a mask can't be read.
    """
    voc = root / VOC
    lists = {split: f"{LISTS}/{split}.txt" for split in ("train", "val")}
    require(voc, (*PARTS, *lists.values()), f"Expected below {root}: {VOC} as distributed; --download fetches it")
    splits: dict[str, Sequence[str]] = {split: read_ids(voc / path) for split, path in lists.items()}
    splits["trainval"] = sorted({*splits["train"], *splits["val"]})
    masks, names = _augmented(root)
    splits["train_aug"] = sorted({*splits["train"], *names} - {*splits["val"]})
    rest = sorted(({*splits["train_aug"]} - {*splits["train"]}) & masks.keys())

    def build(folder: Path) -> None:
        for name in (IMAGES, "Annotations"):
            link(folder / name, voc / name)
        write_lists(folder, splits, CLASSES)
        for name in splits["trainval"]:
            link(folder / MASKS / f"{name}.png", voc / MASKS / f"{name}.png")
        for name in rest:
            path = folder / MASKS / f"{name}.png"
            if masks[name].suffix == ".png":
                link(path, masks[name])
            elif not path.exists():
                write_mask(path, read_mat(masks[name]))

    files = [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in (masks[name] for name in rest)]
    content = hashlib.sha256(repr((splits, files)).encode()).hexdigest()
    return publish(prepared_folder(root, "voc"), {"rule": VERSION, "content": content}, build)


def verify_voc(folder: Path, published: PublishedCounts) -> Report:
    """`compare`, with a further line if objects marked difficult explain why counts of classes differ."""
    report, data = compare(folder, published), open_folder(folder)
    for split, expected in published.with_class.items():
        counted = report.counts.get(split)
        if counted is None or expected == dict(zip(data.classes, counted.tolist(), strict=True)):
            continue
        counts = dict.fromkeys(data.classes, 0)
        for name in data.ids(split):
            with suppress(OSError, ElementTree.ParseError):  # `compare` has listed the file
                objects = ElementTree.parse(folder / "Annotations" / f"{name}.xml").findall("object")
                plain = (o for o in objects if o.findtext("difficult", "0").strip() != "1")
                for text in {str(o.findtext("name")).strip() for o in plain}:
                    counts[text] = counts.get(text, 0) + 1
        if counts == expected:
            report.problems.append(f"split {split}: without difficult objects the class counts are the published ones")
    return report
