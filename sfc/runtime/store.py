"""Where stage outputs live: one folder a result, named by what it depends on, there whole or not at all."""

from __future__ import annotations

import errno
import fcntl
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

log = logging.getLogger("sfc")

MANIFEST = "manifest.json"
VERSION = "version.json"

Address = str | Path
"""A folder, or `s3://BUCKET/PREFIX` or `gs://BUCKET/PREFIX`: what every process on every node can open a store by."""


def store_address(text: str) -> Address:
    """What a command line names a store by; a folder becomes absolute, since workers stand in other folders."""
    return text if "://" in text else Path(text).absolute()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file; it is freed when the process ends, however it ends.

    Raises:
        UserError: the file system has no locks.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
                raise
            raise UserError(
                f"the file system at {mount_of(path)} has no file locks ({error.strerror}), so two processes could "
                f"write {path.parent} at once: mount it with locks, name a folder on another, or a store in a bucket"
            ) from None
        yield


def mount_of(path: Path) -> Path:
    """The folder at which the file system of a path is mounted."""
    return next(folder for folder in [path.absolute(), *path.absolute().parents] if os.path.ismount(folder))


def locks_stay_here(path: Path, mounts: str) -> bool:
    """Whether locks on a path hold on this machine only, though other machines may write there too.

    Args:
        path: on any file system.
        mounts: text of /proc/self/mounts.
    """
    point, found = str(mount_of(path)), False
    for line in mounts.splitlines():
        _, where, kind, options = line.split()[:4]
        if where.replace("\\040", " ") == point:  # the last mount on a point is the one that is seen
            alone = {"nolock", "local_lock=all", "local_lock=flock", "localflock"} & set(options.split(","))
            found = bool(alone) and kind.startswith(("nfs", "lustre"))
    return found


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


def check_version(place: Address, version: dict[str, Any]) -> None:
    """See that a store was made by this version of the settings.

    Raises:
        UserError: it was not.
    """
    if version["settings"] != SETTINGS_VERSION:
        raise UserError(
            f"the store {place} was made by version {version['settings']} of the settings, this is version "
            f"{SETTINGS_VERSION}: name another store or results folder, or remove that one"
        )


def open_store(address: Address, cache: Path | None = None) -> Store:
    """The store at an address.

    Args:
        address: a folder, or `s3://...` or `gs://...`.
        cache: folder of this machine for copies of what a bucket has; default: what SFC_CACHE names, else
            `~/.cache/sfc`.

    Raises:
        UserError: it can't be reached or written, or another version of the settings made it.
    """
    if "://" not in str(address):
        return Store(Path(address))
    from sfc.runtime.remote_store import RemoteStore  # imports pyarrow

    return RemoteStore(str(address), cache or Path(os.environ.get("SFC_CACHE") or "~/.cache/sfc").expanduser())


class Store:
    """A folder of finished stage outputs: `<root>/<stage>/<key>/`, each with its manifest.

    Present = finished = reused. A stage that was interrupted keeps its working folder `<key>.partial`, in which it
    finds its last checkpoint. Two that want one key: one works, the other waits for it.

    Args:
        root: the folder; made where it is missing.

    Raises:
        UserError: the folder can't be written or locked, or another version of the settings made it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            version = self.root / VERSION
            with locked(self.root / "version.lock"):
                if not version.is_file():
                    write_atomic(version, json.dumps({"settings": SETTINGS_VERSION}))
        except OSError as error:
            raise UserError(f"the store {self.root} can't be written: {error.strerror}") from None
        check_version(self.root, json.loads(version.read_text(encoding="utf-8")))
        mounts = Path("/proc/self/mounts")
        if mounts.is_file() and locks_stay_here(self.root, mounts.read_text(encoding="utf-8")):
            log.warning(
                "the file system at %s is mounted with locks that other machines do not see: use this store from "
                "one machine only",
                mount_of(self.root),
            )

    def folder(self, stage: str, key: str) -> Path:
        """Where the output of a stage is, or will be."""
        return self.root / stage / key

    def has(self, stage: str, key: str) -> bool:
        """Whether that output is finished."""
        return (self.folder(stage, key) / MANIFEST).is_file()

    def fetch(self, stage: str, key: str) -> bool:
        """Whether that output is finished; then it is in its folder on this machine."""
        return self.has(stage, key)

    def local(self, folder: Path) -> Path | None:
        """The finished folder on this machine of an output that any machine names by its own; None: there is none."""
        if len(folder.parts) < 2 or not self.fetch(*folder.parts[-2:]):
            return None
        return self.folder(*folder.parts[-2:])

    def get(self, stage: str, key: str, identity: dict[str, Any], build: Callable[[Path], dict[str, Any]]) -> Path:
        """The finished folder of a stage, built now if need be.

        Args:
            stage: its name.
            key: digest of the identity.
            identity: what the output depends on, and what else the manifest is to say of it.
            build: writes into the folder that it is given, which may hold what an interrupted run left; returns
                entries for the manifest.

        Raises:
            UserError: the disk is full.
        """
        final = self.folder(stage, key)
        if (final / MANIFEST).is_file():
            log.info("%s: found in the store (%s)", stage, key)
            return final
        try:
            with locked(final.with_suffix(".lock")):
                if self._fetch(stage, key):
                    log.info("%s: in the store by now (%s)", stage, key)
                    return final
                with self._claimed(stage, key):
                    if self._fetch(stage, key):
                        log.info("%s: in the store by now (%s)", stage, key)
                        return final
                    work = final.with_suffix(".partial")
                    if not (work / MANIFEST).is_file():  # else it is done, and was stopped on its way to the store
                        self._build(stage, key, identity, build, work)
                    self._publish(stage, key, work)
                    put_folder(work, final)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise UserError(
                    f"stage {stage}: no space left under {self.root}. Free some and run the same command again: "
                    "finished stages stay, this one goes on from its last checkpoint"
                ) from error
            raise
        return final

    def _build(
        self, stage: str, key: str, identity: dict[str, Any], build: Callable[[Path], dict[str, Any]], work: Path
    ) -> None:
        """Build in a working folder; its manifest comes last."""
        log.info("%s: working (%s)", stage, key)
        start = time.monotonic()
        work.mkdir(parents=True, exist_ok=True)
        entries = build(work)
        seconds = round(time.monotonic() - start, 3)
        measured = {"seconds": seconds, "bytes": bytes_of(work)}
        manifest = {"stage": stage, "key": key, **identity, **measured, **entries}
        flush(work)  # a loss of power must not leave a manifest beside files that are half there
        write_atomic(work / MANIFEST, json.dumps(manifest, indent=1))
        log.info("%s: done in %.1f s (%s)", stage, seconds, key)

    def _fetch(self, stage: str, key: str) -> bool:
        """`fetch`, by one who holds the key's lock."""
        return self.has(stage, key)

    def _claimed(self, stage: str, key: str) -> AbstractContextManager[None]:
        """Wait until no other machine works on a key, and keep them waiting."""
        return nullcontext()  # the lock holds for all

    def _publish(self, stage: str, key: str, work: Path) -> None:
        """Show a whole working folder to other machines."""

    def manifest(self, folder: Path) -> dict[str, Any]:
        """The manifest of a finished folder; older ones lack `bytes` and `images`."""
        return json.loads((folder / MANIFEST).read_text(encoding="utf-8"))


def bytes_of(folder: Path) -> int:
    """Of all files of an output, its manifest apart."""
    files = (path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST)
    return sum(path.stat().st_size for path in files)


def put_folder(whole: Path, final: Path) -> None:
    """Rename a whole folder to its place. What is there without a manifest makes way; a finished output, which
    some network file systems show late, stays."""
    if (final / MANIFEST).is_file():
        shutil.rmtree(whole)
        return
    if final.exists():
        shutil.rmtree(final)
    whole.rename(final)
