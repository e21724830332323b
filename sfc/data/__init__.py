"""Data sets: one module for each format, which makes a folder in VOC layout; all are read as a `Dataset`."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

from sfc.config import Data, plugins
from sfc.data.dataset import Dataset, Split, open_folder
from sfc.data.prepared import prepared_folder
from sfc.data.synthetic import generate
from sfc.errors import UserError
from sfc.runtime.locks import locked

__all__ = ["Dataset", "Split", "open_dataset"]


def open_dataset(section: Data, cache: Path | None = None) -> Dataset:
    """The configured data set; `synthetic` is generated on first use, benchmarks must have been prepared.

    Args:
        section: the data section.
        cache: folder that remembers which images could be read.

    Raises:
        UserError: the folder is missing, empty, or not in VOC layout; a benchmark was not prepared; the split that
            reports shares images with those that train and select; a user's own format was not allowed or fails.
    """
    data = open_folder(_folder(section, cache), skip_broken=section.skip_broken, cache=cache)
    splits = {key: getattr(section, key) for key in ("train", "select", "val")}
    ids = {key: set(data.ids(split)) for key, split in splits.items() if split in data.split_names()}
    reporting = ids.pop("val", set())
    for key, names in ids.items():  # such as VOC's trainval, which holds val under another name
        if shared := sorted(reporting & names):
            count = f"{len(shared):,} images of {section.val}, which reports"
            some = ", ".join(shared[:3]) + (", ..." if len(shared) > 3 else "")
            raise UserError(f"data.{key}: the split {splits[key]} has {count}: {some}")
    return data


def _folder(section: Data, cache: Path | None) -> Path:
    """Folder in VOC layout that a data section means."""
    root = Path(section.root)
    if section.format == "synthetic":
        return generate(section.synthetic, root)
    if section.format == "folder":
        return root
    if plugins.is_path(section.format):
        return _own_format(section, cache)
    folder = prepared_folder(root, section.format)
    if not folder.is_dir():
        command = f"python -m sfc data {section.format} --root {section.root}"
        raise UserError(f"data.root: {section.root} has no prepared {section.format}; make it by: {command}")
    return folder


def _own_format(section: Data, cache: Path | None) -> Path:
    """Folder that a user's function writes; one process at a time calls it, as several trials may start at once."""
    function = plugins.load(section.format)
    try:
        with locked(cache / "format.lock") if cache else nullcontext():
            folder = function(section)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"data.format: {section.format} failed: {plugins.last_line(error)}") from error
    if not isinstance(folder, Path):
        raise UserError(f"data.format: {section.format} must return a folder in VOC layout (a Path), not {folder!r}")
    return folder
