"""Seeds: the channel that wins at each pixel of the fused maps, under a background rule."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sfc.config import Pseudo
from sfc.data.images import VOID
from sfc.method.cam import fuse, offset_background


def ruled_maps(cam: Tensor, prototype: Tensor, section: Pseudo, fusion: float) -> Tensor:
    """Fused maps whose background channel follows the configured rule, so that its argmax gives the seeds.

    Args:
        cam, prototype: (K', H, W) maps of the image's kept channels, background first.
        section: background rule.
        fusion: weight of the prototype map.

    Returns:
        (K', H, W) float32, >= 0.
    """
    if section.background == "offset":
        cam, prototype = (offset_background(m, section.offset) for m in (cam, prototype))
        return fuse(cam, prototype, fusion)
    fused = fuse(cam, prototype, fusion)
    fused[0] = section.threshold
    return fused


def hard_labels(cam: Tensor, prototype: Tensor, section: Pseudo) -> np.ndarray:
    """Seeds of one image.

    Args:
        cam, prototype: (K', H, W) maps of the image's kept channels, background first.
        section: fusion weight and background rule.

    Returns:
        (H, W) uint8 indices into the kept channels; a tie goes to the background.
    """
    return ruled_maps(cam, prototype, section, section.fusion).argmax(0).numpy().astype(np.uint8)


def as_classes(label: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Indices into the kept channels `keys` -> class indices, uint8; 255 stays void."""
    table = np.full(256, VOID, np.uint8)
    table[: len(keys)] = keys
    return table[label]


def strongest(keys: np.ndarray, cam: Tensor, prototype: Tensor, fusion: float) -> tuple[np.ndarray, np.ndarray]:
    """For a sweep of background thresholds: the most active foreground class and its fused map.

    Args:
        keys: (K',) kept channels.
        cam, prototype: (K', H, W).
        fusion: weight of the prototype map.

    Returns:
        (H, W) int64 class (0 where the image has none) and (H, W) float32 height.
    """
    if len(keys) < 2:
        return np.zeros(cam.shape[1:], np.int64), torch.zeros(cam.shape[1:]).numpy()
    height, winner = fuse(cam, prototype, fusion)[1:].max(0)
    return keys[1:][winner.numpy()], height.numpy()
