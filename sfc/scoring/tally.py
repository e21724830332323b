"""Scores of label maps against masks, as stages keep them: numbers, one confusion matrix, counts of each image."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sfc.runtime.store import write_atomic
from sfc.scoring.metrics import class_iou, confusion, iou_of, pixel_counts, summarise, summarise_pixels

METRICS, CONFUSION, IMAGES = "metrics.json", "confusion.npy", "images.npz"


@dataclass
class Tally:
    """Pixel counts of some images, added up one by one, in any process.

    Args:
        channels: K, with the background.
    """

    channels: int
    matrix: np.ndarray = field(init=False)
    """(K, K + 1) int64, of all images together."""
    images: dict[str, np.ndarray] = field(init=False, default_factory=dict)
    """(K, 3) uint32 by image: true positive, predicted and true pixels of each class."""

    def __post_init__(self) -> None:
        self.matrix = np.zeros((self.channels, self.channels + 1), np.int64)

    def add(self, name: str, truth: np.ndarray, predicted: np.ndarray) -> None:
        """Count one image's (H, W) uint8 label map against its mask."""
        matrix = confusion(truth, predicted, self.channels)
        self.matrix += matrix
        self.images[name] = pixel_counts(matrix).astype(np.uint32)

    def write(self, folder: Path, counts: np.ndarray, **more: Any) -> None:
        """Write `confusion.npy` (K, K + 1), `images.npz` (see `read_images`) and `metrics.json` (see `numbers`).

        Args:
            folder: output.
            counts: (C,) training images of each foreground class.
            more: further entries of metrics.json.
        """
        np.save(folder / CONFUSION, self.matrix)
        images = np.stack(list(self.images.values()))
        np.savez_compressed(folder / IMAGES, ids=np.array(list(self.images)), pixels=images, counts=np.asarray(counts))
        write_atomic(folder / METRICS, json.dumps(numbers(self.matrix, counts) | more, indent=1))


def numbers(matrix: np.ndarray, counts: np.ndarray) -> dict[str, Any]:
    """`summarise` of a confusion matrix, and `iou` by class."""
    return summarise(matrix, counts) | {"iou": _rounded(class_iou(matrix))}


def _rounded(iou: np.ndarray) -> list[float]:
    return [round(float(value), 6) for value in iou]


def merge(tallies: Iterable[Tally]) -> Tally:
    """One tally of several over different images, in their order."""
    parts = list(tallies)
    merged = Tally(parts[0].channels)
    for part in parts:  # into arrays of our own: those that another process sent may be read-only
        merged.matrix += part.matrix
        merged.images |= part.images
    return merged


def read_images(folder: Path) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Counts of each image in a stage's folder.

    Returns:
        Names; (N, K, 3) uint32 true positive, predicted and true pixels; (C,) training images of each class.
    """
    with np.load(folder / IMAGES) as file:
        return file["ids"].tolist(), file["pixels"], file["counts"]


def recompute(folder: Path, names: Iterable[str] | None = None) -> dict[str, Any]:
    """`numbers` of all or some images in a stage's folder, from the counts of each; KeyError for an unknown name."""
    ids, pixels, counts = read_images(folder)
    if names is not None:
        index = {name: i for i, name in enumerate(ids)}
        pixels = pixels[[index[name] for name in names]]
    total = pixels.sum(0, dtype=np.int64)
    return summarise_pixels(total, counts) | {"iou": _rounded(iou_of(total))}
