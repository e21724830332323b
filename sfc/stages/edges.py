"""Stage `edges`: edge probabilities of every image of a split, float16, a quarter of its size."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch

from sfc.config import Backbone
from sfc.data.crops import normalise
from sfc.refine.irn import IRN, pair_edge
from sfc.runtime.engine import Engine, Numerics, default_device, numerics, shards
from sfc.runtime.map_files import save_edge
from sfc.runtime.training import load
from sfc.stages.spec import Spec, Work


@lru_cache(maxsize=1)
def _load(folder: Path, backbone: Backbone, how: Numerics) -> IRN:
    net = IRN(backbone.model_copy(update={"weights": None}))
    net.load_state_dict(load(folder))
    placed: IRN = how.place(net).eval()
    return placed


@torch.inference_mode()
def _shard(indices: Sequence[int], work: Work) -> None:
    """Write the edges of some images, one file an image; those that exist are left alone."""
    section, backbone = work.settings.affinity, work.settings.backbone
    how = numerics(section.precision, default_device())
    net = _load(work.inputs["affinity"], backbone, how)
    for i in indices:
        path = work.folder / f"{work.split.ids[i]}.npz"
        if not path.is_file():
            pixels = torch.from_numpy(np.asarray(work.data.image(work.split.ids[i])).copy()).permute(2, 0, 1)[None]
            image = normalise(pixels.to(how.device), None, backbone.mean, backbone.std)
            with how.autocast():
                save_edge(path, pair_edge(net, image, section.crop)[0])


def run(work: Work, engine: Engine) -> None:
    """Write `ID.npz` for every image of the split."""
    for _ in engine.map(partial(_shard, work=work), shards(len(work.split)), gpu=True):
        pass


SPEC = Spec(
    version=2,
    run=run,
    reads=lambda config: ("affinity.crop", "affinity.precision", "backbone"),
    inputs=lambda config: ("affinity",),
)
