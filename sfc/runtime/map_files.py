"""Maps on disk: both maps of an image at every scale, as the network made them, float16, of the kept channels alone.

Summing the scales at image size, as the method does, is left to the reader: at output stride 16 a file takes 1/68 of
the same maps at full resolution in float32, and nothing is lost but float16's rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sfc.method.cam import over_maximum, resize


def save_maps(path: Path, keys: np.ndarray, size: tuple[int, int], maps: Sequence[tuple[Tensor, Tensor]]) -> None:
    """Write one image's maps, atomically.

    Args:
        path: an .npz file.
        keys: (K',) kept channels, the background first.
        size: height and width of the image.
        maps: for each scale, classifier map and prototype map (K', h, w).
    """
    arrays = {"keys": keys, "size": np.array(size)}
    for s, (cam, prototype) in enumerate(maps):
        arrays[f"classifier_{s}"] = cam.half().cpu().numpy()
        arrays[f"prototype_{s}"] = prototype.half().cpu().numpy()
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        np.savez(file, **arrays)
    partial.replace(path)


def load_maps(path: Path) -> tuple[np.ndarray, Tensor, Tensor]:
    """Maps of one image at its size: each scale resized (bilinear), summed, each channel over its maximum + 1e-5.

    Returns:
        keys (K',) int64; classifier map and prototype map (K', H, W) float32.
    """
    with np.load(path) as file:
        size = (int(file["size"][0]), int(file["size"][1]))
        number = sum(name.startswith("classifier_") for name in file.files)
        keys = file["keys"]
        cam, prototype = (
            sum_scales([torch.from_numpy(file[f"{kind}_{s}"]).float() for s in range(number)], size)
            for kind in ("classifier", "prototype")
        )
    return keys, cam, prototype


def save_edge(path: Path, edge_ab: Tensor) -> None:
    """Write one image's edge probabilities (a, b), a quarter of its size, as float16, atomically."""
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        np.savez(file, edge=edge_ab.half().cpu().numpy())
    partial.replace(path)


def load_edge(path: Path) -> Tensor:
    """(a, b) float32 from `save_edge`."""
    with np.load(path) as file:
        return torch.from_numpy(file["edge"]).float()


def sum_scales(maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """Maps (K', h, w) of each scale -> (K', H, W): resized to `size`, added, each channel over its maximum + 1e-5."""
    return over_maximum(torch.stack([resize(m[None], size, align_corners=False)[0] for m in maps]).sum(0))
