"""Maps on disk: the named maps of an image at every scale, as the network made them, float16, of the kept channels.

Summing the scales at image size, as the method does, is left to the reader: at output stride 16 a file takes 1/68 of
the same maps at full resolution in float32, and nothing is lost but float16's rounding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sfc.method.cam import over_maximum, resize


class ImageMaps(NamedTuple):
    """The maps of one image at its size."""

    keys: np.ndarray
    """(K',) int64: kept channels, the background first."""
    maps: dict[str, Tensor]
    """(K', H, W) float32 by name, the method's main map first."""

    @property
    def size(self) -> tuple[int, int]:
        """H and W."""
        main = next(iter(self.maps.values()))
        return main.shape[-2], main.shape[-1]


def kept_channels(label_C: np.ndarray) -> np.ndarray:
    """The background and the image's labels as channels: (C,) in {0, 1} -> (K',) int64."""
    return np.concatenate([[0], np.flatnonzero(label_C) + 1])


def save_maps(path: Path, keys: np.ndarray, size: tuple[int, int], scales: Sequence[Mapping[str, Tensor]]) -> None:
    """Write one image's maps to an .npz file, atomically.

    Args:
        path: the file.
        keys: (K',) kept channels, the background first.
        size: height and width of the image.
        scales: for each scale, maps (K', h, w) by name; the names are the same at every scale.
    """
    arrays = {"keys": keys, "size": np.array(size), "names": np.array(list(scales[0]))}
    for s, maps in enumerate(scales):
        for name, values in maps.items():
            arrays[f"{name}_{s}"] = values.half().cpu().numpy()
    _write(path, arrays)


def load_maps(path: Path) -> ImageMaps:
    """The maps of one image at its size: each scale resized (bilinear), added, each channel over its maximum + 1e-5."""
    with np.load(path) as file:
        size = (int(file["size"][0]), int(file["size"][1]))
        names = file["names"].tolist()
        number = (len(file.files) - 3) // len(names)
        maps = {
            name: sum_scales([torch.from_numpy(file[f"{name}_{s}"]).float() for s in range(number)], size)
            for name in names
        }
        return ImageMaps(file["keys"], maps)


def sum_scales(maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """Maps (K', h, w) of each scale -> (K', H, W): resized to `size`, added, each channel over its maximum + 1e-5."""
    return over_maximum(torch.stack([resize(m[None], size, align_corners=False)[0] for m in maps]).sum(0))


def save_edge(path: Path, edge_ab: Tensor) -> None:
    """Write one image's edge probabilities (a, b), a quarter of its size, as float16, atomically."""
    _write(path, {"edge": edge_ab.half().cpu().numpy()})


def load_edge(path: Path) -> Tensor:
    """(a, b) float32 from `save_edge`."""
    with np.load(path) as file:
        return torch.from_numpy(file["edge"]).float()


def _write(path: Path, arrays: dict[str, Any]) -> None:
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        np.savez(file, **arrays)
    partial.replace(path)
