"""Data sets: one module a format, all made into a folder in VOC layout, all read as a `Dataset`."""

from __future__ import annotations

from pathlib import Path

from sfc.config import Data
from sfc.data.dataset import Dataset, Split, open_folder
from sfc.data.prepared import prepared_folder
from sfc.data.synthetic import generate
from sfc.errors import UserError

__all__ = ["Dataset", "Split", "open_dataset"]


def open_dataset(section: Data, cache: Path | None = None) -> Dataset:
    """The configured data set; `synthetic` is generated on first use, benchmarks must have been prepared.

    Args:
        section: the data section.
        cache: folder that remembers which images could be read.

    Raises:
        UserError: the folder is missing, empty, or not in VOC layout; a benchmark was not prepared, or the split of
            it that reports shares images with those that train and select.
    """
    root = Path(section.root)
    if section.format == "synthetic":
        root = generate(section.synthetic, root)
    elif section.format != "folder":
        return _open_benchmark(section, cache)
    return open_folder(root, skip_broken=section.skip_broken, cache=cache)


def _open_benchmark(section: Data, cache: Path | None) -> Dataset:
    folder = prepared_folder(Path(section.root), section.format)
    if not folder.is_dir():
        command = f"python -m sfc data {section.format} --root {section.root}"
        raise UserError(f"data.root: {section.root} has no prepared {section.format}; make it by: {command}")
    data = open_folder(folder, skip_broken=section.skip_broken, cache=cache)
    reporting = set(data.ids(section.val))
    for key in ("train", "select"):  # VOC's trainval holds val under another name
        split = getattr(section, key)
        if shared := len(reporting.intersection(data.ids(split))):
            raise UserError(f"data.{key}: the split {split} has {shared:,} images of {section.val}, which reports")
    return data
