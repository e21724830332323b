"""Backbones: four feature maps from torchvision's networks, from a small one that learns from scratch, or from timm."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from sfc.config import Backbone as BackboneSection
from sfc.errors import UserError
from sfc.networks.checkpoint import check_fit, read_tensors


class Backbone(nn.Module):
    """Four feature maps of an image, from the shallowest to the deepest; subclasses make them.

    Args:
        freeze_norm: batch norm never trains: running statistics always, scale and shift learn with the rest.
    """

    channels: list[int]
    """Channels of each map."""

    def __init__(self, freeze_norm: bool) -> None:
        super().__init__()
        self.freeze_norm = freeze_norm

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for module in self.modules():  # where scale and shift are frozen, so are the statistics
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and (
                self.freeze_norm or (module.affine and not module.weight.requires_grad)
            ):
                module.eval()
        return self


class StagedBackbone(Backbone):
    """A stem and four stages; the output stride is 16, or 8 for a dilated ResNet (`small`: 4).

    Args:
        stem, stages, channels: the modules, and the channels of each stage's output.
        frozen_stages: the stem and this many stages learn nothing (0: everything learns). As published (2), the
            gradient is cut behind them.
        freeze_norm: batch norm never trains.
    """

    def __init__(
        self, stem: nn.Module, stages: list[nn.Module], channels: list[int], frozen_stages: int, freeze_norm: bool
    ) -> None:
        super().__init__(freeze_norm)
        self.stem = stem
        self.stages = nn.ModuleList(stages)
        self.channels, self.frozen_stages = channels, frozen_stages
        if frozen_stages:
            for module in [stem, *stages[:frozen_stages]]:
                module.requires_grad_(False)

    def forward(self, image: Tensor) -> list[Tensor]:
        """(N, 3, H, W), normalised -> the four stages' outputs."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen_stages):
            x = self.stem(image)
        outputs = []
        for number, stage in enumerate(self.stages, start=1):
            with torch.set_grad_enabled(torch.is_grad_enabled() and number > self.frozen_stages):
                x = stage(x)
            outputs.append(x)
        return outputs


Parts = tuple[nn.Module, list[nn.Module], list[int]]
"""Stem, stages and channels of a `StagedBackbone`."""


class _Block(nn.Module):
    """A 3x3 convolution with group norm and a shortcut. Group norm, for small batches and any number of workers."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.norm = nn.GroupNorm(8, outputs)
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return (self.norm(self.conv(x)) + self.shortcut(x)).relu()


def _small() -> Parts:
    channels = [32, 32, 32, 48]
    # One wide convolution down to a quarter: a first stage at half the size would cost more than all four stages.
    stem = nn.Sequential(nn.Conv2d(3, 32, 7, 4, 3, bias=False), nn.GroupNorm(8, 32), nn.ReLU())
    blocks: list[nn.Module] = [_Block(i, o) for i, o in zip([32, *channels[:-1]], channels, strict=True)]
    return stem, blocks, channels


def _resnet(network: Any, output_stride: int) -> Parts:
    # layer4 keeps its resolution without dilation at output stride 16; DeepLabV2 dilates layer3 and layer4 at 8.
    for layer, dilation in [(network.layer4, 1)] if output_stride == 16 else [(network.layer3, 2), (network.layer4, 4)]:
        for module in layer.modules():
            if isinstance(module, nn.Conv2d):
                module.stride = (1, 1)
                if module.kernel_size == (3, 3):
                    module.dilation = module.padding = (dilation, dilation)
    stem = nn.Sequential(network.conv1, network.bn1, network.relu, network.maxpool)
    width = network.layer4[0].conv1.in_channels
    stages = [network.layer1, network.layer2, network.layer3, network.layer4]
    return stem, stages, [width // 4, width // 2, width, 2 * width]


def _mobilenet(network: Any) -> Parts:
    layers = network.features
    for module in layers[14].modules():  # the last block that halves: output stride 16 instead of 32
        if isinstance(module, nn.Conv2d) and module.stride == (2, 2):
            module.stride = (1, 1)
    return layers[:2], [layers[2:4], layers[4:7], layers[7:14], layers[14:]], [24, 32, 96, 1280]


def load_weights(network: nn.Module, file: Path, heads: tuple[str, ...] = ("fc.", "classifier.")) -> None:
    """Put a file's weights into a network, but for the classifier's, whose names begin with one of `heads`.

    Raises:
        UserError: the file is missing, unreadable, or made for another network.
    """
    state = {k: v for k, v in read_tensors(file, "backbone.weights").items() if not k.startswith(heads)}
    expected = {k: v for k, v in network.state_dict().items() if not k.startswith(heads)}
    check_fit(expected, state, f"backbone.weights: {file} does not fit the backbone")
    network.load_state_dict(state, strict=False)


def build_backbone(section: BackboneSection, output_stride: Literal[8, 16] = 16) -> Backbone:
    """The configured backbone with its weights.

    Args:
        section: the network, its weights, what is frozen.
        output_stride: used by a ResNet and by timm's networks that can; mobilenet_v2 (16) and small (4) have their own.

    Raises:
        UserError: the weights file is missing, unreadable, or made for another network; timm is not installed.
    """
    if section.name.startswith("timm/"):
        from sfc.networks.timm_backbones import build_timm  # late: an optional library

        return build_timm(section, output_stride)
    if section.name == "small":
        backbone = StagedBackbone(*_small(), section.frozen_stages, section.freeze_norm)
        if section.weights:
            load_weights(backbone, Path(section.weights))
        return backbone
    import torchvision  # late: seconds, which our own network and timm's need not wait

    names = [weights.name for weights in torchvision.models.get_model_weights(section.name)]
    named = section.weights in names
    try:
        network = torchvision.models.get_model(section.name, weights=section.weights if named else None)
    except OSError as error:
        raise UserError(
            f"backbone.weights: torchvision's {section.weights} can't be fetched ({error}); name a file instead"
        ) from None
    if section.weights and not named:
        file = Path(section.weights)
        if not file.is_file():
            raise UserError(
                f"backbone.weights: there is no file {file}, and torchvision's weights for {section.name} are "
                + ", ".join(names)
            )
        load_weights(network, file)
    parts = _mobilenet(network) if section.name == "mobilenet_v2" else _resnet(network, output_stride)
    return StagedBackbone(*parts, section.frozen_stages, section.freeze_norm)
