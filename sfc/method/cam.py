"""Class activation maps as functions of tensors: where they are valid, the classifier's map, fusion.

Source: SFC, AAAI 2024, section "Methodology". Suffixes: N images, C classes, K = C + 1 channels (background first),
D features, h x w the map's size, P = hw. Everything is float32 whatever the network's precision.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

EPS = 1e-5


def resize(x: Tensor, size: Sequence[int], *, align_corners: bool) -> Tensor:
    """Bilinear resize of (N, C, h, w) to `size`; returns `x` itself where the size is right already."""
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    return F.interpolate(x, list(size), mode="bilinear", align_corners=align_corners)


def unit(x_ND: Tensor) -> Tensor:
    """Divide each pixel's feature vector (dimension 1) by its norm + 1e-5; gradients flow once."""
    divided: Tensor = _Unit.apply(x_ND)
    return divided


class _Unit(torch.autograd.Function):
    """x / (n + 1e-5), in fewer passes over x than automatic differentiation takes."""

    @staticmethod
    def forward(ctx: Any, x_ND: Tensor) -> Tensor:
        # The bound keeps the gradient finite at 0; torch.norm is several times as slow on the CPU.
        norm_N1 = (x_ND * x_ND).sum(dim=1, keepdim=True).clamp(min=1e-30).sqrt()
        ctx.save_for_backward(x_ND, norm_N1)
        return x_ND / (norm_N1 + EPS)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_ND: Tensor) -> Tensor:
        x, norm = ctx.saved_tensors
        inverse = 1 / (norm + EPS)
        along = (grad_ND * x).sum(dim=1, keepdim=True) * inverse * inverse / norm
        return (grad_ND * inverse).addcmul_(x, along, value=-1)


def full_precision(x: Tensor) -> torch.autocast:
    """Switches autocast off on the device of `x`."""
    return torch.autocast(x.device.type, enabled=False)


def over_maximum(x: Tensor) -> Tensor:
    """Divide each channel of (..., h, w) by its spatial maximum + 1e-5."""
    return x / (x.amax(dim=(-2, -1), keepdim=True) + EPS)


def valid_mask(label_NC: Tensor, box_N4: Tensor, image_size: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Where a map may be active: inside the image's box, for the background and the image's labels.

    Args:
        label_NC: image labels in {0, 1}.
        box_N4: integer (top, bottom, left, right) of the image in its canvas, half-open.
        image_size: H, W of the canvas.
        size: h, w of the map; pixels are picked as torch's `nearest` does.

    Returns:
        (N, K, h, w) float32 in {0, 1}.
    """
    (height, width), (h, w) = image_size, size
    device = label_NC.device
    y = (torch.arange(h, device=device) * (height / h)).long()
    x = (torch.arange(w, device=device) * (width / w)).long()
    top, bottom, left, right = box_N4.to(device).unbind(1)
    rows = (y >= top[:, None]) & (y < bottom[:, None])
    columns = (x >= left[:, None]) & (x < right[:, None])
    inside = (rows[:, :, None] & columns[:, None, :]).float()
    channels = F.pad(label_NC.float(), (1, 0), value=1.0)
    return channels[:, :, None, None] * inside[:, None]


def classifier_map(logits_NChw: Tensor, valid_NKhw: Tensor | None = None) -> Tensor:
    """Class activation map with a background channel.

    The foreground is relu(logits) over its own maximum; the background is 1 - the maximum over ALL classes, those
    that the image lacks too; then both are masked.

    Args:
        logits_NChw: raw outputs of the classifier at each pixel.
        valid_NKhw: mask from `valid_mask` in training, None at inference.

    Returns:
        (N, K, h, w) float32.
    """
    foreground = over_maximum(logits_NChw.float().relu())
    background = 1 - foreground.amax(dim=1, keepdim=True)
    cam = torch.cat([background, foreground], dim=1)
    return cam if valid_NKhw is None else cam * valid_NKhw


def offset_background(cam_Khw: Tensor, offset: float) -> Tensor:
    """The published background rule: add pad(cam[1:], offset), so that background wins where
    background + offset > 2 * foreground. (K, h, w) or (N, K, h, w) in and out."""
    shift = cam_Khw.clone()
    shift[..., 0, :, :] = offset
    return cam_Khw + shift


def fuse(maps: Mapping[str, Tensor], weight: float) -> Tensor:
    """(first map + weight * each further map) / (1 + weight for each): a weighted mean, so that thresholds keep their
    meaning; for two maps the argmax is that of the published sum. Any equal shapes."""
    first, *others = maps.values()
    total = first
    for other in others:
        total = total + weight * other
    return total / (1 + weight * len(others)) if others else first
