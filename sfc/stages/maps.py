"""Stage `cam`: both maps of every image of a split, unfused, float16, at feature resolution, of the image's labels.

Method: maps at inference of SFC, section "Implementation details"; the file format is `sfc.runtime.map_files`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sfc.config import Backbone, Cam
from sfc.data import Dataset, Split
from sfc.method.network import Features, SFCNet
from sfc.runtime.engine import Engine, default_device, numerics, shards
from sfc.runtime.inference import image_batches, load_classifier
from sfc.runtime.map_files import save_maps
from sfc.runtime.training import WEIGHTS

VERSION = 1


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
) -> None:
    """Maps of some images, written one file an image; those that are there already are left alone."""
    how = numerics(section.precision, default_device())
    net = load_classifier(weights, backbone, len(data.classes), how)
    missing = [i for i in indices if not (folder / f"{split.ids[i]}.npz").is_file()]
    for group, image in image_batches(missing, data, split, backbone, how.device):
        with how.autocast():
            maps = infer(net, image, section)
        for n, i in enumerate(group):
            keys = np.concatenate([[0], np.flatnonzero(split.labels[i]) + 1])
            kept = [(cam[n, keys], prototype[n, keys]) for cam, prototype in maps]
            save_maps(folder / f"{split.ids[i]}.npz", keys, tuple(image.shape[-2:]), kept)


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
