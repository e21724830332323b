"""Prototypes: the mean feature of each class, and a map of its similarity to every pixel (after SIPE, Chen et al., CVPR
2022; SFC, section "Methodology")."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sfc.method.cam import full_precision

BACKGROUND_FACTOR = 0.3
"""Weight of the background channel when the seeds of the prototypes are chosen."""
SMALL = 1e-8
"""Least norm in a cosine, as in torch.cosine_similarity."""


def prototype_map(cam_NKhw: Tensor, feature_NDhw: Tensor, valid_NKhw: Tensor | None = None) -> Tensor:
    """Similarity of every pixel to the prototype of each class.

    Seeds are the argmax of the map, its background weighted by 0.3; a class's prototype is the mean feature over its
    seeds, and its map relu(cosine(prototype, feature)). A class without a seed gets a map of zeros.

    Args:
        cam_NKhw: map after `pixel_correlation`; no gradient reaches it (argmax).
        feature_NDhw: hierarchical feature.
        valid_NKhw: mask from `valid_mask` in training, None at inference.

    Returns:
        (N, K, h, w) float32 in [0, 1]; gradients flow into the feature, once.
    """
    weighted = cam_NKhw.detach().clone()
    weighted[:, 0] *= BACKGROUND_FACTOR
    winner = weighted.max(dim=1, keepdim=True).indices  # argmax takes seven times as long on the CPU
    seeds = torch.zeros_like(weighted).scatter_(1, winner, 1.0)
    if valid_NKhw is not None:
        seeds *= valid_NKhw
    share = seeds.flatten(2) / seeds.sum(dim=(2, 3)).clamp(min=1)[..., None]
    similarity: Tensor = _Similarity.apply(feature_NDhw.float().flatten(2), share)
    return similarity.view_as(cam_NKhw)


class _Similarity(torch.autograd.Function):
    """relu(cosine) of each pixel's feature and each prototype, which is the pixels' mean by their shares. Two products
    each way: the N x K x D x h x w tensor of element-wise products is never built, nor a normalised feature."""

    @staticmethod
    def forward(ctx: Any, feature_NDP: Tensor, share_NKP: Tensor) -> Tensor:
        with full_precision(feature_NDP):
            prototype_NKD = torch.bmm(share_NKP, feature_NDP.transpose(1, 2))
            length_NK1 = torch.linalg.vector_norm(prototype_NKD, dim=2, keepdim=True).clamp(min=SMALL)
            direction_NKD = prototype_NKD / length_NK1
            norm_N1P = (feature_NDP * feature_NDP).sum(1, keepdim=True).sqrt().clamp(min=SMALL)
            similarity_NKP = (torch.bmm(direction_NKD, feature_NDP) / norm_N1P).relu_()
        ctx.save_for_backward(feature_NDP, share_NKP, length_NK1, direction_NKD, norm_N1P, similarity_NKP)
        return similarity_NKP

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_NKP: Tensor) -> tuple[Tensor, None]:
        feature, share, length, direction, norm, similarity = ctx.saved_tensors
        with full_precision(feature):
            grad_product = torch.ops.aten.threshold_backward(grad_NKP, similarity, 0) / norm
            grad_norm = -(grad_product * similarity).sum(1, keepdim=True)
            grad_direction = torch.bmm(grad_product, feature.transpose(1, 2))
            along = (grad_direction * direction).sum(2, keepdim=True)
            grad_prototype = (grad_direction - direction * along) / length
            left, right = torch.cat([direction, grad_prototype], 1), torch.cat([grad_product, share], 1)
            grad_feature = torch.bmm(left.transpose(1, 2), right)
            grad_feature.addcmul_(feature, grad_norm / norm)
        return grad_feature, None
