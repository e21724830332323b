"""A folder in a bucket of S3, Google Cloud Storage or a server that speaks S3, through pyarrow's file systems."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from pyarrow import ArrowException
from pyarrow.fs import FileSelector, FileSystem, FileType, LocalFileSystem, copy_files

from sfc.errors import UserError

SCHEMES = ("s3", "gs")
OPTIONS = {"endpoint_override", "region", "scheme"}
"""What may follow an address's question mark."""
GIVE_UP = 30
"""Seconds for which Google's client tries again; by itself it would for 15 minutes. Amazon's gives up after 6."""


@contextmanager
def _said(address: str) -> Iterator[None]:
    """Errors of a file system in words that say which, and what to do.

    Raises:
        UserError: instead of them; a full disk of this machine stays an OSError.
    """
    try:
        yield
    except (OSError, ArrowException) as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        text = str(error).splitlines()[0][:300]
        raise UserError(
            f"the store {address}: {text}. See that the bucket exists, that this machine reaches the service, and that "
            "its credentials may read, list, write and delete there (docs/storage.md says where they are looked for). "
            "Then run the same command again: finished stages stay"
        ) from None


def check_address(address: str) -> str:
    """An address without its options.

    Raises:
        UserError: it holds credentials, which would go to logs and MLflow, an unknown option, or names no bucket.
    """
    if "@" in address:
        raise UserError(
            f"the store's address {address.split('://')[0]}://...@{address.rpartition('@')[2].partition('?')[0]} holds "
            "credentials: write the bucket alone, and leave them to the environment (docs/storage.md)"
        )
    parts = urlsplit(address)
    place = f"{parts.scheme}://{parts.netloc}{parts.path}".rstrip("/")
    if parts.scheme not in SCHEMES or not parts.netloc:
        raise UserError(f"the store {place}: give a folder, s3://BUCKET/PREFIX or gs://BUCKET/PREFIX")
    if unknown := sorted(set(parse_qs(parts.query, keep_blank_values=True)) - OPTIONS):
        raise UserError(f"the store {place}: unknown option {', '.join(unknown)}; known: {', '.join(sorted(OPTIONS))}")
    return place


class Bucket:
    """Objects below an address, by their names from there.

    Args:
        address: `s3://BUCKET/PREFIX` or `gs://BUCKET/PREFIX`; options may follow, such as
            `?endpoint_override=HOST:PORT&scheme=http&region=NAME`.

    Raises:
        UserError: the address is wrong, or there is no such bucket. So does every method whenever the service can't be
            reached or forbids it.
    """

    def __init__(self, address: str) -> None:
        self.address = check_address(address)
        parts = urlsplit(address)
        limit = [f"retry_limit_seconds={GIVE_UP}"] if parts.scheme == "gs" else []
        query = "&".join([*([parts.query] if parts.query else []), *limit])
        with _said(self.address):
            self._files, self._base = FileSystem.from_uri(f"{self.address}?{query}" if query else self.address)
            there = self._files.get_file_info(parts.netloc).type != FileType.NotFound
        if not there:
            raise UserError(f"the store {self.address}: there is no bucket {parts.netloc}; make it first")

    def read(self, name: str) -> bytes | None:
        """An object's content; None where there is none, or an empty one, which an interrupted write may leave."""
        path = f"{self._base}/{name}"
        with _said(self.address):
            if not self._files.get_file_info(path).size:
                return None
            with self._files.open_input_stream(path) as stream:
                return stream.read()

    def write(self, name: str, content: bytes) -> None:
        """An object: it appears whole or, when this is stopped in the middle, not at all or empty."""
        with _said(self.address), self._files.open_output_stream(f"{self._base}/{name}") as stream:
            stream.write(content)

    def remove(self, name: str) -> None:
        """An object that there may be."""
        with _said(self.address), suppress(FileNotFoundError):
            self._files.delete_file(f"{self._base}/{name}")

    def names(self, folder: str) -> dict[str, float]:
        """Objects directly in a folder, each with the time at which it was written, in seconds by the server."""
        with _said(self.address):
            found = self._files.get_file_info(FileSelector(f"{self._base}/{folder}", allow_not_found=True))
        return {info.base_name: info.mtime_ns / 1e9 for info in found if info.type == FileType.File}

    def upload(self, folder: Path, name: str) -> None:
        """All files below a folder of this machine."""
        with _said(self.address):
            copy_files(str(folder), f"{self._base}/{name}", LocalFileSystem(), self._files)

    def download(self, name: str, folder: Path) -> None:
        """All objects below a name, into a folder of this machine."""
        folder.mkdir(parents=True, exist_ok=True)
        with _said(self.address):
            copy_files(f"{self._base}/{name}", str(folder), self._files, LocalFileSystem())
