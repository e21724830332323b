"""Stage `segmentation`: a segmentation model trained on pseudo-labels."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from sfc.config import Backbone, Segmentation
from sfc.data import Dataset, Split
from sfc.data.crops import Crop, Crops, normalise
from sfc.errors import UserError
from sfc.method.image_bank import ImageBank, Recipe, epoch_batches
from sfc.method.losses import pixel_loss
from sfc.networks.deeplab import backbone_of, build_deeplab, parameter_groups
from sfc.runtime.engine import Context, Engine, numerics
from sfc.runtime.training import WEIGHTS, fit, save

VERSION = 2


class PixelLoss(nn.Module):
    """The network and its loss over the pixels that have a label."""

    def __init__(self, net: nn.Module, backbone: Backbone, *, balanced: bool = False) -> None:
        super().__init__()
        self.net, self.input, self.balanced = net, backbone, balanced

    def forward(self, crop: Crop, progress: float) -> dict[str, Tensor]:
        """Loss `total` of a batch of crops with masks."""
        logits = self.net(normalise(crop.image, crop.box, self.input.mean, self.input.std))["out"]
        return {"total": pixel_loss(logits, crop.mask, balanced=self.balanced)}


class Schedule:
    """Batches of every epoch up to the configured end.

    Args:
        section: epochs or iterations, and the batch.
        split: what is trained on.
        seed: of the order.
    """

    def __init__(self, section: Segmentation, split: Split, seed: int) -> None:
        self.section, self.split, self.seed = section, split, seed
        self.per_epoch = len(split) // min(section.batch, len(split))
        self.steps = section.iterations or section.epochs * self.per_epoch
        self.epochs = math.ceil(self.steps / self.per_epoch)

    def __call__(self, epoch: int) -> list[list[Recipe]]:
        no_label, no_bank = np.zeros_like(self.split.labels), ImageBank(self.split.labels.shape[1])
        batches = epoch_batches(no_label, no_bank, epoch=epoch, batch=self.section.batch, drawn=0, seed=self.seed)
        return batches[: self.steps - epoch * self.per_epoch]


def check_batch(section: Segmentation, split: Split, world_size: int, synchronised: bool) -> None:
    """DeepLabV3's pooling branch normalises one number a channel and image, which takes two images.

    Raises:
        UserError: a worker would get fewer.
    """
    images = min(section.batch, len(split)) // (1 if synchronised else world_size)
    if section.micro_batch:
        images //= math.ceil(images / section.micro_batch)
    if section.architecture == "deeplabv3" and images < 2:
        what = f"the split {split.name} has {len(split)}" if len(split) < section.batch else f"batch {section.batch}"
        raise UserError(
            f"segmentation: batch norm in DeepLabV3's head needs two images a worker in every step; {what} over "
            f"{world_size} worker{'s' * (world_size > 1)} gives {images}. Take more images, or "
            "segmentation.architecture=deeplabv2, whose head has no batch norm"
        )


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
    synchronised = context.world_size > 1 and context.device.type == "cuda"
    check_batch(section, split, context.world_size, synchronised)
    net = build_deeplab(section, backbone, len(data.classes) + 1)
    if start is not None:
        state = torch.load(start / WEIGHTS, map_location="cpu", weights_only=True)
        prefix = "backbone."
        backbone_of(net).load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
    if synchronised:
        net = nn.SyncBatchNorm.convert_sync_batchnorm(net)
    crops = Crops(data, split, crop=section.crop, resize=section.resize, flip=section.flip, seed=seed, masks=labels)
    schedule = Schedule(section, split, seed)
    history = fit(
        context,
        PixelLoss(net, backbone, balanced=section.loss == "balanced"),
        parameter_groups(net, section),
        crops,
        schedule,
        numerics(section.precision, context.device),
        epochs=schedule.epochs,
        steps=schedule.steps,
        momentum=section.momentum,
        weight_decay=section.weight_decay,
        clip=section.clip,
        power=section.power,
        seed=seed,
        micro_batch=section.micro_batch,
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
    start: Path | None = None,
    data: Dataset,
    split: Split,
    seed: int,
) -> None:
    """Train into `folder`: `model.pt` (state of the network from `build_deeplab`) and `history.json`.

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
