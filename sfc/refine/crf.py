"""Dense CRF (Krähenbühl and Koltun, 2011) by pydensecrf."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pydensecrf.densecrf as densecrf
from pydensecrf.utils import unary_from_labels, unary_from_softmax

from sfc.config import Crf
from sfc.data.images import VOID

WEAK_BACKGROUND = 0.5
"""Factor of the background's map in the second CRF of `ir_labels`."""
CLIP = 1e-5
"""Smallest probability that enters a unary energy."""


def crf_labels(image_HW3: np.ndarray, label_HW: np.ndarray, channels: int, section: Crf) -> np.ndarray:
    """Labels after a dense CRF on hard labels.

    Args:
        image_HW3: (H, W, 3) uint8 RGB.
        label_HW: (H, W) indices into the image's channels, 0 = background.
        channels: number of these: the background and the image's labels, whether they occur or not.
        section: strength and kernels.

    Returns:
        (H, W) uint8 indices into the channels.
    """
    if channels < 2:
        return label_HW.astype(np.uint8)
    unary = unary_from_labels(label_HW.astype(np.int32), channels, gt_prob=section.gt_prob, zero_unsure=False)
    gaussian = section.gaussian_compat, section.gaussian_sxy
    bilateral = section.bilateral_compat, section.bilateral_sxy, section.bilateral_srgb
    return _inference(image_HW3, unary, Kernels(section.iterations, *gaussian, *bilateral))


def ir_labels(image_HW3: np.ndarray, fused_KHW: np.ndarray, section: Crf) -> np.ndarray:
    """Labels for IRN from two CRFs, one on the maps and one on the maps with half the background.

    Args:
        image_HW3: (H, W, 3) uint8 RGB.
        fused_KHW: fused maps of the image's kept channels, background first.
        section: strength and kernels.

    Returns:
        (H, W) uint8 indices into the channels: the first CRF's foreground, 0 where both give background, else 255.
    """
    weak = fused_KHW.copy()
    weak[0] *= WEAK_BACKGROUND
    first, second = (crf_labels(image_HW3, m.argmax(0), len(m), section) for m in (fused_KHW, weak))
    return np.where((first == 0) & (second != 0), VOID, first).astype(np.uint8)


class Kernels(NamedTuple):
    """Settings of a dense CRF: weight and width (pixels) of the Gaussian kernel, then of the bilateral kernel, whose
    width in colour is in steps of 255."""

    iterations: int
    pos_w: float
    pos_xy: float
    bi_w: float
    bi_xy: float
    bi_rgb: float


PRESETS = {
    "deeplab": Kernels(10, 3, 1, 4, 67, 3),
    "seam": Kernels(1, 3, 3, 10, 32, 13),
    "toco": Kernels(10, 1, 1, 4, 121, 5),
    "weclip": Kernels(10, 3, 3, 4, 64, 5),
}
"""Settings at test time by the work that published them."""


def crf_probabilities(image_HW3: np.ndarray, probability_KHW: np.ndarray, kernels: Kernels) -> np.ndarray:
    """Labels after a dense CRF on class probabilities.

    Args:
        image_HW3: (H, W, 3) uint8 RGB.
        probability_KHW: (K, H, W) float, of all classes or some; values below 1e-5 count as 1e-5.
        kernels: one of `PRESETS`, or others.

    Returns:
        (H, W) uint8 indices into the K channels.
    """
    if len(probability_KHW) < 2:
        return np.zeros(probability_KHW.shape[1:], np.uint8)
    unary = unary_from_softmax(np.asarray(probability_KHW, np.float32), clip=CLIP)
    return _inference(image_HW3, unary, kernels)


def _inference(image_HW3: np.ndarray, unary: np.ndarray, kernels: Kernels) -> np.ndarray:
    """(H, W) uint8 most probable channels from unary energies (K, H x W)."""
    height, width = image_HW3.shape[:2]
    field = densecrf.DenseCRF2D(width, height, len(unary))
    field.setUnaryEnergy(np.ascontiguousarray(unary, np.float32))
    field.addPairwiseGaussian(sxy=kernels.pos_xy, compat=kernels.pos_w)
    pixels = np.array(image_HW3, order="C")  # pydensecrf refuses read-only memory
    field.addPairwiseBilateral(sxy=kernels.bi_xy, srgb=kernels.bi_rgb, rgbim=pixels, compat=kernels.bi_w)
    marginals = np.array(field.inference(kernels.iterations)).reshape(-1, height, width)
    return marginals.argmax(0).astype(np.uint8)
