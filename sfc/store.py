"""Where stage outputs live: one folder a result, named by what it depends on, there whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sfc.config import SETTINGS_VERSION
from sfc.errors import UserError

MANIFEST = "manifest.json"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file; it is freed when the process ends, however it ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def write_atomic(path: Path, text: str) -> None:
    """Text to a file that holds the old or the new content at every moment, also after a loss of power."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def flush(folder: Path) -> None:
    """See that the files in a folder are on the disk, not only on their way to it."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


def digest(value: Any) -> str:
    """16 hexadecimal digits of a JSON value's content."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


class Store:
    """A folder of finished stage outputs: `<root>/<stage>/<key>/`, each with its manifest.

    Present = finished = reused. A stage that was interrupted keeps its working folder `<key>.partial`, in which it
    finds its last checkpoint. Two that want one key: one works, the other waits for it.

    Args:
        root: the folder; made where it is missing.

    Raises:
        UserError: the folder can't be written, or another version of the settings made it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            version = self.root / "version.json"
            if not version.is_file():
                write_atomic(version, json.dumps({"settings": SETTINGS_VERSION}))
        except OSError as error:
            raise UserError(f"the store {self.root} can't be written: {error.strerror}") from None
        found = json.loads(version.read_text(encoding="utf-8"))["settings"]
        if found != SETTINGS_VERSION:
            raise UserError(
                f"the store {self.root} was made by version {found} of the settings, this is version "
                f"{SETTINGS_VERSION}: name another results folder, or remove that one"
            )

    def folder(self, stage: str, key: str) -> Path:
        """Where the output of a stage is, or will be."""
        return self.root / stage / key

    def has(self, stage: str, key: str) -> bool:
        """Whether that output is finished."""
        return (self.folder(stage, key) / MANIFEST).is_file()

    def get(self, stage: str, key: str, identity: dict[str, Any], build: Callable[[Path], dict[str, Any]]) -> Path:
        """The finished folder of a stage, built now if need be.

        Args:
            stage: its name.
            key: digest of the identity.
            identity: what the output depends on, for the manifest.
            build: writes into the folder that it is given, which may hold what an interrupted run left; returns
                entries for the manifest.

        Raises:
            UserError: the disk is full.
        """
        final = self.folder(stage, key)
        if self.has(stage, key):
            return final
        start = time.monotonic()
        try:
            with locked(final.with_suffix(".lock")):
                if self.has(stage, key):
                    return final
                work = final.with_suffix(".partial")
                work.mkdir(parents=True, exist_ok=True)
                entries = build(work)
                seconds = round(time.monotonic() - start, 3)
                manifest = {"stage": stage, "key": key, **identity, "seconds": seconds, **entries}
                flush(work)  # a loss of power must not leave a manifest beside files that are half there
                write_atomic(work / MANIFEST, json.dumps(manifest, indent=1))
                if final.exists():  # a folder without a manifest is no output
                    shutil.rmtree(final)
                work.rename(final)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise UserError(
                    f"stage {stage}: no space left under {self.root}. Free some and run the same command again: "
                    "finished stages stay, this one goes on from its last checkpoint"
                ) from error
            raise
        return final

    def manifest(self, folder: Path) -> dict[str, Any]:
        """The manifest of a finished folder."""
        return json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
