"""Segmentation metrics from ONE confusion matrix over a data set (method.md section 5)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sfc.data.images import VOID


def confusion(truth: np.ndarray, predicted: np.ndarray, channels: int) -> np.ndarray:
    """Pixel counts.

    Args:
        truth: uint8 class indices, 255 = void, which never counts.
        predicted: the same shape; 255 = predicted void, which counts as wrong.
        channels: K, with the background.

    Returns:
        (K, K + 1) int64: rows are the truth, columns the prediction, the last one predicted void.
    """
    counted = truth != VOID
    if predicted.size and ((predicted >= channels) & (predicted != VOID)).any():
        raise ValueError(f"a predicted class of {int(predicted[predicted != VOID].max())}, with {channels} channels")
    column = np.where(predicted == VOID, channels, predicted).astype(np.int64)[counted]
    index = truth[counted].astype(np.int64) * (channels + 1) + column
    return np.bincount(index, minlength=channels * (channels + 1)).reshape(channels, channels + 1)


def class_iou(matrix: np.ndarray) -> np.ndarray:
    """(..., K, K or K + 1) -> (..., K) float64; NaN for a class that neither occurs nor is predicted."""
    channels = matrix.shape[-2]
    hit = np.diagonal(matrix, axis1=-2, axis2=-1).astype(np.float64)
    union = matrix.sum(-1) + matrix[..., :channels].sum(-2) - hit
    return np.divide(hit, union, out=np.full(hit.shape, np.nan), where=union > 0)


def frequency_thirds(counts: Sequence[int] | np.ndarray) -> dict[str, np.ndarray]:
    """Foreground classes (from 1) by their number of training images: head, middle and tail thirds."""
    order = np.argsort(-np.asarray(counts), kind="stable") + 1
    return dict(zip(("head", "middle", "tail"), np.array_split(order, 3), strict=True))


def summarise(matrix: np.ndarray, counts: Sequence[int] | np.ndarray) -> dict[str, float]:
    """Numbers of one confusion matrix, in [0, 1].

    Args:
        matrix: from `confusion`.
        counts: (C,) training images of each foreground class.

    Returns:
        `miou` over all K classes that occur, `miou_head`, `miou_middle`, `miou_tail` over thirds of the foreground,
        `accuracy`, and `coverage`, the part of the pixels with a prediction.
    """
    iou = class_iou(matrix)
    pixels = max(1, int(matrix.sum()))
    result = {"miou": float(np.nanmean(iou)) if np.isfinite(iou).any() else 0.0}
    for name, classes in frequency_thirds(counts).items():
        if len(classes) and np.isfinite(iou[classes]).any():
            result[f"miou_{name}"] = float(np.nanmean(iou[classes]))
    result["accuracy"] = float(np.trace(matrix[:, : len(matrix)]) / pixels)
    if matrix.shape[1] > len(matrix):
        result["coverage"] = float(1 - matrix[:, -1].sum() / pixels)
    return result


THRESHOLDS = np.round(np.arange(0, 0.601, 0.01), 2)
"""Background thresholds of the usual sweep."""


def seed_histogram(truth: np.ndarray, label: np.ndarray, height: np.ndarray, channels: int) -> np.ndarray:
    """Counts from which the confusion matrix at every threshold follows.

    Args:
        truth: (H, W) uint8.
        label: (H, W) most active foreground class, 0 where the image has none.
        height: (H, W) its map's value; the pixel is foreground where it is above the threshold.
        channels: K.

    Returns:
        (T + 1, K, K) int64: entry b counts the pixels that are foreground at the first b thresholds.
    """
    counted = truth != VOID
    bins = np.searchsorted(THRESHOLDS.astype(height.dtype), height[counted], side="left")
    index = (bins * channels + truth[counted]) * channels + label[counted]
    size = (len(THRESHOLDS) + 1) * channels * channels
    return np.bincount(index.astype(np.int64), minlength=size).reshape(-1, channels, channels)


def sweep(histogram: np.ndarray) -> np.ndarray:
    """Confusion matrices (T, K, K) at every threshold from a `seed_histogram`."""
    above = histogram[::-1].cumsum(0)[::-1]  # [b]: foreground at b thresholds or more
    foreground = above[1:]
    background = histogram.sum(0)[None] - foreground
    matrices = foreground.copy()
    matrices[:, :, 0] += background.sum(2)
    return matrices
