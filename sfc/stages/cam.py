"""Stage `cam`: both maps of every image of a split, unfused, float16, at feature resolution, of the image's labels.

Method: maps at inference of SFC, section "Implementation details"; the file format is `sfc.maps`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sfc.config import Backbone, Cam
from sfc.data import Dataset, Split
from sfc.data.crops import normalise
from sfc.engine import Engine, Numerics, default_device, numerics, shards
from sfc.fit import WEIGHTS
from sfc.maps import save_maps
from sfc.models.sfc_net import Features, SFCNet

VERSION = 1
BATCH_PIXELS = 512 * 512
"""Images of one size go through the network together up to this many pixels; it changes the speed alone."""


@lru_cache(maxsize=1)
def _load(weights: Path, backbone: Backbone, classes: int, numerics_: Numerics) -> SFCNet:
    net = SFCNet(backbone.model_copy(update={"weights": None}), classes)
    net.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return numerics_.place(net).eval()


def scaled_size(size: tuple[int, int], scale: float) -> tuple[int, int]:
    """Height and width times `scale`, rounded half to even, at least 1."""
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def infer(net: SFCNet, image_N3HW: Tensor, section: Cam) -> list[tuple[Tensor, Tensor]]:
    """Both maps at each scale, no mask and no label applied.

    Args:
        net: in eval mode.
        image_N3HW: normalised images of one size.
        section: scales and mirror.

    Returns:
        For each scale, classifier map and prototype map (N, K, h, w) float32.
    """
    size = tuple(image_N3HW.shape[-2:])
    maps = []
    for scale in section.scales:
        view = image_N3HW
        if scale != 1:
            view = torch.nn.functional.interpolate(view, scaled_size(size, scale), mode="bicubic", align_corners=False)
        features = net(view)
        if section.mirror:
            mirrored = net(view.flip(-1))
            features = Features(*(a + b.flip(-1) for a, b in zip(features, mirrored, strict=True)))
        maps.append(net.maps(features, correlation=section.correlation))
    return maps


@torch.inference_mode()
def _shard(
    indices: Sequence[int], folder: Path, weights: Path, section: Cam, backbone: Backbone, data: Dataset, split: Split
) -> int:
    """Maps of some images, written one file an image; those that are there already are left alone."""
    how = numerics(section.precision, default_device())
    net = _load(weights, backbone, len(data.classes), how)
    waiting: dict[tuple[int, int], list[tuple[int, np.ndarray]]] = {}

    def flush(size: tuple[int, int]) -> None:
        group = waiting.pop(size)
        pixels = torch.from_numpy(np.stack([image for _, image in group])).permute(0, 3, 1, 2)
        image = normalise(pixels.to(how.device), None, backbone.mean, backbone.std)
        with how.autocast():
            maps = infer(net, image, section)
        for n, (i, _) in enumerate(group):
            keys = np.concatenate([[0], np.flatnonzero(split.labels[i]) + 1])
            save_maps(folder / f"{split.ids[i]}.npz", keys, size, [(cam[n, keys], p[n, keys]) for cam, p in maps])

    for i in indices:
        if (folder / f"{split.ids[i]}.npz").is_file():
            continue
        image = np.asarray(data.image(split.ids[i]))
        size = image.shape[:2]
        group = waiting.setdefault(size, [])
        group.append((i, image))
        if (len(group) + 1) * size[0] * size[1] > BATCH_PIXELS:
            flush(size)
    for size in list(waiting):
        flush(size)
    return len(indices)


def run(
    folder: Path, engine: Engine, *, section: Cam, backbone: Backbone, classifier: Path, data: Dataset, split: Split
) -> None:
    """Write `folder/ID.npz` for every image of the split."""
    work = partial(
        _shard,
        folder=folder,
        weights=classifier / WEIGHTS,
        section=section,
        backbone=backbone,
        data=data,
        split=split,
    )
    for _ in engine.map(work, shards(len(split)), gpu=True):
        pass
