"""SEAM (Wang et al., CVPR 2020) as a method: equivariant regularisation over a pixel correlation module.

    sfc run synthetic.yaml classifier.method=seam:Seam
    sfc run synthetic.yaml classifier.method=seam:Seam classifier.options.scale=0.5

Two views of an image must give the same map (equivariant regularisation, ER), and the map of each, spread over similar
pixels by the correlation module, must agree with the other view's map (equivariant cross regularisation, ECR). Here on
any backbone; the paper's is ResNet-38. Suffixes: N images, C classes, K = C + 1 channels with the background first,
h x w the map's size. Expected by the paper: seeds of 55.4 mIoU on VOC 2012 train; unmeasured here.
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


def winners(cam_NKhw: Tensor) -> Tensor:
    """The map with one foreground class a pixel, as published: the others are 0, the background stays."""
    foreground = cam_NKhw[:, 1:]
    alone = torch.where(foreground < foreground.amax(1, keepdim=True), 0, foreground)
    return torch.cat([cam_NKhw[:, :1], alone], 1)


def labelled(cam_NKhw: Tensor, label_NC: Tensor) -> Tensor:
    """The map of the image's own classes, with the background that they leave."""
    foreground = cam_NKhw[:, 1:] * label_NC[:, :, None, None]
    return torch.cat([1 - foreground.amax(1, keepdim=True), foreground], 1)


class View(NamedTuple):
    """What one view of the images gives."""

    score: Tensor
    """(N, C) logits of the images."""
    cam: Tensor
    """(N, K, h, w): the classifier's map."""
    spread: Tensor
    """(N, K, h, w): the map after the pixel correlation; its gradient reaches the correlation alone."""


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
        """Scores and both maps of images (N, 3, H, W)."""
        *_, third, last = self.backbone(image)
        logits, size = self.classifier(last).float(), (last.shape[-2], last.shape[-1])
        cam = classifier_map(logits)
        sides = (image, self.low(third.detach()).relu(), self.high(last.detach()).relu())
        joint = self.joint(torch.cat([resize(x.float(), size, align_corners=True) for x in sides], 1))
        feature = unit(joint.float()).flatten(2)
        affinity = (feature.transpose(1, 2) @ feature).float().relu()
        affinity = affinity / (affinity.sum(dim=1, keepdim=True) + 1e-5)
        spread = (winners(cam.detach()).flatten(2) @ affinity).float().view_as(cam)
        return View(logits.mean((2, 3)), cam, spread)

    def step(self, crop: Crop, progress: float) -> dict[str, Tensor]:
        """Losses `classification`, `er` and `ecr` (both weighted), and their sum `total`."""
        options, label = self.options, crop.label
        height, width = (max(1, round(side * options.scale)) for side in crop.image.shape[-2:])
        full, small = self.view(crop.image), self.view(resize(crop.image, (height, width), align_corners=True))

        def smaller(map_NKhw: Tensor) -> Tensor:
            """The full view's map at the size of the small view's."""
            return resize(map_NKhw, (small.cam.shape[-2], small.cam.shape[-1]), align_corners=True)

        one, two = labelled(smaller(full.cam), label), labelled(small.cam, label)
        spread_one, spread_two = smaller(over_maximum(full.spread)), over_maximum(small.spread)
        losses = {
            "classification": classification_loss([full.score, small.score], label),
            "er": options.er_weight * (one[:, 1:] - two[:, 1:]).abs().mean(),
            "ecr": options.ecr_weight * (self.cross(two, spread_one, label) + self.cross(one, spread_two, label)),
        }
        return losses | {"total": torch.stack(list(losses.values())).sum()}

    def cross(self, cam: Tensor, spread: Tensor, label: Tensor) -> Tensor:
        """Mean difference of the hardest entries between one view's map and the other's spread map."""
        channels = F.pad(label, (1, 0), value=1.0)[:, :, None, None]
        difference = (winners(cam.detach()) - spread * channels).abs().flatten(1)
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
