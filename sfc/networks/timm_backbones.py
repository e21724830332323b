"""Backbones from timm: convolutional networks and vision transformers, with random weights or weights from a file."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sfc.config import Backbone as Section
from sfc.errors import UserError
from sfc.method.cam import resize
from sfc.networks.backbone import Backbone, load_weights

PREFIX = "timm/"
SMALLEST = 32
"""Smallest side that networks get, in pixels; smaller images, narrower than some kernels, are enlarged."""


class TimmBackbone(Backbone):
    """The last four feature maps of a convolutional network, or of four groups of a transformer's blocks.

    A transformer gets the image enlarged to whole patches (maps of a padded image would cover more than the image). Its
    position embeddings follow the image's size, and its last map comes after the final norm, as for its classifier.

    Args:
        network: a network of timm without its classifier.
        frozen_stages: parameters behind the map of this stage learn nothing (0: everything learns).
        freeze_norm: batch norm never trains.

    Raises:
        Exception: from the network, if it takes images of one size alone or has no such maps.
    """

    def __init__(self, network: Any, frozen_stages: int, freeze_norm: bool) -> None:
        super().__init__(freeze_norm)
        self.network = network
        patches: Any = getattr(network, "patch_embed", None)
        blocks: Any = getattr(network, "blocks", None)
        # a transformer's four groups of blocks, of 12: the maps after blocks 2, 5, 8 and 11
        flat = patches is not None and blocks is not None
        self.indices: int | list[int] = [len(blocks) * i // 4 - 1 for i in range(1, 5)] if flat else 4
        self.tokens = flat and hasattr(network, "num_prefix_tokens")
        self.patch: int = patches.feat_ratio() if hasattr(patches, "feat_ratio") else 1
        self.network.prune_intermediate_layers(self.indices, prune_norm=False, prune_head=True)
        network.eval()
        maps = self(torch.zeros(1, 3, 64, 96))
        self.channels = [x.shape[1] for x in maps]
        parameters = list(self.parameters())
        learns = _reach(maps[-1], parameters)  # a norm before the classifier, for example, would get no gradient
        frozen = _reach(maps[frozen_stages - 1], parameters) if frozen_stages else [False] * len(parameters)
        for parameter, reached, stays in zip(parameters, learns, frozen, strict=True):
            parameter.requires_grad_(reached and not stays)
        self.train()

    def forward(self, image: Tensor) -> list[Tensor]:
        """(N, 3, H, W), normalised -> four maps (N, channels[i], h_i, w_i)."""
        height, width = (-(-max(side, SMALLEST) // self.patch) * self.patch for side in image.shape[-2:])
        image = resize(image, (height, width), align_corners=False)
        if not self.tokens:
            return self.network.forward_intermediates(image, indices=self.indices, intermediates_only=True)
        final, maps = self.network.forward_intermediates(image, indices=self.indices)
        last = final[:, self.network.num_prefix_tokens :].transpose(1, 2).reshape(maps[-1].shape)
        return [*maps[:-1], last]


def _reach(output: Tensor, parameters: list[nn.Parameter]) -> list[bool]:
    """Whether each parameter takes part in an output."""
    gradients = torch.autograd.grad(output.sum(), parameters, retain_graph=True, allow_unused=True)
    return [gradient is not None for gradient in gradients]


@torch.inference_mode(False)  # gradients show which parameters are frozen, for inference too
@torch.enable_grad()
def build_timm(section: Section, output_stride: int) -> TimmBackbone:
    """A backbone of timm; nothing is downloaded.

    Args:
        section: `name` is timm/NAME; `weights` is None or a file with timm's names of the parameters.
        output_stride: for networks that can be dilated; others have their own.

    Raises:
        UserError: timm is not installed or has no such network; the network takes images of one size alone; the
            weights don't fit.
    """
    name = section.name.removeprefix(PREFIX)
    try:
        import timm
    except ImportError:
        raise UserError(f"backbone.name: {section.name} needs timm: pip install sfc-wsss[timm]") from None
    if not timm.is_model(name.partition(".")[0]):
        close = ", ".join(difflib.get_close_matches(name, timm.list_models(), n=3))
        hint = f"did you mean {close}?" if close else "timm.list_models() lists them"
        raise UserError(f"backbone.name: timm has no network {name}; {hint}")
    network = _create(timm, name, output_stride)
    if section.weights:
        classifier = network.pretrained_cfg.get("classifier") or ()
        names = (classifier,) if isinstance(classifier, str) else tuple(classifier)
        load_weights(network, Path(section.weights), tuple(f"{name}." for name in names))
    try:
        return TimmBackbone(network, section.frozen_stages, section.freeze_norm)
    except Exception as error:  # each family fails in its own way
        raise UserError(
            f"backbone.name: {section.name} does not give four feature maps of an image of any size "
            f"({type(error).__name__}: {error}); take a convolutional network or a plain vision transformer (vit_*)"
        ) from error


def _create(timm: Any, name: str, output_stride: int) -> Any:
    """A network without classifier: of any image size, or else of an output stride, or else as it is."""
    options: dict[str, Any]
    for options in ({"dynamic_img_size": True}, {"output_stride": output_stride}, {}):
        try:
            return timm.create_model(name, num_classes=0, **options)
        except Exception as error:  # each family refuses unknown options in its own way
            last = error
    raise UserError(f"backbone.name: timm can't build {name} ({type(last).__name__}: {last})") from last
