"""Seeds: the channel that wins at each pixel of the fused maps, under a background rule."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from sfc.config import Pseudo
from sfc.data.images import VOID
from sfc.method.cam import fuse, offset_background

Maps = Mapping[str, Tensor]
"""Maps (K', H, W) of an image's kept channels by name, the background first."""


def ruled_maps(maps: Maps, section: Pseudo, fusion: float) -> Tensor:
    """Fused maps whose background channel follows the configured rule, so that its argmax gives the seeds.

    Args:
        maps: one or several.
        section: background rule.
        fusion: weight of each further map beside the first.

    Returns:
        (K', H, W) float32, >= 0.
    """
    if section.background == "offset":
        return fuse({name: offset_background(m, section.offset) for name, m in maps.items()}, fusion)
    fused = fuse(maps, fusion).clone()
    fused[0] = section.threshold
    return fused


def hard_labels(maps: Maps, section: Pseudo) -> np.ndarray:
    """Seeds of one image: (H, W) uint8 indices into the kept channels; a tie goes to the background."""
    return ruled_maps(maps, section, section.fusion).max(0).indices.numpy().astype(np.uint8)


def as_classes(label: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Indices into the kept channels `keys` -> class indices, uint8; 255 stays void."""
    table = np.full(256, VOID, np.uint8)
    table[: len(keys)] = keys
    return table[label]


def strongest(keys: np.ndarray, maps: Maps, fusion: float) -> tuple[np.ndarray, np.ndarray]:
    """The most active foreground class and its fused map, for a sweep of background thresholds.

    Args:
        keys: (K',) kept channels.
        maps: one or several.
        fusion: weight of each further map beside the first.

    Returns:
        (H, W) int64 class (0 where the image has none) and (H, W) float32 height.
    """
    fused = fuse(maps, fusion)
    if len(keys) < 2:
        return np.zeros(fused.shape[1:], np.int64), torch.zeros(fused.shape[1:]).numpy()
    height, winner = fused[1:].max(0)
    return keys[1:][winner.numpy()], height.numpy()
