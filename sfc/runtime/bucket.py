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

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError
from obstore.store import from_url

from sfc.errors import UserError

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
            raise UserError(f"the store {address}: there is no bucket {address.split('/')[2]}; make it first") from None
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
    """The address, without a slash at its end.

    Raises:
        UserError: it holds more than bucket and prefix, which would go to logs and MLflow, or it names no bucket.
    """
    kind, _, rest = address.partition("://")
    plain = rest.rpartition("@")[2].partition("?")[0].rstrip("/")
    if kind not in ("s3", "gs") or plain.partition("/")[0] == "":
        raise UserError(f"the store {kind}://{plain}: give a folder, s3://BUCKET/PREFIX or gs://BUCKET/PREFIX")
    if plain != rest.rstrip("/"):
        raise UserError(
            f"the address of the store {kind}://{plain} holds credentials or options: write the bucket alone, and "
            "leave them to the environment (docs/storage.md)"
        )
    return f"{kind}://{plain}"


def aws_profile() -> dict[str, str]:
    """Keys and region of the profile AWS_PROFILE, else `default`, in ~/.aws, which obstore does not read; without what
    the environment names, which comes first."""
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
    """Objects below an address `s3://BUCKET/PREFIX` or `gs://BUCKET/PREFIX`, by their names from there.

    Raises:
        UserError: the address is wrong, or there is no such bucket. So does every method whenever the service can't be
            reached or forbids it.
    """

    def __init__(self, address: str) -> None:
        self.address = check_address(address)
        options: dict[str, Any] = aws_profile() if self.address.startswith("s3://") else {}
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
        """Write an object, which appears whole or not at all: with `create` only if it does not exist, with a version
        only over that very state of it. Returns whether it was written."""
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
