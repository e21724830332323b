"""Data sets: one module a format, all read as a `Dataset` in VOC layout."""

from __future__ import annotations

from pathlib import Path

from sfc.config import Data
from sfc.data.dataset import Dataset, Split, open_folder
from sfc.data.synthetic import generate

__all__ = ["Dataset", "Split", "open_dataset"]


def open_dataset(section: Data, cache: Path | None = None) -> Dataset:
    """The configured data set; `synthetic` is generated on first use.

    Args:
        section: the data section.
        cache: folder that remembers which images could be read.

    Raises:
        UserError: the folder is missing, empty, or not in VOC layout.
    """
    root = Path(section.root)
    if section.format == "synthetic":
        root = generate(section.synthetic, root)
    return open_folder(root, skip_broken=section.skip_broken, cache=cache)
