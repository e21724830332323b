"""Stage `classifier`: a method trained from image labels."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from sfc.config import Backbone, Config
from sfc.data.crops import Crop, normalise
from sfc.errors import UserError
from sfc.method.build import build_method
from sfc.method.image_bank import ImageBank, epoch_batches
from sfc.method.protocol import Method
from sfc.networks.published_checkpoints import load_checkpoint
from sfc.runtime.engine import Context, Engine
from sfc.runtime.training import WEIGHTS, Batches, Groups, fit, read_history, save
from sfc.runtime.warn import check_classifier
from sfc.stages.spec import Spec, Work


class Step(nn.Module):
    """A training step of a method on crops as they are read; the method's parameters begin with `method.`."""

    def __init__(self, method: Method, backbone: Backbone) -> None:
        super().__init__()
        self.method, self.input = method, backbone

    def forward(self, crop: Crop, progress: float) -> dict[str, Tensor]:
        """Losses by name; `crop.image` is uint8."""
        image = normalise(crop.image, crop.box, self.input.mean, self.input.std)
        losses = self.method.step(crop._replace(image=image), progress)
        if "total" not in losses:
            raise UserError(f"{type(self.method).__name__}.step gives no loss `total`; it has {', '.join(losses)}")
        return losses


def parameter_groups(method: Method, lr: float, head_lr: float) -> Groups:
    """The backbone's parameters that learn, and all others."""
    body = [p for p in method.backbone.parameters() if p.requires_grad]
    heads = [p for name, p in method.named_parameters() if not name.startswith("backbone.")]
    return [group for group in ({"params": body, "lr": lr}, {"params": heads, "lr": head_lr}) if group["params"]]


def train(context: Context, work: Work) -> None:
    """The training of one worker; rank 0 leaves the network and the history in the context's folder."""
    section, split, seed = work.settings.classifier, work.split, work.settings.seed
    torch.manual_seed(seed)
    method = build_method(section, work.settings.backbone, work.training_set())
    bank = ImageBank(len(work.data.classes), draw_empty=section.bank_draws_empty)
    batches = Batches(
        work.crops(section, resize_long=section.resize_long),
        lambda epoch: epoch_batches(
            split.labels, bank, epoch=epoch, batch=section.batch, drawn=section.bank_images, seed=seed
        ),
        section.epochs,
    )
    groups = parameter_groups(method, section.lr, section.head_lr)
    history = fit(context, Step(method, work.settings.backbone), batches, section, groups, seed)
    if context.rank == 0:
        save(method, history, context.folder)


def run(work: Work, engine: Engine) -> None:
    """Write `model.pt`, the state of the method, and `history.json`, which is empty where the section names a network
    that is trained already. Nothing is written for maps of another program.

    Raises:
        UserError: that network does not fit the backbone or the classes.
    """
    section = work.settings.classifier
    if (work.folder / WEIGHTS).is_file() or section.method == "maps":
        return
    if section.weights is None:
        engine.train(train, work, folder=work.folder)
        check_classifier(work.folder, read_history(work.folder), work.split.labels)
        return
    empty = work.settings.backbone.model_copy(update={"weights": None})
    method = build_method(section, empty, work.training_set())
    load_checkpoint(method, Path(section.weights), "classifier.weights")
    save(method, [], work.folder)


def _reads(config: Config) -> tuple[str, ...]:
    method = ("classifier.method", "classifier.options")
    if config.classifier.method == "maps":
        return method  # nothing is trained
    if config.classifier.weights is not None:
        return (*method, "classifier.weights", "backbone")
    return ("classifier", "backbone", "seed")


SPEC = Spec(
    version=3,
    run=run,
    reads=_reads,
    split="train",
    trains="classifier",
)
