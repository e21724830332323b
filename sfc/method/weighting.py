"""Distribution weights: how much harder the consistency loss pulls on each class (SFC, "distribution-weighted")."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

Weighting = Literal["pairwise", "uniform", "inverse", "sqrt_inverse", "effective_number"]
SCHEMES: tuple[str, ...] = get_args(Weighting)
RESAMPLING_PASSES = 3
"""Passes over the training set that the published resampling term counts (its 6 epochs are not explained)."""


def resampling_term(images: int, batch: int, drawn: int, classes: int) -> float:
    """Images that the bank adds to each class: iterations * drawn * 3 / classes (VOC: 396)."""
    return (images // batch) * drawn * RESAMPLING_PASSES / classes


def distribution_weights(
    counts: Sequence[int] | np.ndarray, scheme: Weighting = "pairwise", resampling: float = 0.0, beta: float = 0.999
) -> np.ndarray:
    """Weight of each foreground class, with mean 1.

    Args:
        counts: (C,) number of training images with each class, >= 0.
        scheme: `pairwise` is the paper's, d_c = sum_j |n_c - n_j| / (n_c + r); `inverse` 1 / (n_c + r);
            `sqrt_inverse` its root; `effective_number` (1 - beta) / (1 - beta^(n_c + r)) (Cui et al., CVPR 2019).
        resampling: r, images that the bank adds to every class.
        beta: of `effective_number`, in [0, 1).

    Returns:
        (C,) float32, all ones where every class is equally frequent.
    """
    n = np.asarray(counts, np.float64)
    seen = np.maximum(n + resampling, 1.0)
    if scheme == "pairwise":
        d = np.abs(n[:, None] - n[None, :]).sum(1) / seen
    elif scheme == "uniform":
        d = np.ones_like(n)
    elif scheme == "inverse":
        d = 1 / seen
    elif scheme == "sqrt_inverse":
        d = seen**-0.5
    elif scheme == "effective_number":
        d = (1 - beta) / (1 - beta**seen)
    else:
        raise ValueError(f"unknown weighting {scheme!r}; known: {', '.join(SCHEMES)}")
    if not d.any():  # pairwise with equal counts
        return np.ones_like(n, np.float32)
    return (d / d.mean()).astype(np.float32)
