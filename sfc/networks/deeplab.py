"""DeepLabV3 (Chen et al., 2017), torchvision's, and DeepLabV2 (Chen et al., TPAMI 2018), on any of our backbones."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.segmentation import DeepLabV3
from torchvision.models.segmentation.deeplabv3 import DeepLabHead

from sfc.config import Backbone as BackboneSection
from sfc.config import Config, Segmentation
from sfc.data.images import VOID
from sfc.method.cam import resize
from sfc.networks.backbone import Backbone, build_backbone

RATES = {"deeplabv3": (6, 12, 18), "deeplabv2": (6, 12, 18, 24)}
"""Dilations of the parallel branches, as published."""


class _LastStage(nn.Module):
    """A backbone as torchvision's segmentation models want it: the last stage's output under the name `out`."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, image: Tensor) -> OrderedDict[str, Tensor]:
        return OrderedDict(out=self.backbone(image)[-1])


class DeepLabV2(nn.Module):
    """Atrous spatial pyramid: 3x3 convolutions with bias, one a dilation, on the last stage; their outputs are added.

    Args:
        backbone: a ResNet at output stride 8 as published; any other at its own stride.
        channels: K, with the background.
        rates: dilations.
    """

    def __init__(self, backbone: Backbone, channels: int, rates: tuple[int, ...]) -> None:
        super().__init__()
        self.backbone = backbone
        last = backbone.channels[-1]
        self.classifier = nn.ModuleList(nn.Conv2d(last, channels, 3, padding=r, dilation=r) for r in rates)
        for branch in self.classifier:
            nn.init.normal_(branch.weight, std=0.01)
            nn.init.zeros_(branch.bias)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W), normalised -> {"out": (N, K, H, W) logits}, as torchvision's models return them."""
        last = self.backbone(image)[-1]
        logits = sum(branch(last) for branch in self.classifier)
        return {"out": resize(logits, tuple(image.shape[-2:]), align_corners=False)}


def backbone_section(settings: Config) -> BackboneSection:
    """The segmentation model's own backbone, or the classifier's."""
    return settings.segmentation.backbone or settings.backbone


def build_deeplab(section: Segmentation, backbone: BackboneSection, channels: int) -> DeepLabV3 | DeepLabV2:
    """A segmentation network: (N, 3, H, W) -> {"out": (N, K, H, W) logits}.

    DeepLabV2 runs a ResNet at output stride 8 (layer3 dilated by 2, layer4 by 4), mobilenet_v2 at 16 and small at 4;
    DeepLabV3 a ResNet at 16. Batch norm in the backbone trains or not as the backbone's section says; published
    DeepLabV2 freezes it and learns every stage (`frozen_stages: 0`, `freeze_norm: true`).

    Args:
        section: architecture and rates.
        backbone: the backbone; its frozen stages stay frozen.
        channels: K, with the background.
    """
    rates = section.rates or RATES[section.architecture]
    if section.architecture == "deeplabv2":
        return DeepLabV2(build_backbone(backbone, output_stride=8), channels, rates)
    body = build_backbone(backbone)
    return DeepLabV3(_LastStage(body), DeepLabHead(body.channels[-1], channels, rates))


def backbone_of(net: DeepLabV3 | DeepLabV2) -> Backbone:
    """The backbone under a segmentation network's head."""
    return net.backbone if isinstance(net, DeepLabV2) else net.backbone.backbone


def parameter_groups(net: DeepLabV3 | DeepLabV2, section: Segmentation) -> list[dict[str, Any]]:
    """Parameters that learn, in groups for the optimiser: the backbone at `lr`, the head at `head_lr`; DeepLabV2's bias
    at twice that, without weight decay, as published."""
    weights = [p for name, p in net.classifier.named_parameters() if not name.endswith("bias")]
    biases = [p for name, p in net.classifier.named_parameters() if name.endswith("bias")]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in net.backbone.parameters() if p.requires_grad], "lr": section.lr}
    ]
    if section.architecture == "deeplabv2":
        groups.append({"params": weights, "lr": section.head_lr})
        groups.append({"params": biases, "lr": 2 * section.head_lr, "weight_decay": 0.0})
    else:
        groups.append({"params": weights + biases, "lr": section.head_lr})
    return [group for group in groups if group["params"]]


def pixel_loss(logits_NKHW: Tensor, target_NHW: Tensor, *, balanced: bool = False) -> Tensor:
    """Cross-entropy of the segmentation model over the pixels that have a label; 0 where none has one.

    Args:
        logits_NKHW: of any precision; computed in float32.
        target_NHW: class indices, 0 = background, 255 = no label.
        balanced: as AffinityNet (Ahn and Kwak, CVPR 2018) and SEAM use it: (mean over the batch's background pixels +
            mean over its foreground pixels) / 2; a kind without a pixel adds 0, so the other still weighs a half.

    Returns:
        Scalar.
    """
    target = target_NHW.long()
    loss = F.cross_entropy(logits_NKHW.float(), target, ignore_index=VOID, reduction="none")
    labelled, background = target != VOID, target == 0
    kinds = [background, labelled & ~background] if balanced else [labelled]
    return torch.stack([(loss * kind).sum() / kind.sum().clamp(min=1) for kind in kinds]).mean()
