"""SEAM (Wang et al., CVPR 2020) as a method: equivariant regularisation over a pixel correlation module.

    sfc run synthetic.yaml classifier.method=seam:Seam
    sfc run synthetic.yaml classifier.method=seam:Seam classifier.options.scale=0.5

Two views of an image must give the same map (ER), and the map of each, spread over similar pixels, must agree with the
other view's map (ECR). Here on any backbone; the paper's is ResNet-38. Suffixes: N images, C classes, K = C + 1
channels with the background first, h x w the map's size.
"""

from __future__ import annotations

from typing import Annotated, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from sfc import Method, Section, TrainingSet
from sfc.config import Cam
from sfc.data.crops import Crop
from sfc.method.cam import classifier_map, over_maximum, resize, unit
from sfc.method.losses import classification_loss
from sfc.networks.backbone import Backbone


class Options(Section):
    """Settings of SEAM, searchable as `classifier.options.NAME`."""

    scale: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """Second view, as a factor of the image's size."""
    er_weight: Annotated[float, Field(ge=0)] = 1.0
    ecr_weight: Annotated[float, Field(ge=0)] = 1.0
    hardest: Annotated[float, Field(gt=0, le=1)] = 0.2
    """Part of the map's entries, those that differ most, over which ECR is the mean."""


class View(NamedTuple):
    """What one view gives."""

    logits: Tensor
    """(N, C, h, w)."""
    spread: Tensor
    """(N, K, h, w): the map after the pixel correlation."""


class Seam(Method):
    """Classifier with a pixel correlation module."""

    Options = Options

    def __init__(self, backbone: Backbone, training: TrainingSet, options: Options) -> None:
        super().__init__(backbone, training, options)
        self.options = options
        *_, third, last = backbone.channels
        self.classifier = nn.Conv2d(last, len(training.classes), 1, bias=False)
        self.low, self.high = nn.Conv2d(third, 64, 1, bias=False), nn.Conv2d(last, 128, 1, bias=False)
        self.joint = nn.Conv2d(3 + 64 + 128, 192, 1, bias=False)

    def view(self, image: Tensor) -> View:
        """Logits, and the map after the correlation; no gradient of the latter reaches the map that it spreads."""
        *_, third, last = self.backbone(image)
        size, logits = (last.shape[-2], last.shape[-1]), self.classifier(last)
        with torch.no_grad():
            cam = classifier_map(logits)
            strongest = cam[:, 1:].amax(1, keepdim=True)
            cam[:, 1:] = torch.where(cam[:, 1:] < strongest, 0, cam[:, 1:])  # one class a pixel, as published
        sides = (image, self.low(third.detach()).relu(), self.high(last.detach()).relu())
        joint = self.joint(torch.cat([resize(x, size, align_corners=True) for x in sides], 1))
        feature = unit(joint.float()).flatten(2)
        affinity = (feature.transpose(1, 2) @ feature).relu()
        affinity = affinity / (affinity.sum(dim=1, keepdim=True) + 1e-5)
        return View(logits, (cam.flatten(2) @ affinity).view_as(cam))

    def step(self, crop: Crop, progress: float) -> dict[str, Tensor]:
        """Losses `classification`, `er` and `ecr` (both weighted), and their sum `total`."""
        options, label = self.options, F.pad(crop.label, (1, 0), value=1.0)[:, :, None, None]
        size = [max(1, round(side * options.scale)) for side in crop.image.shape[-2:]]
        full, small = self.view(crop.image), self.view(resize(crop.image, (size[0], size[1]), align_corners=True))
        shape = (small.logits.shape[-2], small.logits.shape[-1])
        resized = View(*(resize(x, shape, align_corners=True) for x in full))
        one, two = (classifier_map(x.logits) * label for x in (resized, small))
        losses = {
            "classification": classification_loss([x.logits.mean((2, 3)) for x in (full, small)], crop.label),
            "er": options.er_weight * (one[:, 1:] - two[:, 1:]).abs().mean(),
            "ecr": options.ecr_weight * (self._cross(two, resized, label) + self._cross(one, small, label)),
        }
        return losses | {"total": torch.stack(list(losses.values())).sum()}

    def _cross(self, cam: Tensor, other: View, label: Tensor) -> Tensor:
        """Mean difference of the hardest entries between the winners of one view's map and the other's spread map."""
        winners = torch.where(cam == cam.amax(1, keepdim=True), cam, 0).detach()
        difference = (winners - over_maximum(other.spread) * label).abs().flatten(1)
        return difference.topk(max(1, int(difference.shape[1] * self.options.hardest)), dim=1).values.mean()

    def maps(self, image: Tensor, settings: Cam) -> dict[str, Tensor]:
        """`seam`: the spread map, the mean over the mirror pair."""
        spread = self.view(image).spread
        if settings.mirror:
            spread = (spread + self.view(image.flip(-1)).spread.flip(-1)) / 2
        return {"seam": spread}

    def scores(self, image: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.backbone(image)[-1])
        return logits.float().mean((2, 3))
