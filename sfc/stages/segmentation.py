"""Stage `segmentation`: a segmentation model trained on pseudo-labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfc.config import Backbone, Segmentation
from sfc.data import Dataset, Split
from sfc.data.crops import Crop, Crops, normalise
from sfc.data.images import VOID
from sfc.engine import Context, Engine, numerics
from sfc.fit import WEIGHTS, fit, save
from sfc.image_bank import ImageBank, epoch_batches
from sfc.models.deeplab import build_deeplab

VERSION = 1


class PixelLoss(nn.Module):
    """Cross-entropy over the pixels that have a label."""

    def __init__(self, net: nn.Module, backbone: Backbone) -> None:
        super().__init__()
        self.net, self.input = net, backbone

    def forward(self, crop: Crop, progress: float) -> dict[str, Tensor]:
        """Loss `total` of a batch of crops with masks; 0 where no pixel has a label."""
        logits = self.net(normalise(crop.image, crop.box, self.input.mean, self.input.std))["out"]
        target = crop.mask.long()
        loss = F.cross_entropy(logits.float(), target, ignore_index=VOID, reduction="sum")
        return {"total": loss / (target != VOID).sum().clamp(min=1)}


def train(
    context: Context,
    section: Segmentation,
    backbone: Backbone,
    labels: Path,
    start: Path | None,
    data: Dataset,
    split: Split,
    seed: int,
) -> None:
    """The training loop of one worker; rank 0 leaves the network and the history in the context's folder."""
    torch.manual_seed(seed)
    net = build_deeplab(backbone, len(data.classes) + 1, section.rates)
    if start is not None:
        state = torch.load(start / WEIGHTS, map_location="cpu", weights_only=True)
        prefix = "backbone."
        net.backbone.backbone.load_state_dict(
            {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        )
    if context.world_size > 1 and context.device.type == "cuda":
        net = nn.SyncBatchNorm.convert_sync_batchnorm(net)
    crops = Crops(data, split, crop=section.crop, resize=section.resize, flip=section.flip, seed=seed, masks=labels)
    no_bank = ImageBank(len(data.classes))
    groups = [
        {"params": [p for p in net.backbone.parameters() if p.requires_grad], "lr": section.lr},
        {"params": list(net.classifier.parameters()), "lr": section.head_lr},
    ]
    history = fit(
        context,
        PixelLoss(net, backbone),
        [group for group in groups if group["params"]],
        crops,
        lambda epoch: epoch_batches(
            np.zeros_like(split.labels), no_bank, epoch=epoch, batch=section.batch, drawn=0, seed=seed
        ),
        numerics(section.precision, context.device),
        epochs=section.epochs,
        momentum=section.momentum,
        weight_decay=section.weight_decay,
        clip=section.clip,
        power=section.power,
        seed=seed,
    )
    if context.rank == 0:
        save(net, history, context.folder)


def run(
    folder: Path,
    engine: Engine,
    *,
    section: Segmentation,
    backbone: Backbone,
    labels: Path,
    start: Path | None,
    data: Dataset,
    split: Split,
    seed: int,
) -> None:
    """Train into `folder`: `model.pt` (state of torchvision's DeepLabV3) and `history.json`.

    Args:
        folder: output.
        engine: runs the training.
        section: how.
        backbone: under the head.
        labels: folder of the label maps by image name.
        start: folder of a trained classifier whose backbone it starts from, or None.
        data, split: the images.
        seed: of everything random.
    """
    if not (folder / WEIGHTS).is_file():
        engine.train(train, section, backbone, labels, start, data, split, seed, folder=folder)
