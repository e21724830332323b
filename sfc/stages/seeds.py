"""Stage `seed`: how good the seeds of a split are, at the best background threshold and at the configured rule."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from sfc.config import Pseudo
from sfc.data import Dataset, Split
from sfc.refine.seeds import hard_labels, strongest
from sfc.runtime.engine import Engine, shards
from sfc.runtime.map_files import load_maps
from sfc.scoring.metrics import THRESHOLDS, class_iou, seed_histogram, sweep
from sfc.scoring.tally import Tally, merge, numbers

VERSION = 2


def _shard(
    indices: Sequence[int], section: Pseudo, maps: Path, data: Dataset, split: Split
) -> tuple[np.ndarray, Tally]:
    channels = len(data.classes) + 1
    histogram = np.zeros((len(THRESHOLDS) + 1, channels, channels), np.int64)
    fixed = Tally(channels)
    for i in indices:
        name = split.ids[i]
        truth = data.mask(name)
        keys, cam, prototype = load_maps(maps / f"{name}.npz")
        fixed.add(name, truth, keys[hard_labels(cam, prototype, section)])
        histogram += seed_histogram(truth, *strongest(keys, cam, prototype, section.fusion), channels)
    return histogram, fixed


def run(
    folder: Path, engine: Engine, *, section: Pseudo, maps: Path, data: Dataset, split: Split, counts: np.ndarray
) -> None:
    """Write the scores at the configured rule (`Tally.write`), and the best threshold's beside them.

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
    best = int(np.argmax([np.nanmean(iou) if np.isfinite(iou).any() else 0 for iou in class_iou(matrices)]))
    found = numbers(matrices[best], counts) | {"threshold": float(THRESHOLDS[best])}
    merge(tally for _, tally in results).write(folder, counts, best=found)
