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
from sfc.runtime.warn import check_labels
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


def _masks(indices: Sequence[int], work: Work) -> Iterator[tuple[int, np.ndarray]]:
    """Index and label (H, W) of some images: their masks."""
    for i in indices:
        yield i, work.data.mask(work.split.ids[i])


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


def _shard(indices: Sequence[int], work: Work) -> tuple[Tally, np.ndarray]:
    """Write the labels of some images, where they don't exist yet. Returns their counts against masks, and the pixels
    of each class, (K,)."""
    paths = {i: work.folder / LABELS / f"{work.split.ids[i]}.png" for i in indices}
    missing = [i for i, path in paths.items() if not path.is_file()]
    labels = {"irn": _walked, "masks": _masks}.get(work.settings.pseudo.method, _direct)
    for i, label in labels(missing, work):
        write_mask(paths[i], label)
    channels = len(work.data.classes) + 1
    tally, pixels = Tally(channels), np.zeros(channels, np.int64)
    for i, path in paths.items():
        label = read_mask(path)
        pixels += np.bincount(label[label < channels], minlength=channels)
        if work.split.has_masks:
            tally.add(work.split.ids[i], work.data.mask(work.split.ids[i]), label)
    return tally, pixels


def run(work: Work, engine: Engine) -> None:
    """Write `labels/ID.png` for every image and, where the split has masks, their scores (`Tally.write`).

    Images are spread over processes: the CRF holds Python's lock, so threads would not help.
    """
    (work.folder / LABELS).mkdir(exist_ok=True)
    walks = work.settings.pseudo.method == "irn"
    parts = work.over_images(engine, _shard, gpu=walks)
    check_labels(work.folder, np.sum([pixels for _, pixels in parts], 0), "pseudo-labels")
    if work.split.has_masks:
        merge(tally for tally, _ in parts).write(work.folder, work.counts)


def _reads(config: Config) -> tuple[str, ...]:
    rule = (*RULE, "pseudo.method")
    used = {
        "argmax": rule,
        "crf": (*rule, "pseudo.void_unsure", "pseudo.crf"),
        "irn": (*rule, "pseudo.walk"),
        "masks": ("pseudo.method",),
    }
    return used[config.pseudo.method]


def _inputs(config: Config) -> tuple[str, ...]:
    return {"masks": (), "irn": ("maps", "edges")}.get(config.pseudo.method, ("maps",))


SPEC = Spec(
    version=3,
    run=run,
    reads=_reads,
    inputs=_inputs,
    needs_masks=lambda config: config.pseudo.method == "masks",
)
