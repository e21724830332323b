"""Stage `classifier`: a classifier from image labels, its maps calibrated by the MSDW consistency loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sfc.config import Backbone, Classifier
from sfc.data import Dataset, Split
from sfc.data.crops import Crop, Crops, normalise
from sfc.method.cam import resize, valid_mask
from sfc.method.image_bank import ImageBank, epoch_batches
from sfc.method.losses import classification_loss, prototype_consistency, scale_consistency
from sfc.method.network import SFCNet, score
from sfc.method.weighting import distribution_weights, resampling_term
from sfc.networks.published_checkpoints import load_checkpoint
from sfc.runtime.engine import Context, Engine, numerics
from sfc.runtime.training import WEIGHTS, fit, save

VERSION = 1


class Msdw(nn.Module):
    """A training step: views, maps and the MSDW loss (SFC, equations of "Multi-scaled distribution-weighted loss").

    Args:
        net: the network; its parameters are this module's.
        section: weights, scales, warm-up.
        backbone: what the input looks like.
        weight_C: distribution weights.
    """

    def __init__(self, net: SFCNet, section: Classifier, backbone: Backbone, weight_C: Tensor) -> None:
        super().__init__()
        self.net, self.section, self.input = net, section, backbone
        self.register_buffer("weight_C", weight_C, persistent=False)

    def forward(self, crop: Crop, progress: float) -> dict[str, Tensor]:
        """Losses by name: `classification`, `prototype` and `scale` (weighted), and their sum `total`."""
        section = self.section
        rise = min(1.0, progress / section.warmup) if section.warmup else 1.0
        prototype_weight, scale_weight = section.prototype_weight * rise, section.scale_weight * rise
        # The maps are made whenever a weight will be above 0, so that a step costs the same from the first.
        use_prototype, use_scale = section.prototype_weight > 0, section.scale_weight > 0

        image = normalise(crop.image, crop.box, self.input.mean, self.input.std)
        size = tuple(image.shape[-2:])
        full = self.net(image, hierarchical=use_prototype)
        scores, scale_losses = [score(full)], []
        losses: dict[str, Tensor] = {}
        if use_prototype or use_scale:
            valid = valid_mask(crop.label, crop.box, size, tuple(full.logits.shape[-2:]))
            cam, prototype = self.net.maps(full, valid, prototype=use_prototype)
            if use_prototype:
                losses["prototype"] = prototype_weight * prototype_consistency(cam, prototype, self.weight_C)
        for scale in section.scales:
            view = resize(image, tuple(max(1, round(side * scale)) for side in size), align_corners=True)
            small = self.net(view, hierarchical=False)
            scores.append(score(small))
            if use_scale:
                valid = valid_mask(crop.label, crop.box, size, tuple(small.logits.shape[-2:]))
                cam_small, _ = self.net.maps(small, valid, prototype=False)
                scale_losses.append(scale_consistency(cam, cam_small, crop.label, self.weight_C))
        if use_scale:
            losses["scale"] = scale_weight * torch.stack(scale_losses).mean()
        losses["classification"] = classification_loss(scores, crop.label)
        return losses | {"total": torch.stack(list(losses.values())).sum()}


def train(context: Context, section: Classifier, backbone: Backbone, data: Dataset, split: Split, seed: int) -> None:
    """The training loop of one worker; rank 0 leaves the network and the history in the context's folder."""
    torch.manual_seed(seed)
    net = SFCNet(backbone, len(data.classes))
    resampling = section.resampling
    if resampling is None:
        resampling = resampling_term(len(split), section.batch, section.bank_images, len(data.classes))
    counts = split.labels.sum(0)
    weights = torch.from_numpy(distribution_weights(counts, section.weighting, resampling, section.beta))
    model = Msdw(net, section, backbone, weights)
    learning = {id(p) for p in net.head_parameters()}
    groups: list[dict[str, Any]] = [
        {"params": [p for p in net.backbone.parameters() if p.requires_grad], "lr": section.lr},
        {"params": [p for p in net.parameters() if id(p) in learning], "lr": section.head_lr},
    ]
    crops = Crops(data, split, crop=section.crop, resize_long=section.resize_long, flip=section.flip, seed=seed)
    bank = ImageBank(len(data.classes), draw_empty=section.bank_draws_empty)
    history = fit(
        context,
        model,
        [group for group in groups if group["params"]],
        crops,
        lambda epoch: epoch_batches(
            split.labels, bank, epoch=epoch, batch=section.batch, drawn=section.bank_images, seed=seed
        ),
        numerics(section.precision, context.device),
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
        save(net, history, context.folder)


def run(
    folder: Path, engine: Engine, *, section: Classifier, backbone: Backbone, data: Dataset, split: Split, seed: int
) -> None:
    """Train into `folder`: `model.pt` (state of an SFCNet) and `history.json`, which is empty where the section names
    a network that is trained already.

    Raises:
        UserError: that network does not fit the backbone or the classes.
    """
    if (folder / WEIGHTS).is_file():
        return
    if section.weights is None:
        engine.train(train, section, backbone, data, split, seed, folder=folder)
        return
    net = SFCNet(backbone.model_copy(update={"weights": None}), len(data.classes))
    load_checkpoint(net, Path(section.weights), "classifier.weights")
    save(net, [], folder)
