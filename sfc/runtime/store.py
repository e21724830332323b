"""Outputs of the stages in folders: one folder an output, named by what it depends on, there whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from sfc.config import SETTINGS_VERSION
from sfc.errors import UserError
from sfc.runtime.locks import locked

log = logging.getLogger("sfc")

MANIFEST = "manifest.json"
VERSION = "version.json"
PARTIAL, FETCHED, LOCK = ".partial", ".fetched", ".lock"
"""Endings beside an output's name: its unfinished working folder, its unfinished download, its lock."""


def write_atomic(path: Path, text: str) -> None:
    """Write text to a file that holds the old or the new content at every moment, also after a loss of power."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def flush(folder: Path) -> None:
    """Wait until the disk has all files in a folder."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


def digest(value: Any) -> str:
    """16 hexadecimal digits of a JSON value's content."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def bytes_of(folder: Path) -> int:
    """Total size of the files of an output, without its manifest."""
    files = (path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST)
    return sum(path.stat().st_size for path in files)


def parse_object(text: str | bytes) -> dict[str, Any] | None:
    """A JSON object, or None if the text is empty, cut off, or something else."""
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of an output, or None if the output is not finished."""
    try:
        return parse_object((folder / MANIFEST).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None


def check_version(store: str | Path, text: str | bytes) -> dict[str, Any]:
    """The content of a store's version.json.

    Raises:
        UserError: it can't be read, or another version of the settings made the store.
    """
    version = parse_object(text)
    if version is None or "settings" not in version:
        raise UserError(f"{store}/{VERSION} can't be read: name another store or results folder, or remove that one")
    if version["settings"] != SETTINGS_VERSION:
        raise UserError(
            f"the store {store} was made by version {version['settings']} of the settings, this is version "
            f"{SETTINGS_VERSION}: name another store or results folder, or remove that one"
        )
    return version


def put_folder(whole: Path, final: Path) -> None:
    """Rename a whole folder to its final name. An unfinished one of that name makes way; a finished one, which some
    network file systems show late, stays."""
    if read_manifest(final) is not None:
        shutil.rmtree(whole)
        return
    if final.exists():
        shutil.rmtree(final)
    whole.rename(final)


class Store:
    """A folder of finished stage outputs: `<root>/<stage>/<key>/`, each with its manifest.

    Present = finished = reused, where finished means that the manifest can be read. An interrupted stage keeps its
    working folder `<key>.partial`, in which it finds its last checkpoint. Of two that want one key, one works and the
    other waits.

    Raises:
        UserError: the folder can't be written or locked, or another version of the settings made it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        version = self.root / VERSION
        try:
            with locked(self.root / "version.lock"):
                if not version.is_file():
                    write_atomic(version, json.dumps({"settings": SETTINGS_VERSION}))
        except OSError as error:
            raise UserError(f"the store {self.root} can't be written: {error.strerror}") from None
        check_version(self.root, version.read_bytes())

    def folder(self, stage: str, key: str) -> Path:
        """Folder of a stage's output on this machine, finished or not."""
        return self.root / stage / key

    def has(self, stage: str, key: str) -> bool:
        """Whether an output is finished."""
        return self._read(stage, key) is not None

    def local(self, folder: Path) -> Path | None:
        """Local folder of a finished output, given the path that another machine reported; None if there is none. An
        output that only a bucket has is copied to this machine."""
        if len(folder.parts) < 2:
            return None
        stage, key = folder.parts[-2:]
        final = self.folder(stage, key)
        if read_manifest(final) is None:
            if not self.has(stage, key):
                return None
            with self._locked(final):
                self._fetch(stage, key)
        return final

    def manifest(self, folder: Path) -> dict[str, Any]:
        """The manifest of a finished output; older ones lack `bytes` and `images`.

        Raises:
            FileNotFoundError: the output is not finished.
        """
        manifest = self._read(*folder.parts[-2:])
        if manifest is None:
            raise FileNotFoundError(errno.ENOENT, "no finished output", str(folder))
        return manifest

    def get(self, stage: str, key: str, identity: dict[str, Any], build: Callable[[Path], dict[str, Any]]) -> Path:
        """The folder of a finished output, which is made now if the store does not have it.

        Args:
            stage: name of the stage.
            key: digest of the identity.
            identity: what the output depends on, and further entries for the manifest.
            build: writes into a folder, which may hold what an interrupted run left; returns entries for the manifest.

        Raises:
            UserError: the disk is full.
        """
        final = self.folder(stage, key)
        if read_manifest(final) is not None:
            log.info("%s: found in the store (%s)", stage, key)
            return final
        try:
            with self._locked(final):
                if self._fetch(stage, key):
                    return final
                with self._claimed(stage, key):
                    if self._fetch(stage, key):
                        return final
                    work = final.with_suffix(PARTIAL)
                    if read_manifest(work) is None:  # else it was stopped between its last file and its publication
                        self._build(stage, key, identity, build, work)
                    self._publish(stage, key, work)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise UserError(
                    f"stage {stage}: no space left under {self.root}. Free some and run the same command again: "
                    "finished stages stay, this one goes on from its last checkpoint"
                ) from error
            raise
        return final

    @contextmanager
    def _locked(self, final: Path) -> Iterator[None]:
        """Hold an output's lock; delete the lock and what earlier attempts left once the output is finished."""
        lock = final.with_suffix(LOCK)
        with locked(lock):
            yield
            if read_manifest(final) is not None:
                for ending in (PARTIAL, FETCHED):
                    shutil.rmtree(final.with_suffix(ending), ignore_errors=True)
                lock.unlink(missing_ok=True)

    def _build(
        self, stage: str, key: str, identity: dict[str, Any], build: Callable[[Path], dict[str, Any]], work: Path
    ) -> None:
        """Build an output in a working folder, whose manifest is written last."""
        log.info("%s: working (%s)", stage, key)
        start = time.monotonic()
        work.mkdir(parents=True, exist_ok=True)
        entries = build(work)
        seconds = round(time.monotonic() - start, 3)
        manifest = {"stage": stage, "key": key, **identity, "seconds": seconds, "bytes": bytes_of(work), **entries}
        flush(work)  # a loss of power must not leave a manifest beside files that are half there
        write_atomic(work / MANIFEST, json.dumps(manifest, indent=1))
        log.info("%s: done in %.1f s (%s)", stage, seconds, key)

    def _read(self, stage: str, key: str) -> dict[str, Any] | None:
        """The manifest of an output, or None if the output is not finished on any machine."""
        return read_manifest(self.folder(stage, key))

    def _fetch(self, stage: str, key: str) -> bool:
        """Copy an output to this machine if it is finished. Returns whether it is; the caller holds its lock."""
        return self.has(stage, key)

    def _claimed(self, stage: str, key: str) -> AbstractContextManager[None]:
        """Wait while a machine that does not see this one's locks works on an output; keep it waiting meanwhile."""
        return nullcontext()

    def _publish(self, stage: str, key: str, work: Path) -> None:
        """Turn a whole working folder into the finished output that every machine sees."""
        put_folder(work, self.folder(stage, key))
