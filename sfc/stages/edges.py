"""Stage `edges`: edge probabilities of every image of a split, float16, a quarter of its size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from sfc.config import Backbone, Precision
from sfc.refine.irn import IRN, pair_edge
from sfc.runtime.engine import Engine, Numerics
from sfc.runtime.inference import network_input, once_for_all_threads
from sfc.runtime.map_files import save_edge
from sfc.runtime.training import trained
from sfc.runtime.warn import check_edges
from sfc.stages.spec import Spec, Work


@once_for_all_threads
def _load(folder: Path, backbone: Backbone, precision: Precision) -> tuple[IRN, Numerics]:
    return trained(IRN(backbone.model_copy(update={"weights": None})), folder, precision)


@torch.inference_mode()
def _shard(indices: Sequence[int], work: Work) -> list[float]:
    """Write the edges of some images. Returns the mean of each that was made now."""
    means = []
    section, backbone = work.settings.affinity, work.settings.backbone
    net, how = _load(work.inputs["affinity"], backbone, section.precision)
    for _, name, path in work.missing(indices):
        image = network_input(work.data, name, backbone, how.device)
        with how.autocast():
            edge = pair_edge(net, image, section.crop)[0]
        save_edge(path, edge)
        means.append(float(edge.float().mean()))
    return means


def run(work: Work, engine: Engine) -> None:
    """Write `ID.npz` for every image of the split."""
    means = [mean for shard in work.over_images(engine, _shard, gpu=True) for mean in shard]
    if means:
        check_edges(work.folder, sum(means) / len(means))


SPEC = Spec(
    version=3,
    run=run,
    reads=lambda config: ("affinity.crop", "affinity.precision", "backbone"),
    inputs=lambda config: ("affinity",),
)
