"""SFC's network: a backbone, its classifier, and the heads of the pixel correlation and the prototypes."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfc.method.cam import classifier_map, resize, unit
from sfc.method.correlation import pixel_correlation
from sfc.method.prototypes import prototype_map
from sfc.networks.backbone import Backbone

SIDE_CHANNELS = (128, 128, 256, 256)


class Features(NamedTuple):
    """What one pass through the network gives; tensors of a mirror pair are added before maps are made of them."""

    image: Tensor
    """(N, 3, h, w): the image at the map's size, resized with align_corners."""
    logits: Tensor
    """(N, C, h, w): the classifier at each pixel."""
    semantic: Tensor
    """(N, D4, h, w): the last stage's output, x4."""
    hierarchical: Tensor
    """(N, D, h, w): the side heads, normalised per pixel, resized and concatenated."""

    @property
    def size(self) -> tuple[int, int]:
        """h and w."""
        return self.logits.shape[-2], self.logits.shape[-1]


class SFCNet(nn.Module):
    """Heads of SFC, all 1x1 without bias; the side heads look at detached stage outputs.

    Args:
        backbone: the network below; a submodule from now on.
        classes: C, the number of foreground classes.
    """

    def __init__(self, backbone: Backbone, classes: int) -> None:
        nn.Module.__init__(self)  # of a method that is built on this network, no other base's
        self.backbone = backbone
        channels = self.backbone.channels
        last = channels[-1]
        self.classifier = nn.Conv2d(last, classes, 1, bias=False)
        self.f9 = nn.Conv2d(3 + last, last, 1, bias=False)
        self.sides = nn.ModuleList(
            nn.Conv2d(c, min(c, side), 1, bias=False) for c, side in zip(channels, SIDE_CHANNELS, strict=True)
        )

    def features(self, image: Tensor, *, hierarchical: bool = True) -> Features:
        """Args:
        image: (N, 3, H, W), normalised.
        hierarchical: also the prototypes' feature; without it that entry is empty.
        """
        stages = self.backbone(image)
        last = stages[-1]
        size = tuple(last.shape[-2:])
        sides = (
            [
                resize(unit(side(x.detach()).float()), size, align_corners=False)
                for side, x in zip(self.sides, stages, strict=True)
            ]
            if hierarchical
            else [last.new_empty(len(last), 0, *size)]
        )
        return Features(resize(image, size, align_corners=True), self.classifier(last), last, torch.cat(sides, 1))

    def _correlation_feature(self, features: Features) -> Tensor:
        """f9 of [image; x4], (N, D4, h, w); the two parts are added, so that they are never held side by side."""
        of_image, of_semantic = self.f9.weight.split([3, self.f9.in_channels - 3], dim=1)
        return F.conv2d(features.semantic, of_semantic).add_(F.conv2d(features.image, of_image))

    def maps_of(
        self, features: Features, valid_NKhw: Tensor | None = None, *, correlation: bool = True, prototype: bool = True
    ) -> tuple[Tensor, Tensor | None]:
        """Both maps at feature resolution.

        Args:
            features: from `features`, or the sum over a mirror pair.
            valid_NKhw: mask from `valid_mask` in training, None at inference.
            correlation: spread the classifier's map by pixel correlation; plain CAM does not.
            prototype: also the prototype map.

        Returns:
            Classifier map and prototype map (or None), (N, K, h, w) float32.
        """
        cam = classifier_map(features.logits, valid_NKhw)
        if correlation:
            cam = pixel_correlation(cam, self._correlation_feature(features))
        return cam, prototype_map(cam, features.hierarchical, valid_NKhw) if prototype else None


def score(features: Features) -> Tensor:
    """Image-level logits (N, C) float32: the spatial mean of the raw classifier logits."""
    return features.logits.float().mean(dim=(2, 3))
