"""What a store in a folder holds, what of it is referred to, and how the rest is removed."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from sfc.errors import UserError
from sfc.runtime.locks import locked
from sfc.runtime.store import FETCHED, LOCK, MANIFEST, PARTIAL, VERSION, bytes_of, read_manifest
from sfc.runtime.stores import StoreAddress


class Item(NamedTuple):
    """A file or folder that a store made."""

    kind: Literal["output", "unfinished", "leftover"]
    """`unfinished`: a working folder, or an output whose manifest can't be read; `leftover`: a lock file, or the
    unfinished copy of an output in a bucket."""
    path: Path
    bytes: int

    @property
    def stage(self) -> str:
        """Name of the stage."""
        return self.path.parent.name

    @property
    def name(self) -> str:
        """`STAGE/KEY`, as manifests name their inputs."""
        return f"{self.stage}/{self.path.stem}"


def store_folder(address: StoreAddress) -> Path:
    """The folder of a store.

    Raises:
        UserError: the store is in a bucket, or the folder is no store.
    """
    if "://" in str(address):
        raise UserError(
            f"the store {address} is in a bucket: list and remove its objects by the service's "
            "own tools, such as `aws s3 ls --recursive --summarize` (docs/storage.md says what is what)"
        )
    folder = Path(address).absolute()
    if not (folder / VERSION).is_file():
        raise UserError(f"{folder} is no store, since it has no {VERSION}: name one by --store or --results")
    return folder


def inventory(store: Path) -> list[Item]:
    """Everything that a store holds, in the order of its names. Files that no store makes are left out."""
    items: list[Item] = []
    for path in sorted(store.glob("*/*")):
        if path.suffix == LOCK and path.is_file():
            items.append(Item("leftover", path, path.stat().st_size))
        elif path.suffix == FETCHED:
            items.append(Item("leftover", path, bytes_of(path)))
        elif path.suffix == PARTIAL:
            items.append(Item("unfinished", path, bytes_of(path)))
        elif (path / MANIFEST).is_file():
            items.append(Item("unfinished" if read_manifest(path) is None else "output", path, bytes_of(path)))
    return items


def referred(store: Path, roots: Iterable[str | Path]) -> set[str]:
    """Names (`STAGE/KEY`) of the outputs in a store that some outputs were made from, themselves included.

    Args:
        store: the store's folder.
        roots: `STAGE/KEY`, or folders by the paths of any machine; those that the store lacks are left out.
    """
    names: set[str] = set()
    waiting = ["/".join(Path(root).parts[-2:]) for root in roots]
    while waiting:
        name = waiting.pop()
        manifest = read_manifest(store / name)
        if name not in names and manifest is not None:
            names.add(name)
            waiting += manifest.get("inputs", [])
    return names


def remove(items: Sequence[Item]) -> list[Item]:
    """Remove items whose locks nobody holds, and return those that were removed.

    The caller sees to it that nobody reads them, such as a search that runs.

    Raises:
        UserError: the disk refuses.
    """
    removed = []
    for item in items:
        try:
            lock = item.path.with_suffix(LOCK)
            with locked(lock, busy="held"):
                if item.path.is_dir():
                    (item.path / MANIFEST).unlink(missing_ok=True)  # first, so that the rest is no output if this stops
                    shutil.rmtree(item.path)
                lock.unlink(missing_ok=True)
        except UserError:  # somebody works on it
            continue
        except OSError as error:
            raise UserError(f"{item.path} can't be removed: {error.strerror}") from None
        removed.append(item)
    return removed
