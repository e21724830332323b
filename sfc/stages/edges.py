"""Stage `edges`: edge probabilities of every image of a split, float16, a quarter of its size."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import torch

from sfc.config import Backbone
from sfc.refine.irn import IRN, pair_edge
from sfc.runtime.engine import Engine, Numerics, default_device, numerics
from sfc.runtime.inference import network_input
from sfc.runtime.map_files import save_edge
from sfc.runtime.training import trained
from sfc.stages.spec import Spec, Work


@lru_cache(maxsize=1)
def _load(folder: Path, backbone: Backbone, how: Numerics) -> IRN:
    return trained(IRN(backbone.model_copy(update={"weights": None})), folder, how)


@torch.inference_mode()
def _shard(indices: Sequence[int], work: Work) -> None:
    """Write the edges of some images."""
    section, backbone = work.settings.affinity, work.settings.backbone
    how = numerics(section.precision, default_device())
    net = _load(work.inputs["affinity"], backbone, how)
    for _, name, path in work.missing(indices):
        image = network_input(work.data, name, backbone, how.device)
        with how.autocast():
            save_edge(path, pair_edge(net, image, section.crop)[0])


def run(work: Work, engine: Engine) -> None:
    """Write `ID.npz` for every image of the split."""
    work.over_images(engine, _shard, gpu=True)


SPEC = Spec(
    version=2,
    run=run,
    reads=lambda config: ("affinity.crop", "affinity.precision", "backbone"),
    inputs=lambda config: ("affinity",),
)
