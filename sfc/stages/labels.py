"""Stage `labels`: fused maps to seeds, seeds to the pseudo-labels that the segmentation model learns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from sfc.config import RULE, Config
from sfc.data.images import read_mask, write_mask
from sfc.refine.crf import crf_labels, ir_labels
from sfc.refine.random_walk import walk_labels
from sfc.refine.seeds import as_classes, hard_labels, ruled_maps
from sfc.runtime.engine import Engine, default_device
from sfc.runtime.inference import by_shape
from sfc.runtime.map_files import load_edge
from sfc.scoring.tally import Tally, merge
from sfc.stages.spec import LABELS, Spec, Work


def group_pixels(device: torch.device) -> int:
    """Images of one size and number of labels walk together up to this many pixels. Small ones share what a step costs
    whatever its size; a GPU is idle with one image. It changes the speed alone."""
    return (64 if device.type == "cuda" else 1) * 256 * 256


def _walked(indices: Sequence[int], work: Work) -> Iterator[tuple[int, np.ndarray]]:
    """Index and label (H, W) of some images by the random walk."""
    section, device = work.settings.pseudo, default_device()

    def ready() -> Iterator[tuple[Sequence[int], tuple[int, np.ndarray, Tensor, Tensor]]]:
        for i in indices:
            name = work.split.ids[i]
            keys, maps = work.image_maps(name)
            fused = ruled_maps(maps, section, section.walk.fusion)
            yield fused.shape, (i, keys, fused, load_edge(work.inputs["edges"] / f"{name}.npz"))

    for group in by_shape(ready(), group_pixels(device)):
        fused = torch.stack([item[2] for item in group]).to(device)
        edge = torch.stack([item[3] for item in group]).to(device)
        for (i, keys, *_), label in zip(group, walk_labels(fused, edge, section.walk).cpu().numpy(), strict=True):
            yield i, as_classes(label, keys)


def _direct(indices: Sequence[int], work: Work) -> Iterator[tuple[int, np.ndarray]]:
    """Index and label (H, W) of some images by argmax, or by a CRF on it."""
    section = work.settings.pseudo
    for i in indices:
        name = work.split.ids[i]
        keys, maps = work.image_maps(name)
        label = hard_labels(maps, section)
        if section.method == "crf":
            image = np.asarray(work.data.image(name))
            if section.void_unsure:
                label = ir_labels(image, ruled_maps(maps, section, section.fusion).numpy(), section.crf)
            else:
                label = crf_labels(image, label, len(keys), section.crf)
        yield i, as_classes(label, keys)


def _shard(indices: Sequence[int], work: Work) -> Tally:
    """Write the labels of some images, where they don't exist yet; their counts."""
    paths = {i: work.folder / LABELS / f"{work.split.ids[i]}.png" for i in indices}
    missing = [i for i, path in paths.items() if not path.is_file()]
    for i, label in (_walked if work.settings.pseudo.method == "irn" else _direct)(missing, work):
        write_mask(paths[i], label)
    tally = Tally(len(work.data.classes) + 1)
    if work.split.has_masks:
        for i, path in paths.items():
            tally.add(work.split.ids[i], work.data.mask(work.split.ids[i]), read_mask(path))
    return tally


def run(work: Work, engine: Engine) -> None:
    """Write `labels/ID.png` for every image and, where the split has masks, their scores (`Tally.write`).

    Images are spread over processes: the CRF holds Python's lock, so threads would not help.
    """
    (work.folder / LABELS).mkdir(exist_ok=True)
    walks = work.settings.pseudo.method == "irn"
    tally = merge(work.over_images(engine, _shard, gpu=walks))
    if work.split.has_masks:
        tally.write(work.folder, work.counts)


def _reads(config: Config) -> tuple[str, ...]:
    used = {"argmax": (), "crf": ("pseudo.void_unsure", "pseudo.crf"), "irn": ("pseudo.walk",)}
    return (*RULE, "pseudo.method", *used[config.pseudo.method])


SPEC = Spec(
    version=3,
    run=run,
    reads=_reads,
    inputs=lambda config: ("maps", "edges") if config.pseudo.method == "irn" else ("maps",),
)
