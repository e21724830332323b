"""Stage `pseudo`: fused maps to seeds, seeds to the labels that the segmentation model learns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sfc.config import Pseudo
from sfc.data import Dataset, Split
from sfc.data.images import read_mask, write_mask
from sfc.refine.crf import crf_labels, ir_labels
from sfc.refine.random_walk import walk_labels
from sfc.refine.seeds import as_classes, hard_labels, ruled_maps
from sfc.runtime.engine import Engine, default_device, shards
from sfc.runtime.inference import by_shape
from sfc.runtime.map_files import load_edge, load_maps
from sfc.scoring.tally import Tally, merge

VERSION = 2
LABELS = "labels"


def group_pixels(device: torch.device) -> int:
    """Images of one size and number of labels walk together up to this many pixels. Small ones share what a step costs
    whatever its size; a GPU is idle with one image. It changes the speed alone."""
    return (64 if device.type == "cuda" else 1) * 256 * 256


def _walked(
    indices: Sequence[int], section: Pseudo, maps: Path, edges: Path, split: Split
) -> Iterator[tuple[int, np.ndarray]]:
    """Index and label (H, W) of some images by the random walk."""
    device = default_device()

    def ready() -> Iterator[tuple[Sequence[int], tuple[int, np.ndarray, Tensor, Tensor]]]:
        for i in indices:
            keys, cam, prototype = load_maps(maps / f"{split.ids[i]}.npz")
            fused = ruled_maps(cam, prototype, section, section.walk.fusion)
            yield fused.shape, (i, keys, fused, load_edge(edges / f"{split.ids[i]}.npz"))

    for group in by_shape(ready(), group_pixels(device)):
        fused, edge = (torch.stack([item[n] for item in group]).to(device) for n in (2, 3))
        for (i, keys, *_), label in zip(group, walk_labels(fused, edge, section.walk).cpu().numpy(), strict=True):
            yield i, as_classes(label, keys)


def _direct(
    indices: Sequence[int], section: Pseudo, maps: Path, data: Dataset, split: Split
) -> Iterator[tuple[int, np.ndarray]]:
    """Index and label (H, W) of some images by argmax, or by a CRF on it."""
    for i in indices:
        name = split.ids[i]
        keys, cam, prototype = load_maps(maps / f"{name}.npz")
        label = hard_labels(cam, prototype, section)
        if section.method == "crf":
            image = np.asarray(data.image(name))
            if section.void_unsure:
                label = ir_labels(image, ruled_maps(cam, prototype, section, section.fusion).numpy(), section.crf)
            else:
                label = crf_labels(image, label, len(keys), section.crf)
        yield i, as_classes(label, keys)


def _shard(
    indices: Sequence[int],
    folder: Path,
    section: Pseudo,
    maps: Path,
    edges: Path | None,
    data: Dataset,
    split: Split,
) -> Tally:
    """Write the labels of some images, those that are there already apart; their counts."""
    paths = {i: folder / f"{split.ids[i]}.png" for i in indices}
    missing = [i for i, path in paths.items() if not path.is_file()]
    if section.method == "irn":
        if edges is None:
            raise ValueError("the method irn needs edges")
        made = _walked(missing, section, maps, edges, split)
    else:
        made = _direct(missing, section, maps, data, split)
    for i, label in made:
        write_mask(paths[i], label)
    tally = Tally(len(data.classes) + 1)
    if split.has_masks:
        for i, path in paths.items():
            tally.add(split.ids[i], data.mask(split.ids[i]), read_mask(path))
    return tally


def run(
    folder: Path,
    engine: Engine,
    *,
    section: Pseudo,
    maps: Path,
    edges: Path | None = None,
    data: Dataset,
    split: Split,
    counts: np.ndarray,
) -> None:
    """Write `labels/ID.png` for every image and, where the split has masks, its scores (`Tally.write`).

    Args:
        folder: output.
        engine: spreads the images over processes (the CRF holds Python's lock, so threads would not help).
        section: how.
        maps: folder of the split's maps.
        edges: folder of the split's edges, for the method irn.
        data, split: what the maps are of.
        counts: (C,) training images of each class.
    """
    labels = folder / LABELS
    labels.mkdir(exist_ok=True)
    work = partial(_shard, folder=labels, section=section, maps=maps, edges=edges, data=data, split=split)
    tally = merge(engine.map(work, shards(len(split)), gpu=section.method == "irn"))
    if split.has_masks:
        tally.write(folder, counts)
