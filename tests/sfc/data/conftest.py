"""Small trees in the official layouts of VOC with SBD and of COCO."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from sfc.data.images import write_mask

SHAPE = (6, 8)


def photograph(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = sum(path.name.encode())
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (*SHAPE, 3)).astype(np.uint8)).save(path)


def write_mat(path: Path, mask: np.ndarray) -> None:
    """A mask in SBD's form: a struct GTcls with a field Segmentation."""
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, {"GTcls": {"Segmentation": mask, "CategoriesPresent": np.unique(mask[mask > 0])}})


VOC_OBJECTS: dict[str, list[str]] = {
    "v_train": ["cat", "person"],
    "v_val": ["dog"],
    "s_train": ["person", "person"],
    "s_val": ["sheep", "difficult:boat"],
    "both": ["person"],
}
"""Objects by image. VOC lists v_*; SBD's train list is s_train, v_val and both, its val list s_val and v_train."""


@pytest.fixture
def voc_root(tmp_path: Path) -> Callable[..., Path]:
    """Writes VOCdevkit/VOC2012 and, unless it is refused, SBD; returns the root."""

    def make(*, sbd: bool = True, aug: bool = False) -> Path:
        root = tmp_path / "root"
        voc = root / "VOCdevkit" / "VOC2012"
        (voc / "ImageSets" / "Segmentation").mkdir(parents=True)
        (voc / "Annotations").mkdir()
        (voc / "SegmentationClass").mkdir()
        for name, objects in VOC_OBJECTS.items():
            photograph(voc / "JPEGImages" / f"{name}.jpg")
            body = "".join(
                f"<object><name>{text.removeprefix('difficult:')}</name><difficult>{int(':' in text)}</difficult>"
                "<part><name>head</name></part></object>"
                for text in objects
            )
            (voc / "Annotations" / f"{name}.xml").write_text(f"<annotation>{body}</annotation>")
        for split in ("train", "val"):
            (voc / "ImageSets" / "Segmentation" / f"{split}.txt").write_text(f"v_{split}\n")
            write_mask(voc / "SegmentationClass" / f"v_{split}.png", np.full(SHAPE, 8, np.uint8))
        if sbd:
            folder = root / "benchmark_RELEASE" / "dataset"
            for name in VOC_OBJECTS:
                write_mat(folder / "cls" / f"{name}.mat", np.full(SHAPE, 15, np.uint8))
            (folder / "train.txt").write_text("s_train\nv_val\nboth\n")
            (folder / "val.txt").write_text("s_val\nv_train\n")
        if aug:
            (voc / "SegmentationClassAug").mkdir()
            for name in VOC_OBJECTS:
                Image.fromarray(np.full(SHAPE, 3, np.uint8)).save(voc / "SegmentationClassAug" / f"{name}.png")
        return root

    return make


CATEGORIES = [
    {"id": 3, "name": "car"},
    {"id": 1, "name": "person"},
    {"id": 10, "name": "traffic light"},
]


def box(top: int, left: int, bottom: int, right: int) -> list[list[float]]:
    """A polygon that covers the pixels of a half-open box."""
    return [[left, top, right, top, right, bottom, left, bottom]]


def runs(mask: np.ndarray) -> dict[str, Any]:
    """Uncompressed run lengths, column by column, as of COCO's crowds."""
    flat = mask.astype(np.uint8).flatten(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *edges, len(flat)]).tolist()
    return {"size": list(mask.shape), "counts": counts if flat[0] == 0 else [0, *counts]}


@pytest.fixture
def coco_root(tmp_path: Path) -> Callable[..., Path]:
    """Writes the official layout of COCO; annotations by image id, of which 1 to 3 are train and 4 to 5 are val."""

    def make(annotations: dict[int, list[dict[str, Any]]] | None = None, year: int = 2017) -> Path:
        root = tmp_path / "coco"
        (root / "annotations").mkdir(parents=True, exist_ok=True)
        if annotations is None:
            annotations = {
                1: [{"category_id": 1, "segmentation": box(0, 0, 2, 2)}],
                2: [
                    {"category_id": 10, "segmentation": box(0, 0, 2, 2)},
                    {"category_id": 1, "segmentation": box(3, 3, 5, 5)},
                ],
                4: [{"category_id": 3, "segmentation": box(0, 0, 6, 4)}],
            }
        number = 0
        for half, ids in (("train", (3, 1, 2)), ("val", (4, 5))):
            images, listed = [], []
            for i in ids:
                name = f"COCO_{half}2014_{i:012d}.jpg" if year == 2014 else f"{i:012d}.jpg"
                photograph(root / f"{half}{year}" / name)
                images.append({"id": i, "file_name": name, "height": SHAPE[0], "width": SHAPE[1]})
                for annotation in annotations.get(i, []):
                    number += 1
                    listed.append({"id": number, "image_id": i, "iscrowd": 0, **annotation})
            content = {"images": images, "annotations": listed, "categories": CATEGORIES}
            (root / "annotations" / f"instances_{half}{year}.json").write_text(json.dumps(content))
        return root

    return make
