"""Stage `seed`: how good the seeds of a split are, at the best background threshold and at the configured rule."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from sfc.config import Pseudo
from sfc.data import Dataset, Split
from sfc.engine import Engine, shards
from sfc.maps import load_maps
from sfc.metrics import THRESHOLDS, class_iou, confusion, seed_histogram, summarise, sweep
from sfc.refine.seeds import hard_labels, strongest
from sfc.store import write_atomic

VERSION = 1


def _shard(
    indices: Sequence[int], section: Pseudo, maps: Path, data: Dataset, split: Split
) -> tuple[np.ndarray, np.ndarray]:
    channels = len(data.classes) + 1
    histogram = np.zeros((len(THRESHOLDS) + 1, channels, channels), np.int64)
    fixed = np.zeros((channels, channels + 1), np.int64)
    for i in indices:
        name = split.ids[i]
        truth = data.mask(name)
        keys, cam, prototype = load_maps(maps / f"{name}.npz")
        fixed += confusion(truth, keys[hard_labels(cam, prototype, section)], channels)
        histogram += seed_histogram(truth, *strongest(keys, cam, prototype, section.fusion), channels)
    return histogram, fixed


def run(
    folder: Path, engine: Engine, *, section: Pseudo, maps: Path, data: Dataset, split: Split, counts: np.ndarray
) -> None:
    """Write `metrics.json` and `confusion.npy` (K, K + 1, at the configured rule).

    The metrics: `miou` and its parts at the configured rule, `iou` by class; under `best` the same at the best
    threshold of the sweep, tuned on these very masks, with `threshold` where it lies.

    Args:
        folder: output.
        engine: spreads the images over processes.
        section: fusion and background rule.
        maps: folder of the split's maps.
        data, split: a split with masks.
        counts: (C,) training images of each class.
    """
    work = partial(_shard, section=section, maps=maps, data=data, split=split)
    results = list(engine.map(work, shards(len(split))))
    matrices = sweep(np.sum([histogram for histogram, _ in results], 0))
    fixed = np.sum([matrix for _, matrix in results], 0)
    occurs = class_iou(matrices)
    best = int(np.argmax([np.nanmean(iou) if np.isfinite(iou).any() else 0 for iou in occurs]))
    metrics = summarise(fixed, counts) | {
        "iou": [round(float(v), 6) for v in class_iou(fixed)],
        "best": summarise(matrices[best], counts)
        | {"threshold": float(THRESHOLDS[best]), "iou": [round(float(v), 6) for v in occurs[best]]},
    }
    np.save(folder / "confusion.npy", fixed)
    write_atomic(folder / "metrics.json", json.dumps(metrics, indent=1))
