"""Stage `affinity`: IRN, trained on the labels that two CRFs agree on (Ahn, Cho, Kwak, CVPR 2019)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfc.config import RULE, Backbone
from sfc.data.crops import Crop, normalise
from sfc.data.images import write_mask
from sfc.method.image_bank import plain_batches
from sfc.networks.published_checkpoints import load_checkpoint
from sfc.refine.affinity import irn_losses
from sfc.refine.crf import ir_labels
from sfc.refine.irn import IRN, infer
from sfc.refine.seeds import as_classes, ruled_maps
from sfc.runtime.engine import Context, Engine, Numerics, numerics
from sfc.runtime.inference import network_input
from sfc.runtime.training import WEIGHTS, Batches, fit, load, read_history, save
from sfc.runtime.warn import check_losses
from sfc.stages.spec import LABELS, Spec, Work


class PairLoss(nn.Module):
    """A training step of IRN, which compares pairs of pixels nearer than `radius`."""

    def __init__(self, net: IRN, radius: int, backbone: Backbone) -> None:
        super().__init__()
        self.net, self.radius, self.input = net, radius, backbone

    def forward(self, crop: Crop, progress: float) -> dict[str, Tensor]:
        """Losses by name, from `irn_losses`, of a batch of crops with masks."""
        edge, displacement = self.net(normalise(crop.image, crop.box, self.input.mean, self.input.std))
        label = F.interpolate(crop.mask[:, None].float(), edge.shape[-2:], mode="nearest-exact")[:, 0]
        return irn_losses(edge, displacement, label.to(torch.uint8), self.radius)


def _label_shard(indices: Sequence[int], work: Work) -> None:
    """Write the labels that IRN learns from."""
    section = work.settings.pseudo
    for _, name, path in work.missing(indices, LABELS, ".png"):
        keys, maps = work.image_maps(name)
        fused = ruled_maps(maps, section, section.fusion).numpy()
        write_mask(path, as_classes(ir_labels(np.asarray(work.data.image(name)), fused, section.crf), keys))


@torch.no_grad()
def mean_displacement(net: IRN, work: Work, how: Numerics) -> Tensor:
    """Mean over the split's images of each one's mean displacement, (2,) float32."""
    net.train()  # the displacement as it is
    total = torch.zeros(2, device=how.device)
    for name in work.split.ids:
        image = network_input(work.data, name, work.settings.backbone, how.device)
        with how.autocast():
            _, displacement = infer(net, image, work.settings.affinity.crop)
        total += displacement.float().mean((0, 2, 3))
    return total / len(work.split)


def train(context: Context, work: Work) -> None:
    """The training of one worker; rank 0 leaves the network and the history in the context's folder."""
    section, backbone, seed = work.settings.affinity, work.settings.backbone, work.settings.seed
    torch.manual_seed(seed)
    net = IRN(backbone)
    if backbone.weights is None:
        net.backbone.load_state_dict(load(work.inputs["classifier"], "backbone."))
    crops = work.crops(section, resize=section.resize, masks=work.folder / LABELS)
    batches = Batches(crops, partial(plain_batches, len(work.split), batch=section.batch, seed=seed), section.epochs)
    groups = [
        {"params": net.edge_parameters(), "lr": section.lr},
        {"params": net.displacement_parameters(), "lr": section.displacement_lr},
    ]
    history = fit(context, PairLoss(net, section.radius, backbone), batches, section, groups, seed)
    if context.rank == 0:
        net.get_buffer("running_mean").copy_(
            mean_displacement(net, work, numerics(section.precision, context.device, net))
        )
        save(net, history, context.folder)


def run(work: Work, engine: Engine) -> None:
    """Write `labels/ID.png`, `model.pt` (state of an IRN) and `history.json`; no labels where the section names a
    trained network.

    Raises:
        UserError: the network that the section names does not fit the backbone.
    """
    section = work.settings.affinity
    if (work.folder / WEIGHTS).is_file():
        return
    if section.weights is not None:
        net = IRN(work.settings.backbone.model_copy(update={"weights": None}))
        load_checkpoint(net, Path(section.weights), "affinity.weights")
        save(net, [], work.folder)
        return
    (work.folder / LABELS).mkdir(exist_ok=True)
    work.over_images(engine, _label_shard)
    engine.train(train, work, folder=work.folder)
    check_losses(work.folder, "affinity", read_history(work.folder))


SPEC = Spec(
    version=3,
    run=run,
    reads=lambda config: ("affinity", *RULE, "pseudo.crf", "backbone", "seed"),
    inputs=lambda config: ("classifier", "maps"),
    split="train",
    trains="affinity",
)
