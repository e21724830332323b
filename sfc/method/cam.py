"""Class activation maps as functions of tensors: classifier map, prototype map, fusion.

Sources: SFC, AAAI 2024, section "Methodology"; hierarchical prototypes after SIPE (Chen et al., CVPR 2022). Suffixes: N
images, C classes, K = C + 1 channels (background first), D features, h x w the map's size. Everything is float32 whatever
the network's precision.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

EPS = 1e-5
BACKGROUND_FACTOR = 0.3
"""Weight of the background channel when the seeds of the prototypes are chosen."""


def resize(x: Tensor, size: Sequence[int], *, align_corners: bool) -> Tensor:
    """Bilinear resize of (N, C, h, w) to `size`; returns `x` itself where the size is right already."""
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    return F.interpolate(x, list(size), mode="bilinear", align_corners=align_corners)


def unit(x_ND: Tensor) -> Tensor:
    """Divide each pixel's feature vector (dimension 1) by its norm + 1e-5."""
    square = (x_ND * x_ND).sum(dim=1, keepdim=True)
    # The bound keeps the root's gradient finite at 0; torch.norm is several times as slow on the CPU.
    return x_ND / (square.clamp(min=1e-30).sqrt() + EPS)


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


def prototype_map(cam_NKhw: Tensor, feature_NDhw: Tensor, valid_NKhw: Tensor | None = None) -> Tensor:
    """Similarity of every pixel to the prototype of each class.

    Seeds are the argmax of the map, its background weighted by 0.3; a class's prototype is the mean feature over its
    seeds, and its map relu(cosine(prototype, feature)). Two matrix products: the N x K x D x h x w tensor of
    element-wise products is never built. A class without a seed gets a map of zeros.

    Args:
        cam_NKhw: map after `pixel_correlation`; no gradient reaches it (argmax).
        feature_NDhw: hierarchical feature.
        valid_NKhw: mask from `valid_mask` in training, None at inference.

    Returns:
        (N, K, h, w) float32 in [0, 1].
    """
    weighted = cam_NKhw.detach().clone()
    weighted[:, 0] *= BACKGROUND_FACTOR
    seeds = F.one_hot(weighted.argmax(dim=1), cam_NKhw.shape[1]).movedim(-1, 1).to(torch.float32)
    if valid_NKhw is not None:
        seeds = seeds * valid_NKhw
    feature = feature_NDhw.float().flatten(2)
    with full_precision(feature):
        prototype_NKD = seeds.flatten(2) @ feature.transpose(1, 2) / seeds.sum(dim=(2, 3)).clamp(min=1)[..., None]
        # The norms of torch.cosine_similarity: bounded from below, not shifted.
        cosine = F.normalize(prototype_NKD, dim=2, eps=1e-8) @ F.normalize(feature, dim=1, eps=1e-8)
    return cosine.relu().view_as(cam_NKhw)


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
