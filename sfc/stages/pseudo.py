"""Stage `pseudo`: fused maps to seeds, seeds to the labels that the segmentation model learns."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from sfc.config import Pseudo
from sfc.data import Dataset, Split
from sfc.data.images import read_mask, write_mask
from sfc.engine import Engine, shards
from sfc.maps import load_maps
from sfc.refine.crf import crf_labels
from sfc.refine.seeds import hard_labels
from sfc.scores import Tally, merge

VERSION = 2
LABELS = "labels"


def _shard(indices: Sequence[int], folder: Path, section: Pseudo, maps: Path, data: Dataset, split: Split) -> Tally:
    """Write the labels of some images, those that are there already apart; their counts."""
    tally = Tally(len(data.classes) + 1)
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
            tally.add(name, data.mask(name), read_mask(path))
    return tally


def run(
    folder: Path, engine: Engine, *, section: Pseudo, maps: Path, data: Dataset, split: Split, counts: np.ndarray
) -> None:
    """Write `labels/ID.png` for every image and, where the split has masks, its scores (`Tally.write`).

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
    tally = merge(engine.map(work, shards(len(split))))
    if split.has_masks:
        tally.write(folder, counts)
