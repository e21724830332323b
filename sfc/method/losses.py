"""The losses of SFC as functions of tensors (section "Methodology"). Suffixes as in `sfc.method.cam`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from sfc.method.cam import over_maximum, resize


def classification_loss(scores: Sequence[Tensor], label_NC: Tensor) -> Tensor:
    """Multi-label soft margin loss, the mean over views. scores: one (N, C) of logits a view. Returns a scalar."""
    losses = [F.multilabel_soft_margin_loss(score.float(), label_NC) for score in scores]
    return torch.stack(losses).mean()


def prototype_consistency(cam_NKhw: Tensor, prototype_NKhw: Tensor, weight_C: Tensor) -> Tensor:
    """Mean over N x K x h x w of w_c |M_classifier - M_prototype / (its maximum + 1e-5)|; the background weighs 1.

    Args:
        cam_NKhw: classifier map after pixel correlation.
        prototype_NKhw: prototype map; its maximum is taken per image and channel.
        weight_C: distribution weights of the foreground.

    Returns:
        Scalar; gradients flow into both maps.
    """
    weight_K = F.pad(weight_C, (1, 0), value=1.0)
    difference = (cam_NKhw - over_maximum(prototype_NKhw)).abs()
    return (weight_K[:, None, None] * difference).mean()


def scale_consistency(cam_NKhw: Tensor, cam_small_NKhw: Tensor, label_NC: Tensor, weight_C: Tensor) -> Tensor:
    """Mean over N x C x h' x w' of w_c |label * M(full, resized) - label * M(small)|, foreground alone.

    Args:
        cam_NKhw: classifier map after pixel correlation of the full view.
        cam_small_NKhw: the same of the resized view; the other is brought to its size (align_corners).
        label_NC: image labels in {0, 1}.
        weight_C: distribution weights of the foreground.

    Returns:
        Scalar; gradients flow into both maps.
    """
    full = resize(cam_NKhw[:, 1:], tuple(cam_small_NKhw.shape[-2:]), align_corners=True)
    weight_NC = weight_C * label_NC
    return (weight_NC[:, :, None, None] * (full - cam_small_NKhw[:, 1:]).abs()).mean()
