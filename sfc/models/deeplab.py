"""DeepLabV3 (Chen et al., 2017), torchvision's, on any of our backbones."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn
from torchvision.models.segmentation import DeepLabV3
from torchvision.models.segmentation.deeplabv3 import DeepLabHead

from sfc.config import Backbone as BackboneSection
from sfc.models.backbone import Backbone, build_backbone


class _LastStage(nn.Module):
    """A backbone as torchvision's segmentation models want it: the last stage's output under the name `out`."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, image: Tensor) -> OrderedDict[str, Tensor]:
        return OrderedDict(out=self.backbone(image)[-1])


def build_deeplab(section: BackboneSection, channels: int, rates: tuple[int, ...]) -> DeepLabV3:
    """A segmentation network: (N, 3, H, W) -> {"out": (N, K, H, W) logits}.

    Args:
        section: the backbone; its frozen stages stay frozen.
        channels: K, with the background.
        rates: dilations of the parallel branches.
    """
    backbone = build_backbone(section)
    return DeepLabV3(_LastStage(backbone), DeepLabHead(backbone.channels[-1], channels, rates))
