"""Stage `pseudo`: fused maps to seeds, seeds to the labels that the segmentation model learns."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from sfc.config import Pseudo
from sfc.data import Dataset, Split
from sfc.data.images import read_mask, write_mask
from sfc.engine import Engine, shards
from sfc.maps import load_maps
from sfc.metrics import class_iou, confusion, summarise
from sfc.refine.crf import crf_labels
from sfc.refine.seeds import hard_labels
from sfc.store import write_atomic

VERSION = 1
LABELS = "labels"


def _shard(
    indices: Sequence[int], folder: Path, section: Pseudo, maps: Path, data: Dataset, split: Split
) -> np.ndarray:
    """Write the labels of some images, those that are there already apart; their confusion matrix."""
    matrix = np.zeros((len(data.classes) + 1, len(data.classes) + 2), np.int64)
    for i in indices:
        name = split.ids[i]
        path = folder / f"{name}.png"
        if not path.is_file():
            keys, cam, prototype = load_maps(maps / f"{name}.npz")
            label = hard_labels(cam, prototype, section)
            if section.method == "crf":
                label = crf_labels(np.asarray(data.image(name)), label, len(keys), section.crf)
            write_mask(path, keys[label].astype(np.uint8))
        if split.has_masks:
            matrix += confusion(data.mask(name), read_mask(path), len(data.classes) + 1)
    return matrix


def run(
    folder: Path, engine: Engine, *, section: Pseudo, maps: Path, data: Dataset, split: Split, counts: np.ndarray
) -> None:
    """Write `labels/ID.png` for every image and, where the split has masks, `metrics.json` and `confusion.npy`.

    Args:
        folder: output.
        engine: spreads the images over processes (the CRF holds Python's lock, so threads would not help).
        section: how.
        maps: folder of the split's maps.
        data, split: what the maps are of.
        counts: (C,) training images of each class.
    """
    labels = folder / LABELS
    labels.mkdir(exist_ok=True)
    work = partial(_shard, folder=labels, section=section, maps=maps, data=data, split=split)
    matrix = np.sum(list(engine.map(work, shards(len(split)))), 0)
    if split.has_masks:
        metrics = summarise(matrix, counts) | {"iou": [round(float(v), 6) for v in class_iou(matrix)]}
        np.save(folder / "confusion.npy", matrix)
        write_atomic(folder / "metrics.json", json.dumps(metrics, indent=1))
