"""DeepLabV3 (Chen et al., 2017), torchvision's, and DeepLabV2 (Chen et al., TPAMI 2018), on any of our backbones."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfc.config import Backbone as BackboneSection
from sfc.config import Config, Segmentation
from sfc.data.images import VOID
from sfc.method.cam import resize
from sfc.networks.backbone import Backbone, build_backbone

if TYPE_CHECKING:
    from torchvision.models.segmentation import DeepLabV3

RATES = {"deeplabv3": (6, 12, 18), "deeplabv2": (6, 12, 18, 24)}
"""Dilations of the parallel branches, as published."""


class _LastStage(nn.Module):
    """A backbone for torchvision's segmentation models: the last stage's output under the name `out`."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, image: Tensor) -> OrderedDict[str, Tensor]:
        return OrderedDict(out=self.backbone(image)[-1])


class DeepLabV2(nn.Module):
    """Atrous spatial pyramid: the sum of 3x3 convolutions with bias on the last stage, one for each of the dilations
    `rates`, to K channels. As published the backbone is a ResNet at output stride 8."""

    def __init__(self, backbone: Backbone, channels: int, rates: tuple[int, ...]) -> None:
        super().__init__()
        self.backbone = backbone
        last = backbone.channels[-1]
        self.classifier = nn.ModuleList(nn.Conv2d(last, channels, 3, padding=r, dilation=r) for r in rates)
        for name, parameter in self.classifier.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            else:
                nn.init.normal_(parameter, std=0.01)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W), normalised -> {"out": (N, K, H, W) logits}, as torchvision's models return them."""
        last = self.backbone(image)[-1]
        logits = sum(branch(last) for branch in self.classifier)
        return {"out": resize(logits, (image.shape[-2], image.shape[-1]), align_corners=False)}


def backbone_section(settings: Config) -> BackboneSection:
    """The segmentation model's own backbone, or the classifier's."""
    return settings.segmentation.backbone or settings.backbone


def build_deeplab(section: Segmentation, backbone: BackboneSection, channels: int) -> DeepLabV3 | DeepLabV2:
    """A segmentation network: (N, 3, H, W) -> {"out": (N, K, H, W) logits}, where K counts the background.

    A ResNet runs at output stride 8 in DeepLabV2 and at 16 in DeepLabV3. The backbone's section says what is frozen:
    published DeepLabV2 freezes batch norm alone (`frozen_stages: 0`, `freeze_norm: true`).
    """
    rates = section.rates or RATES[section.architecture]
    if section.architecture == "deeplabv2":
        return DeepLabV2(build_backbone(backbone, output_stride=8), channels, rates)
    from torchvision.models.segmentation import DeepLabV3  # late: seconds, which other stages need not wait
    from torchvision.models.segmentation.deeplabv3 import DeepLabHead

    body = build_backbone(backbone)
    return DeepLabV3(_LastStage(body), DeepLabHead(body.channels[-1], channels, rates))


def backbone_of(net: DeepLabV3 | DeepLabV2) -> Backbone:
    """The backbone under a segmentation network's head."""
    return net.backbone if isinstance(net, DeepLabV2) else net.backbone.backbone


def parameter_groups(net: DeepLabV3 | DeepLabV2, section: Segmentation) -> list[dict[str, Any]]:
    """Parameters that learn, in groups for the optimiser: the backbone at `lr`, the head at `head_lr`; DeepLabV2's bias
    at twice `head_lr`, without weight decay, as published."""
    weights = [p for name, p in net.classifier.named_parameters() if not name.endswith("bias")]
    biases = [p for name, p in net.classifier.named_parameters() if name.endswith("bias")]
    v2 = section.architecture == "deeplabv2"
    groups: list[dict[str, Any]] = [
        {"params": [p for p in net.backbone.parameters() if p.requires_grad], "lr": section.lr},
        {"params": weights if v2 else weights + biases, "lr": section.head_lr},
        {"params": biases if v2 else [], "lr": 2 * section.head_lr, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def pixel_loss(logits_NKHW: Tensor, target_NHW: Tensor, *, balanced: bool = False) -> Tensor:
    """Cross-entropy of the segmentation model over the pixels that have a label; 0 where none has one.

    Args:
        logits_NKHW: of any precision; computed in float32.
        target_NHW: class indices, 0 = background, 255 = no label.
        balanced: (mean over the batch's background pixels + mean over its foreground pixels) / 2, as in AffinityNet
            (Ahn and Kwak, CVPR 2018) and SEAM; a kind without a pixel adds 0, so the other still weighs a half.

    Returns:
        Scalar.
    """
    target = target_NHW.long()
    loss = F.cross_entropy(logits_NKHW.float(), target, ignore_index=VOID, reduction="none")
    labelled, background = target != VOID, target == 0
    kinds = [background, labelled & ~background] if balanced else [labelled]
    return torch.stack([(loss * kind).sum() / kind.sum().clamp(min=1) for kind in kinds]).mean()
