"""Pixel correlation: a class activation map spread over similar pixels (after SEAM, Wang et al., CVPR 2020).

With A = relu(cosine of two pixels' features) and each column of A over its sum, the map m becomes m A A. The norms of
the features and the column sums divide the K rows of the map, so the only (hw)^2 matrix is R = relu(F^T F). The
gradient needs R alone, and there are two large products in all, where automatic differentiation takes three and holds
four matrices of that size (`benchmarks/training_step.py`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sfc.method.cam import EPS, full_precision


def pixel_correlation(cam_NKhw: Tensor, feature_NDhw: Tensor) -> Tensor:
    """Spread a map over similar pixels: m A A, with A = relu(F^T F) of unit features, each column over its sum + 1e-5.

    Args:
        cam_NKhw: a map with its background.
        feature_NDhw: output of the `f9` head at the same size; F^T F is computed in its dtype, all else in the map's.

    Returns:
        (N, K, h, w) in the dtype of the map; gradients flow into both arguments, once.
    """
    spread: Tensor = _PixelCorrelation.apply(cam_NKhw.flatten(2), feature_NDhw.flatten(2))
    return spread.view_as(cam_NKhw)


def _gram(feature_NDP: Tensor) -> Tensor:
    """F^T F, (N, P, P); where a product costs more than a copy, the corner below the diagonal is that above it."""
    number, features, pixels = feature_NDP.shape
    if features < pixels:
        return torch.bmm(feature_NDP.transpose(1, 2), feature_NDP)
    half = pixels // 2
    gram = feature_NDP.new_empty(number, pixels, pixels)
    gram[:, :half] = torch.bmm(feature_NDP[..., :half].transpose(1, 2), feature_NDP)
    gram[:, half:, half:] = torch.bmm(feature_NDP[..., half:].transpose(1, 2), feature_NDP[..., half:])
    gram[:, half:, :half] = gram[:, :half, half:].transpose(1, 2)
    return gram


class _PixelCorrelation(torch.autograd.Function):
    """P = hw. With n the norms + 1e-5, A = R / (n n^T), and its column sums are s = (1/n R) / n + 1e-5, so that a step
    m A / s is (m / n R) / (n s)."""

    @staticmethod
    def forward(ctx: Any, cam_NKP: Tensor, feature_NDP: Tensor) -> Tensor:
        with full_precision(feature_NDP):
            relu_NPP = _gram(feature_NDP).relu_().to(cam_NKP.dtype)
            root_N1P = relu_NPP.diagonal(dim1=1, dim2=2).clamp(min=1e-30).sqrt()[:, None]
            norm_N1P = root_N1P + EPS
            # One more row gives the column sums.
            first_NKP = torch.cat([cam_NKP, torch.ones_like(norm_N1P)], 1) / norm_N1P
            product = torch.bmm(first_NKP, relu_NPP)
            total_N1P = product[:, -1:] + EPS * norm_N1P
            second_NKP = product[:, :-1] / (total_N1P * norm_N1P)
            spread_NKP = torch.bmm(second_NKP, relu_NPP) / total_N1P
        ctx.save_for_backward(feature_NDP, relu_NPP, root_N1P, total_N1P, first_NKP, second_NKP, spread_NKP)
        return spread_NKP

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_NKP: Tensor) -> tuple[Tensor, Tensor | None]:
        feature, relu, root, total, first, second, spread = ctx.saved_tensors
        norm = root + EPS
        with full_precision(feature):
            grad_spread = grad_NKP / total
            grad_second = torch.bmm(grad_spread, relu)
            grad_product = grad_second / (norm * total)
            grad_total = -(grad_spread * spread + grad_product * second * norm).sum(1, keepdim=True)
            grad_product = torch.cat([grad_product, grad_total], 1)
            grad_first = torch.bmm(grad_product, relu)
            grad_cam = grad_first[:, :-1] / norm
            if not ctx.needs_input_grad[1]:
                return grad_cam, None
            of_norm = (grad_second * second).sum(1, keepdim=True) + (grad_first * first).sum(1, keepdim=True)
            grad_norm = EPS * grad_total - of_norm / norm
            left, right = torch.cat([second, first], 1), torch.cat([grad_spread, grad_product], 1)
            # dR + dR^T in one product of rank 2 (2K + 1)
            both = torch.bmm(torch.cat([left, right], 1).transpose(1, 2), torch.cat([right, left], 1))
            torch.ops.aten.threshold_backward.grad_input(both, relu, 0, grad_input=both)  # 0 where R is
            both.diagonal(dim1=1, dim2=2).add_((grad_norm / root)[:, 0])  # a norm is the root of its entry of F^T F
            grad_feature = torch.bmm(feature, both.to(feature.dtype))
        return grad_cam, grad_feature
