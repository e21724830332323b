"""Folders in VOC layout that are made once from benchmarks in their official layouts.

The folder is `<root>/prepared/<name>`, links to the images instead of copying them, and is read by the same code as
every other data set.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from sfc.errors import UserError
from sfc.runtime.locks import locked

MADE_FROM = "made_from.json"
MASKS = "SegmentationClass"


def prepared_folder(root: Path, name: str) -> Path:
    """Folder of a benchmark, prepared or not."""
    return root / "prepared" / name


def require(root: Path, parts: Iterable[str], hint: str) -> None:
    """Raise a UserError that lists all parts that are missing below `root`, if any is."""
    missing = [part for part in parts if not (root / part).exists()]
    if missing:
        raise UserError(f"{root} lacks\n  " + "\n  ".join(missing) + f"\n{hint}")


def publish(folder: Path, made_from: dict[str, Any], build: Callable[[Path], None]) -> Path:
    """Build a folder unless it exists and was made from the same sources by the same rule; returns it.

    The folder appears whole or not at all. An interrupted preparation from the same sources leaves its masks, each of
    which was written atomically, to the next one; everything else is written anew.

    Args:
        folder: the folder to build.
        made_from: JSON values that name the sources' content and the rule's version.
        build: writes into the folder that is its argument.

    Raises:
        UserError: the folder can't be written.
    """
    wanted = json.dumps(made_from, sort_keys=True)

    def same(path: Path) -> bool:
        return (path / MADE_FROM).is_file() and (path / MADE_FROM).read_text(encoding="utf-8") == wanted

    try:
        with locked(folder.with_suffix(".lock")):
            if same(folder):
                return folder
            partial = folder.with_suffix(".partial")
            if partial.exists() and not same(partial):
                shutil.rmtree(partial)
            partial.mkdir(exist_ok=True)
            for path in partial.iterdir():
                if path.is_dir() and not path.is_symlink() and path.name != MASKS:
                    shutil.rmtree(path)
                elif path.name not in (MASKS, MADE_FROM):
                    path.unlink()
            (partial / MADE_FROM).write_text(wanted, encoding="utf-8")
            (partial / MASKS).mkdir(exist_ok=True)
            build(partial)
            if folder.exists():  # made from other sources
                shutil.rmtree(folder)
            partial.rename(folder)
    except PermissionError as error:
        raise UserError(f"{folder} can't be written: {error.strerror}") from None
    return folder


def link(path: Path, target: Path) -> None:
    """Make or replace a link; it is relative, so that the root can be moved."""
    path.unlink(missing_ok=True)
    path.symlink_to(os.path.relpath(target.resolve(), path.parent.resolve()))
