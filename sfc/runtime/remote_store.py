"""A store in a bucket: the same promises as in a folder, by objects that are created only if they are absent.

    version.json                  which settings made the store, and a name for copies of it
    STAGE/KEY/UPLOAD/...          files of an output; each attempt to upload has a folder of its own
    STAGE/KEY/manifest.json       written last, names the upload: present = finished = whole; the first one stays
    claims/STAGE-KEY              the machine that works on an output, so that others wait

Nobody writes into another's upload, so no output is a mixture of two, whatever happens to the claims.
"""

from __future__ import annotations

import json
import shutil
import socket
import uuid
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

from sfc.config import SETTINGS_VERSION
from sfc.errors import UserError
from sfc.runtime.bucket import Bucket
from sfc.runtime.claims import EXPIRY, claimed
from sfc.runtime.store import (
    FETCHED,
    MANIFEST,
    VERSION,
    Store,
    bytes_of,
    check_version,
    log,
    parse_object,
    put_folder,
    read_manifest,
)


class RemoteStore(Store):
    """A store in a bucket. Stages read and write folders of this machine, which are copies in a cache.

    Args:
        address: see `Bucket`.
        cache: folder of this machine, not shared with others.
        expiry: see `claimed`.

    Raises:
        UserError: it can't be reached, or another version of the settings made it.
    """

    def __init__(self, address: str, cache: Path, expiry: float = EXPIRY) -> None:
        self.bucket, self.expiry = Bucket(address), expiry
        version = self.bucket.read(VERSION)
        if version is None:
            new = json.dumps({"settings": SETTINGS_VERSION, "id": uuid.uuid4().hex})
            self.bucket.write(VERSION, new.encode(), "create")
            version = self.bucket.read(VERSION)
        name = check_version(self.bucket.address, version[0] if version else b"").get("id", "")
        if not str(name).isalnum():  # it becomes a folder's name
            raise UserError(f"{self.bucket.address}/{VERSION} names no copy: name another store, or empty that one")
        super().__init__(cache / name)  # a bucket that was emptied and filled anew has another cache
        with suppress(FileExistsError), (self.root / "who").open("x", encoding="utf-8") as file:
            file.write(uuid.uuid4().hex)
        # The cache's locks let one process work on a key, so an older claim of this owner is a dead process's.
        self.who = f"{socket.gethostname()}-{(self.root / 'who').read_text(encoding='utf-8')}"

    def _read(self, stage: str, key: str) -> dict[str, Any] | None:
        if (manifest := super()._read(stage, key)) is not None:
            return manifest
        uploaded = self.bucket.read(f"{stage}/{key}/{MANIFEST}")
        return parse_object(uploaded[0]) if uploaded else None

    def _fetch(self, stage: str, key: str) -> bool:
        final = self.folder(stage, key)
        if read_manifest(final) is not None:
            return True
        manifest = self._read(stage, key)
        if manifest is None:
            return False
        log.info("%s: fetching from %s (%s)", stage, self.bucket.address, key)
        copy = final.with_suffix(FETCHED)
        shutil.rmtree(copy, ignore_errors=True)
        self.bucket.download(f"{stage}/{key}/{manifest['upload']}", copy)
        if bytes_of(copy) != manifest["bytes"]:
            raise UserError(
                f"{self.bucket.address}/{stage}/{key} has {bytes_of(copy)} bytes, its manifest says "
                f"{manifest['bytes']}: something else than this program changed it; remove it, and it is made again"
            )
        put_folder(copy, final)
        return True

    def _claimed(self, stage: str, key: str) -> AbstractContextManager[None]:
        return claimed(self.bucket, f"{stage}-{key}", self.who, self.expiry)

    def _publish(self, stage: str, key: str, work: Path) -> None:
        """Upload a working folder; where another machine's output came first, that one is taken instead."""
        if self._fetch(stage, key):
            return
        name, upload = f"{stage}/{key}/{MANIFEST}", uuid.uuid4().hex[:12]
        self.bucket.upload(work, f"{stage}/{key}/{upload}")
        manifest = json.dumps({**(read_manifest(work) or {}), "upload": upload}, indent=1).encode()
        if not self.bucket.write(name, manifest, "create"):
            if self._fetch(stage, key):
                return
            self.bucket.write(name, manifest)  # over one that can't be read
        super()._publish(stage, key, work)
