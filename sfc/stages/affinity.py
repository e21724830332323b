"""Stage `affinity`: IRN, trained on the labels that two CRFs agree on (method.md section 3)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfc.config import Affinity, Backbone, Pseudo
from sfc.data import Dataset, Split
from sfc.data.crops import Crop, Crops, normalise
from sfc.data.images import write_mask
from sfc.method.image_bank import ImageBank, epoch_batches
from sfc.networks.published_checkpoints import load_checkpoint
from sfc.refine.affinity import irn_losses
from sfc.refine.crf import ir_labels
from sfc.refine.irn import IRN, infer
from sfc.refine.seeds import as_classes, ruled_maps
from sfc.runtime.engine import Context, Engine, Numerics, numerics, shards
from sfc.runtime.map_files import load_maps
from sfc.runtime.training import WEIGHTS, fit, save

VERSION = 1
LABELS = "labels"


class PairLoss(nn.Module):
    """A training step of IRN.

    Args:
        net: the network; its parameters are this module's.
        radius: of the pairs.
        backbone: what the input looks like.
    """

    def __init__(self, net: IRN, radius: int, backbone: Backbone) -> None:
        super().__init__()
        self.net, self.radius, self.input = net, radius, backbone

    def forward(self, crop: Crop, progress: float) -> dict[str, Tensor]:
        """Losses by name, from `irn_losses`, of a batch of crops with masks."""
        edge, displacement = self.net(normalise(crop.image, crop.box, self.input.mean, self.input.std))
        label = F.interpolate(crop.mask[:, None].float(), edge.shape[-2:], mode="nearest-exact")[:, 0]
        return irn_losses(edge, displacement, label.to(torch.uint8), self.radius)


def _label_shard(
    indices: Sequence[int], folder: Path, section: Pseudo, maps: Path, data: Dataset, split: Split
) -> None:
    """Write the labels that IRN learns from, those that are there already apart."""
    for i in indices:
        name = split.ids[i]
        path = folder / f"{name}.png"
        if not path.is_file():
            keys, cam, prototype = load_maps(maps / f"{name}.npz")
            fused = ruled_maps(cam, prototype, section, section.fusion).numpy()
            write_mask(path, as_classes(ir_labels(np.asarray(data.image(name)), fused, section.crf), keys))


@torch.no_grad()
def mean_displacement(
    net: IRN, section: Affinity, backbone: Backbone, data: Dataset, split: Split, how: Numerics
) -> Tensor:
    """(2,) float32: the mean over the split's images of each one's mean displacement."""
    net.train()  # the displacement as it is
    total = torch.zeros(2, device=how.device)
    for name in split.ids:
        pixels = torch.from_numpy(np.asarray(data.image(name)).copy()).permute(2, 0, 1)[None]
        image = normalise(pixels.to(how.device), None, backbone.mean, backbone.std)
        with how.autocast():
            _, displacement = infer(net, image, section.crop)
        total += displacement.float().mean((0, 2, 3))
    return total / len(split)


def train(
    context: Context,
    section: Affinity,
    backbone: Backbone,
    classifier: Path,
    labels: Path,
    data: Dataset,
    split: Split,
    seed: int,
) -> None:
    """The training loop of one worker; rank 0 leaves the network and the history in the context's folder."""
    torch.manual_seed(seed)
    net = IRN(backbone)
    if backbone.weights is None:
        state = torch.load(classifier / WEIGHTS, map_location="cpu", weights_only=True)
        known = {k.removeprefix("backbone."): v for k, v in state.items() if k.startswith("backbone.")}
        net.backbone.load_state_dict(known)
    crops = Crops(data, split, crop=section.crop, resize=section.resize, flip=section.flip, seed=seed, masks=labels)
    no_bank = ImageBank(len(data.classes))
    how = numerics(section.precision, context.device)
    history = fit(
        context,
        PairLoss(net, section.radius, backbone),
        [
            {"params": net.edge_parameters(), "lr": section.lr},
            {"params": net.displacement_parameters(), "lr": section.displacement_lr},
        ],
        crops,
        lambda epoch: epoch_batches(
            np.zeros_like(split.labels), no_bank, epoch=epoch, batch=section.batch, drawn=0, seed=seed
        ),
        how,
        epochs=section.epochs,
        momentum=section.momentum,
        weight_decay=section.weight_decay,
        clip=section.clip,
        power=section.power,
        seed=seed,
        micro_batch=section.micro_batch,
        optimiser=section.optimiser,
    )
    if context.rank == 0:
        net.running_mean.copy_(mean_displacement(net, section, backbone, data, split, how))
        save(net, history, context.folder)


def run(
    folder: Path,
    engine: Engine,
    *,
    section: Affinity,
    pseudo: Pseudo,
    backbone: Backbone,
    classifier: Path,
    maps: Path,
    data: Dataset,
    split: Split,
    seed: int,
) -> None:
    """Train into `folder`: `labels/ID.png`, `model.pt` (state of an IRN) and `history.json`.

    Args:
        folder: output.
        engine: spreads the labels over processes and trains.
        section: how; where it names a network that is trained already, that one is taken, and no label is made.
        pseudo: fusion, background rule and CRF of the labels.
        backbone: as in the section `backbone`.
        classifier: folder of the trained classifier, whose backbone is used where `backbone` names no weights.
        maps: folder of the split's maps.
        data, split: what to train on.
        seed: of everything random.

    Raises:
        UserError: the network that the section names does not fit the backbone.
    """
    if (folder / WEIGHTS).is_file():
        return
    if section.weights is not None:
        net = IRN(backbone.model_copy(update={"weights": None}))
        load_checkpoint(net, Path(section.weights), "affinity.weights")
        save(net, [], folder)
        return
    labels = folder / LABELS
    labels.mkdir(exist_ok=True)
    work = partial(_label_shard, folder=labels, section=pseudo, maps=maps, data=data, split=split)
    for _ in engine.map(work, shards(len(split))):
        pass
    engine.train(train, section, backbone, classifier, labels, data, split, seed, folder=folder)
