"""Objects in a bucket of S3, Google Cloud Storage or a server that speaks S3: a thin layer over obstore."""

from __future__ import annotations

import configparser
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, cast
from urllib.parse import parse_qsl, urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError
from obstore.store import from_url

from sfc.errors import UserError

OPTIONS = {"s3": {"endpoint_override", "region", "scheme"}, "gs": {"endpoint_override", "scheme"}}
"""Kinds of bucket, and what may follow the question mark of their addresses."""
CLIENT: dict[str, Any] = {
    # obstore's limit of 30 s for a whole request would end the download of a large file; a silent server is left.
    "client_options": {"allow_http": True, "timeout": "1h", "read_timeout": "60s"},
    "retry_config": {"max_retries": 6, "retry_timeout": timedelta(seconds=30)},
}
TRANSFERS = 16
"""Files that are copied at the same time."""

Version = dict[str, str]
"""One state of an object, as its service names it."""


@contextmanager
def _explained(address: str) -> Iterator[None]:
    """Turn errors of obstore into a UserError without secrets; errors of this machine's disk stay an OSError."""
    try:
        yield
    except (BaseError, FileNotFoundError, ValueError) as error:
        text = str(error)
        if "NoSuchBucket" in text:
            name = urlsplit(address).netloc
            raise UserError(f"the store {address}: there is no bucket {name}; make it first") from None
        first = text.partition("\n")[0].partition("<?xml")[0]
        reason = re.sub(r"\?\S+", "", first).strip(" :")[:300]  # queries of addresses may hold tokens
        code = re.search(r"<Code>(\w+)</Code>", text)
        raise UserError(
            f"the store {address}: {reason}{f' ({code[1]})' if code else ''}. See that the bucket exists, that its "
            "region is named, that this machine reaches the service, and that its credentials may read, list, write "
            "and delete there (docs/storage.md says where they are looked for). Then run the same command again: "
            "finished stages stay"
        ) from None


def check_address(address: str) -> str:
    """The address without its options.

    Raises:
        UserError: it holds credentials, which would go to logs and MLflow, an unknown option, or names no bucket.
    """
    if "@" in address:
        raise UserError(
            f"the store's address {address.split('://')[0]}://...@{address.rpartition('@')[2].partition('?')[0]} holds "
            "credentials: write the bucket alone, and leave them to the environment (docs/storage.md)"
        )
    parts = urlsplit(address)
    plain = f"{parts.scheme}://{parts.netloc}{parts.path}".rstrip("/")
    if parts.scheme not in OPTIONS or not parts.netloc:
        raise UserError(f"the store {plain}: give a folder, s3://BUCKET/PREFIX or gs://BUCKET/PREFIX")
    options = OPTIONS[parts.scheme]
    if unknown := sorted(dict(parse_qsl(parts.query, keep_blank_values=True)).keys() - options):
        raise UserError(f"the store {plain}: unknown option {', '.join(unknown)}; known: {', '.join(sorted(options))}")
    return plain


def aws_profile() -> dict[str, str]:
    """Keys and region of the profile AWS_PROFILE, else `default`, in ~/.aws, which obstore does not read. The
    environment comes first: what it names is left out."""
    environment, files = os.environ, configparser.ConfigParser(interpolation=None)
    paths = {"AWS_CONFIG_FILE": "~/.aws/config", "AWS_SHARED_CREDENTIALS_FILE": "~/.aws/credentials"}
    with suppress(configparser.Error):
        files.read([Path(environment.get(name, path)).expanduser() for name, path in paths.items()])
    profile = environment.get("AWS_PROFILE", "default")
    values = {k: v for name in (f"profile {profile}", profile) if name in files for k, v in files[name].items()}
    keys = ("access_key_id", "secret_access_key", "session_token") if "AWS_ACCESS_KEY_ID" not in environment else ()
    wanted = {f"aws_{key}": key for key in keys}
    if not {"AWS_REGION", "AWS_DEFAULT_REGION"} & environment.keys():
        wanted["region"] = "region"
    return {option: values[name] for name, option in wanted.items() if name in values}


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
        options: dict[str, Any] = dict(parse_qsl(urlsplit(address).query))
        scheme, endpoint = options.pop("scheme", "https"), options.pop("endpoint_override", None)
        is_s3 = self.address.startswith("s3://")
        if endpoint:
            options["endpoint" if is_s3 else "base_url"] = f"{scheme}://{endpoint}"
        if is_s3:
            options = aws_profile() | options
        with _explained(self.address):
            self._store: Any = from_url(self.address, **options, **CLIENT)
            next(iter(obstore.list(self._store)), None)  # reading an object does not tell a missing bucket

    def read(self, name: str) -> tuple[bytes, Version] | None:
        """The content of an object and the state that it was in, or None if it does not exist."""
        with _explained(self.address):
            try:
                result = obstore.get(self._store, name)
            except FileNotFoundError:
                return None
            version = {key: value for key in ("e_tag", "version") if (value := result.meta[key])}
            return bytes(result.bytes()), version

    def write(self, name: str, content: bytes, mode: Literal["overwrite", "create"] | Version = "overwrite") -> bool:
        """Write an object, which appears whole or not at all.

        Args:
            name: of the object.
            content: its content.
            mode: `create` writes only if the object does not exist, a version only over that very state of it.

        Returns:
            Whether it was written.
        """
        with _explained(self.address):
            try:
                obstore.put(self._store, name, content, mode=cast(Any, mode))
            except (AlreadyExistsError, PreconditionError):
                return False
        return True

    def remove(self, name: str) -> None:
        """Delete an object, if it exists."""
        with _explained(self.address), suppress(FileNotFoundError):
            obstore.delete(self._store, name)

    def names(self, folder: str) -> list[str]:
        """All objects below a folder, by their names from the bucket's address."""
        with _explained(self.address):
            return [item["path"] for chunk in obstore.list(self._store, prefix=folder) for item in chunk]

    def upload(self, folder: Path, name: str) -> None:
        """Copy all files below a folder of this machine to names below `name`."""

        def put(file: Path) -> None:
            obstore.put(self._store, f"{name}/{file.relative_to(folder).as_posix()}", file)

        with _explained(self.address), ThreadPoolExecutor(TRANSFERS) as pool:
            list(pool.map(put, [path for path in folder.rglob("*") if path.is_file()]))

    def download(self, name: str, folder: Path) -> None:
        """Copy all objects below a name into a folder of this machine."""
        folder.mkdir(parents=True, exist_ok=True)

        def get(path: str) -> None:
            file = folder / path.removeprefix(f"{name}/")
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("wb") as stream:
                for chunk in obstore.get(self._store, path):
                    stream.write(chunk)

        with _explained(self.address), ThreadPoolExecutor(TRANSFERS) as pool:
            list(pool.map(get, self.names(name)))
