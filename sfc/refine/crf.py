"""Dense CRF (Krähenbühl and Koltun, 2011) by pydensecrf."""

from __future__ import annotations

import numpy as np
import pydensecrf.densecrf as densecrf
from pydensecrf.utils import unary_from_labels

from sfc.config import Crf
from sfc.data.images import VOID

WEAK_BACKGROUND = 0.5
"""Factor of the background's map where foreground is sought that the maps themselves do not show."""


def crf_labels(image_HW3: np.ndarray, label_HW: np.ndarray, channels: int, section: Crf) -> np.ndarray:
    """Labels after a dense CRF on hard labels.

    Args:
        image_HW3: (H, W, 3) uint8 RGB.
        label_HW: (H, W) indices into the image's own label space, 0 = background.
        channels: size of that label space, the background and the image's labels, whether they occur or not.
        section: strength and kernels.

    Returns:
        (H, W) uint8 indices into the same space.
    """
    height, width = label_HW.shape
    if channels < 2:
        return label_HW.astype(np.uint8)
    field = densecrf.DenseCRF2D(width, height, channels)
    unary = unary_from_labels(label_HW.astype(np.int32), channels, gt_prob=section.gt_prob, zero_unsure=False)
    field.setUnaryEnergy(np.ascontiguousarray(unary, np.float32))
    field.addPairwiseGaussian(sxy=section.gaussian_sxy, compat=section.gaussian_compat)
    field.addPairwiseBilateral(
        sxy=section.bilateral_sxy,
        srgb=section.bilateral_srgb,
        rgbim=np.array(image_HW3, order="C"),  # pydensecrf refuses read-only memory
        compat=section.bilateral_compat,
    )
    marginals = np.array(field.inference(section.iterations)).reshape(channels, height, width)
    return marginals.argmax(0).astype(np.uint8)


def ir_labels(image_HW3: np.ndarray, fused_KHW: np.ndarray, section: Crf) -> np.ndarray:
    """Labels for IRN: what two CRFs agree on, one from the maps and one from the maps with half the background.

    Args:
        image_HW3: (H, W, 3) uint8 RGB.
        fused_KHW: fused maps of the image's kept channels, background first.
        section: strength and kernels.

    Returns:
        (H, W) uint8 indices into the channels: foreground where the first CRF says so, 0 where both say background,
        else 255.
    """
    weak = fused_KHW.copy()
    weak[0] *= WEAK_BACKGROUND
    first, second = (crf_labels(image_HW3, m.argmax(0), len(m), section) for m in (fused_KHW, weak))
    return np.where((first == 0) & (second != 0), VOID, first).astype(np.uint8)
