"""Decoded images of a split in one file, which all trainings on a machine read: no epoch and no trial decodes again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Self

import numpy as np
from PIL import Image

from sfc.data.dataset import Dataset, Split
from sfc.data.images import open_image
from sfc.runtime.locks import locked
from sfc.runtime.store import write_atomic

LIMIT = 2**30
"""Bytes of a split's pixels up to which they are kept."""


class Decoded:
    """RGB images of a split by their position, from a memory map.

    Args:
        pixels: of all images one after the other, uint8.
        sizes: (N, 2) heights and widths.
    """

    def __init__(self, pixels: np.ndarray, sizes: np.ndarray) -> None:
        self.pixels, self.sizes = pixels, sizes
        self.ends = np.cumsum(3 * sizes.prod(1))

    def __getitem__(self, index: int) -> Image.Image:
        height, width = self.sizes[index]
        end = int(self.ends[index])
        return Image.fromarray(self.pixels[end - 3 * height * width : end].reshape(height, width, 3))

    @classmethod
    def open(cls, data: Dataset, split: Split) -> Self | None:
        """The split's pixels in the data's cache folder, decoded now if they are not there. None where the data have no
        such folder, it can't be written, or they are larger than LIMIT."""
        if data.cache is None:
            return None
        file = data.cache / f"pixels-{split.fingerprint}-{len(split)}.npy"
        sizes = file.with_suffix(".json")
        try:
            with locked(file.with_suffix(".lock")):
                if not file.is_file() and not _write(data, split, file, sizes):
                    return None
            return cls(np.load(file, mmap_mode="r"), np.array(json.loads(sizes.read_text(encoding="utf-8"))))
        except OSError:  # no room, or a folder that can't be written: the images themselves are there
            return None


def _write(data: Dataset, split: Split, file: Path, sizes: Path) -> bool:
    """Decode a split into a file, which appears whole or not at all. Returns whether its pixels are few enough."""
    shapes = []
    for name in split.ids:
        with open_image(data.image_path(name)) as header:
            shapes.append((header.height, header.width))
    total = sum(3 * height * width for height, width in shapes)
    if total > LIMIT:
        return False
    write_atomic(sizes, json.dumps(shapes))
    partial = file.with_suffix(".partial")
    try:
        with partial.open("wb") as output:  # not a map: on a full disk that would end the process
            layout: dict[str, Any] = {"descr": "|u1", "fortran_order": False, "shape": (total,)}
            np.lib.format.write_array_header_1_0(output, layout)
            for name in split.ids:
                output.write(np.asarray(data.image(name)).tobytes())
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)  # what is left of it would keep the disk full
    return True
