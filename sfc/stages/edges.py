"""Stage `edge`: edge probabilities of every image of a split, float16, a quarter of its size."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch

from sfc.config import Affinity, Backbone
from sfc.data import Dataset, Split
from sfc.data.crops import normalise
from sfc.refine.irn import IRN, pair_edge
from sfc.runtime.engine import Engine, Numerics, default_device, numerics, shards
from sfc.runtime.map_files import save_edge
from sfc.runtime.training import WEIGHTS

VERSION = 1


@lru_cache(maxsize=1)
def _load(weights: Path, backbone: Backbone, how: Numerics) -> IRN:
    net = IRN(backbone.model_copy(update={"weights": None}))
    net.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return how.place(net).eval()


@torch.inference_mode()
def _shard(
    indices: Sequence[int],
    folder: Path,
    weights: Path,
    section: Affinity,
    backbone: Backbone,
    data: Dataset,
    split: Split,
) -> None:
    """Edges of some images, written one file an image; those that are there already are left alone."""
    how = numerics(section.precision, default_device())
    net = _load(weights, backbone, how)
    for i in indices:
        path = folder / f"{split.ids[i]}.npz"
        if not path.is_file():
            pixels = torch.from_numpy(np.asarray(data.image(split.ids[i])).copy()).permute(2, 0, 1)[None]
            image = normalise(pixels.to(how.device), None, backbone.mean, backbone.std)
            with how.autocast():
                save_edge(path, pair_edge(net, image, section.crop)[0])


def run(
    folder: Path, engine: Engine, *, section: Affinity, backbone: Backbone, affinity: Path, data: Dataset, split: Split
) -> None:
    """Write `folder/ID.npz` for every image of the split.

    Args:
        folder: output.
        engine: spreads the images over processes.
        section: canvas (`crop`) and precision.
        backbone: as in training.
        affinity: folder of the trained IRN.
        data, split: the images.
    """
    work = partial(
        _shard,
        folder=folder,
        weights=affinity / WEIGHTS,
        section=section,
        backbone=backbone,
        data=data,
        split=split,
    )
    for _ in engine.map(work, shards(len(split)), gpu=True):
        pass
