"""Segmentation metrics from one confusion matrix over a whole data set."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sfc.data.images import VOID


def confusion(truth: np.ndarray, predicted: np.ndarray, channels: int) -> np.ndarray:
    """Pixel counts.

    Args:
        truth: uint8 class indices, 255 = void, which never counts.
        predicted: uint8 of the same shape; 255 = predicted void, which counts as wrong.
        channels: K, with the background; at most 255.

    Returns:
        (K, K + 1) int64: rows are the truth, columns the prediction, the last one predicted void.
    """
    if truth.shape != predicted.shape:
        raise ValueError(f"a prediction of shape {predicted.shape} for a mask of shape {truth.shape}")
    # Both values as one of 65,536: no mask, no copy of the counted pixels, no wide intermediate.
    pairs = (truth.astype(np.uint16) << 8 | predicted.astype(np.uint16)).ravel()
    table = np.bincount(pairs, minlength=1 << 16).reshape(256, 256)[:VOID]
    for what, wrong in (("true", table[channels:].sum(1)), ("predicted", table[:, channels:VOID].sum(0))):
        if wrong.any():
            raise ValueError(f"a {what} class of {channels + int(wrong.nonzero()[0].max())}, with {channels} channels")
    return np.concatenate([table[:channels, :channels], table[:channels, VOID:]], axis=1)


def pixel_counts(matrix: np.ndarray) -> np.ndarray:
    """(..., K, K or K + 1) -> (..., K, 3) int64: true positive, predicted and true pixels of each class."""
    hit = np.diagonal(matrix, axis1=-2, axis2=-1)
    return np.stack([hit, matrix.sum(-2)[..., : matrix.shape[-2]], matrix.sum(-1)], axis=-1)


def iou_of(pixels: np.ndarray) -> np.ndarray:
    """(..., K, 3) from `pixel_counts` -> (..., K) float64; NaN for a class that neither occurs nor is predicted."""
    hit, predicted, true = np.moveaxis(pixels.astype(np.float64), -1, 0)
    union = predicted + true - hit
    return np.divide(hit, union, out=np.full(hit.shape, np.nan), where=union > 0)


def class_iou(matrix: np.ndarray) -> np.ndarray:
    """(..., K, K or K + 1) -> (..., K) float64; NaN for a class that neither occurs nor is predicted."""
    return iou_of(pixel_counts(matrix))


def frequency_thirds(counts: Sequence[int] | np.ndarray) -> dict[str, np.ndarray]:
    """Foreground classes (from 1) by their number of training images: head, middle and tail thirds."""
    order = np.argsort(-np.asarray(counts), kind="stable") + 1
    return dict(zip(("head", "middle", "tail"), np.array_split(order, 3), strict=True))


def summarise(matrix: np.ndarray, counts: Sequence[int] | np.ndarray) -> dict[str, float]:
    """`summarise_pixels` of a confusion matrix; without `coverage` if the matrix has no column of predicted void."""
    result = summarise_pixels(pixel_counts(matrix), counts)
    if matrix.shape[1] == len(matrix):
        del result["coverage"]
    return result


def summarise_pixels(pixels: np.ndarray, counts: Sequence[int] | np.ndarray) -> dict[str, float]:
    """Numbers of a data set's pixel counts, in [0, 1].

    Args:
        pixels: (K, 3) true positive, predicted and true pixels of each class.
        counts: (C,) training images of each foreground class.

    Returns:
        `miou` over all K classes that occur, `miou_head`, `miou_middle`, `miou_tail` over thirds of the foreground,
        `accuracy`, and `coverage`, the part of the pixels with a prediction.
    """
    iou = iou_of(pixels)
    hit, predicted, true = (int(number) for number in pixels.sum(0))
    result = {"miou": float(np.nanmean(iou)) if np.isfinite(iou).any() else 0.0}
    for name, classes in frequency_thirds(counts).items():
        if len(classes) and np.isfinite(iou[classes]).any():
            result[f"miou_{name}"] = float(np.nanmean(iou[classes]))
    return result | {"accuracy": hit / max(1, true), "coverage": predicted / true if true else 1.0}


THRESHOLDS = np.round(np.arange(0, 0.601, 0.01), 2)
"""Background thresholds of the usual sweep."""


def seed_histogram(truth: np.ndarray, label: np.ndarray, height: np.ndarray, channels: int) -> np.ndarray:
    """Counts from which the confusion matrix at every threshold follows.

    Args:
        truth: (H, W) uint8.
        label: (H, W) most active foreground class, 0 where the image has none.
        height: (H, W) value of that class's map; a pixel above the threshold is foreground.
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
    foreground = histogram[::-1].cumsum(0)[-2::-1]  # [b]: foreground at more than b thresholds
    matrices = foreground.copy()
    matrices[:, :, 0] += (histogram.sum(0) - foreground).sum(2)
    return matrices
