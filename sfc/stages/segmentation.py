"""Stage `segmentation`: a segmentation model trained on pseudo-labels."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from sfc.config import Backbone, Config, Segmentation
from sfc.data import Split
from sfc.data.crops import Crop, normalise
from sfc.errors import UserError
from sfc.method.image_bank import ImageBank, Recipe, epoch_batches
from sfc.networks.deeplab import backbone_of, backbone_section, build_deeplab, parameter_groups, pixel_loss
from sfc.runtime.engine import Context, Engine
from sfc.runtime.training import WEIGHTS, Batches, fit, load, read_history, save
from sfc.runtime.warn import check_losses
from sfc.stages.spec import LABELS, Spec, Work


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
    """Batches of every epoch up to the configured end, in an order that starts from a seed."""

    def __init__(self, section: Segmentation, labels_NC: np.ndarray, seed: int) -> None:
        self.section, self.labels, self.seed = section, labels_NC, seed
        self.bank = ImageBank(labels_NC.shape[1])
        self.per_epoch = len(labels_NC) // min(section.batch, len(labels_NC))
        self.steps = section.iterations or section.epochs * self.per_epoch
        self.epochs = math.ceil(self.steps / self.per_epoch)

    def __call__(self, epoch: int) -> list[list[Recipe]]:
        batches = epoch_batches(
            self.labels,
            self.bank,
            epoch=epoch,
            batch=self.section.batch,
            drawn=self.section.bank_images,
            seed=self.seed,
        )
        return batches[: self.steps - epoch * self.per_epoch]


def check_batch(section: Segmentation, split: Split, world_size: int, synchronised: bool) -> None:
    """Raise a UserError where a worker gets fewer than the two images that the batch norm in DeepLabV3's pooling branch
    needs, since it normalises one number a channel and image."""
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


def train(context: Context, work: Work) -> None:
    """The training of one worker; rank 0 leaves the network and the history in the context's folder."""
    section, seed, backbone = work.settings.segmentation, work.settings.seed, backbone_section(work.settings)
    torch.manual_seed(seed)
    synchronised = context.world_size > 1 and context.device.type == "cuda"
    check_batch(section, work.split, context.world_size, synchronised)
    net: nn.Module = build_deeplab(section, backbone, len(work.data.classes) + 1)
    groups = parameter_groups(net, section)
    if section.start == "classifier":
        backbone_of(net).load_state_dict(load(work.inputs["classifier"], "backbone."))
    if synchronised:
        net = nn.SyncBatchNorm.convert_sync_batchnorm(net)
    crops = work.crops(section, resize=section.resize, masks=work.inputs["labels"] / LABELS)
    schedule = Schedule(section, work.split.labels, seed)
    batches = Batches(crops, schedule, schedule.epochs, schedule.steps)
    model = PixelLoss(net, backbone, balanced=section.loss == "balanced")
    history = fit(context, model, batches, section, groups, seed)
    if context.rank == 0:
        save(net, history, context.folder)


def run(work: Work, engine: Engine) -> None:
    """Write `model.pt` (state of the network from `build_deeplab`) and `history.json`."""
    if not (work.folder / WEIGHTS).is_file():
        engine.train(train, work, folder=work.folder)
        check_losses(work.folder, "segmentation", read_history(work.folder))


def _reads(config: Config) -> tuple[str, ...]:
    return ("segmentation", "seed") if config.segmentation.backbone else ("segmentation", "seed", "backbone")


SPEC = Spec(
    version=3,
    run=run,
    reads=_reads,
    inputs=lambda config: ("labels", "classifier") if config.segmentation.start == "classifier" else ("labels",),
    split="train",
    trains="segmentation",
)
