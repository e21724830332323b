"""IRN's network (Ahn, Cho, Kwak, CVPR 2019): an edge branch and a displacement branch on a frozen backbone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfc.config import Backbone as BackboneSection
from sfc.errors import UserError
from sfc.method.cam import resize
from sfc.networks.backbone import StagedBackbone, build_backbone

STRIDE = 4
"""Pixels of the image to a pixel of the outputs, whose size is rounded up."""


def _block(inputs: int, outputs: int, groups: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.GroupNorm(groups, outputs))


def _match(x: Tensor, factor: float, reference: Tensor) -> Tensor:
    """Bring a block's output to the reference's size: enlarged by a whole factor and cropped, or else resized."""
    height, width = reference.shape[-2:]
    if factor > 1:
        x = F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)
    elif factor < 1:
        x = resize(x, (height, width), align_corners=False)
    return x[..., :height, :width].relu()


class IRN(nn.Module):
    """Both branches on a backbone that learns nothing here; the published one is ResNet-50.

    Raises:
        UserError: from `build_backbone`, or a backbone of timm.
    """

    running_mean: Tensor
    """(2,) mean displacement over the training set."""

    def __init__(self, section: BackboneSection) -> None:
        super().__init__()
        backbone = build_backbone(section)
        if not isinstance(backbone, StagedBackbone):
            raise UserError(f"IRN can't take the backbone {section.name}: use one of torchvision's")
        self.backbone = backbone.requires_grad_(False).eval()
        side = 64
        features = self.features(torch.zeros(1, 3, side, side))
        channels = [x.shape[1] for x in features]
        self.strides = [side // x.shape[-1] for x in features]
        self.edge = nn.ModuleList(_block(c, 32, 4) for c in channels)
        self.edge_head = nn.Conv2d(5 * 32, 1, 1)
        shape = [(64, 8), (128, 16), (256, 16), (256, 16), (256, 16)]
        self.displacement = nn.ModuleList(_block(c, *s) for c, s in zip(channels, shape, strict=True))
        self.displacement.append(_block(3 * 256, 256, 16))
        self.displacement_head = nn.Sequential(
            *_block(64 + 128 + 256, 256, 16), nn.ReLU(), nn.Conv2d(256, 2, 1, bias=False)
        )
        self.register_buffer("running_mean", torch.zeros(2))

    def train(self, mode: bool = True) -> IRN:
        super().train(mode)
        self.backbone.eval()
        return self

    def edge_parameters(self) -> list[nn.Parameter]:
        """Parameters of the edge branch."""
        return [*self.edge.parameters(), *self.edge_head.parameters()]

    def displacement_parameters(self) -> list[nn.Parameter]:
        """Parameters of the displacement branch."""
        return [*self.displacement.parameters(), *self.displacement_head.parameters()]

    @torch.no_grad()
    def features(self, image: Tensor) -> list[Tensor]:
        """(N, 3, H, W), normalised -> outputs of the stem and the four stages."""
        outputs = [self.backbone.stem(image)]
        for stage in self.backbone.stages:
            outputs.append(stage(outputs[-1]))
        return outputs

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 3, H, W), normalised -> edge logit (N, 1, h, w) and displacement (N, 2, h, w) at a quarter of the image,
        rounded up. The displacement is (y, x) in pixels of the map, in eval mode without `running_mean`."""
        features, strides = self.features(image), self.strides

        def branch(blocks: nn.ModuleList, numbers: Sequence[int], at: int) -> Tensor:
            """Blocks on some of the features, at the size of feature number `at`."""
            return torch.cat(
                [_match(blocks[i](features[i]), strides[i] / strides[at], features[at]) for i in numbers], 1
            )

        edge = self.edge_head(branch(self.edge, range(5), 1))
        near, far = branch(self.displacement, (0, 1), 1), branch(self.displacement, (2, 3, 4), 2)
        far = _match(self.displacement[5](far), strides[2] / strides[1], features[1])
        displacement = self.displacement_head(torch.cat([near, far], 1))
        return edge, displacement if self.training else displacement - self.running_mean[:, None, None]


def infer(net: IRN, image: Tensor, canvas: int) -> tuple[Tensor, Tensor]:
    """Edges and displacements of images on a canvas as in training: zeros below and to the right.

    Args:
        net: in eval mode.
        image: (N, 3, H, W), normalised.
        canvas: least height and width; larger images are not cut.

    Returns:
        Edge logit (N, 1, a, b) and displacement (N, 2, a, b) of the image alone, a quarter of it, rounded up.
    """
    height, width = image.shape[-2:]
    edge, displacement = net(F.pad(image, (0, max(0, canvas - width), 0, max(0, canvas - height))))
    a, b = -(-height // STRIDE), -(-width // STRIDE)
    return edge[..., :a, :b], displacement[..., :a, :b]


def pair_edge(net: IRN, image: Tensor, canvas: int) -> Tensor:
    """Probability of an edge (N, a, b) float32, by the mean logit of each image and its mirror image; arguments as in
    `infer`."""
    logit, mirrored = infer(net, torch.cat([image, image.flip(-1)]), canvas)[0][:, 0].float().chunk(2)
    return ((logit + mirrored.flip(-1)) / 2).sigmoid()
