"""Stores by their addresses: a folder or a bucket."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sfc.runtime.store import Store

StoreAddress = str | Path
"""A folder, or `s3://BUCKET/PREFIX` or `gs://BUCKET/PREFIX`: every process on every node can open a store by it."""


def store_address(text: str) -> StoreAddress:
    """The address that a command line names; a folder becomes absolute, since workers have other working folders."""
    return text if "://" in text else Path(text).absolute()


def open_store(address: StoreAddress, cache: Path | None = None) -> Store:
    """The store at an address.

    Args:
        address: a folder, or `s3://...` or `gs://...`.
        cache: folder of this machine for copies of what is in a bucket; default: the environment's SFC_CACHE, else
            `~/.cache/sfc`.

    Raises:
        UserError: it can't be reached or written, or another version of the settings made it.
    """
    if "://" not in str(address):
        from sfc.runtime.store import Store  # late: a command line needs the address alone

        return Store(Path(address))
    from sfc.runtime.remote_store import RemoteStore  # imports obstore, which a folder does not need

    return RemoteStore(str(address), cache or Path(os.environ.get("SFC_CACHE") or "~/.cache/sfc").expanduser())
