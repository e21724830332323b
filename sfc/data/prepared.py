"""Folders in VOC layout that are made once: from benchmarks in their official layouts, or generated."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from sfc.data.images import MASKS
from sfc.errors import UserError
from sfc.runtime.locks import locked

MADE_FROM = "made_from.json"


def prepared_folder(root: Path, name: str) -> Path:
    """Folder of a benchmark, prepared or not."""
    return root / "prepared" / name


def require(root: Path, parts: Iterable[str], hint: str) -> None:
    """Raise a UserError that lists all parts missing below `root`, if any is."""
    missing = [part for part in parts if not (root / part).exists()]
    if missing:
        raise UserError(f"{root} lacks\n  " + "\n  ".join(missing) + f"\n{hint}")


def publish(folder: Path, made_from: dict[str, Any], build: Callable[[Path], None]) -> Path:
    """Build a folder unless it exists and was made from the same sources by the same rule; returns the folder.

    The folder appears whole or not at all. An interrupted build from the same sources leaves its masks, each of which
    was written atomically, to the next build; everything else is written anew.

    Args:
        folder: the folder to build.
        made_from: JSON values that name the sources' content and the rule's version.
        build: writes into the folder that is its argument, which has a folder of masks already.

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
            (partial / MASKS).mkdir(parents=True, exist_ok=True)
            for path in partial.iterdir():
                if path.is_dir() and not path.is_symlink() and path.name != MASKS:
                    shutil.rmtree(path)
                elif path.name not in (MASKS, MADE_FROM):
                    path.unlink()
            (partial / MADE_FROM).write_text(wanted, encoding="utf-8")
            build(partial)
            if folder.exists():  # made from other sources
                shutil.rmtree(folder)
            partial.rename(folder)
    except PermissionError as error:
        raise UserError(f"{folder} can't be written: {error.strerror}") from None
    return folder


def link(path: Path, target: Path) -> None:
    """Make or replace a link, a relative one, so that the root can be moved."""
    path.unlink(missing_ok=True)
    path.symlink_to(os.path.relpath(target.resolve(), path.parent.resolve()))
