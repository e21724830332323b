"""A store in a bucket: the same promises as in a folder, where nothing can be renamed or locked.

pyarrow's file systems have no conditional write. What the services do offer is enough: an object appears whole, and
reads and listings see every write that was over when they began.

    version.json                        which settings made the store, and a name for copies of it
    STAGE/KEY/UPLOAD/...                files of an output; each attempt to upload has a folder of its own
    STAGE/KEY/manifest.json             written last, names the upload: present = finished = whole
    claims/STAGE-KEY-TICKET-MACHINE     who works, or waits to work, on a key

Since nobody writes into another's upload, no output is a mixture of two, whatever happens to the claims. The claims see
to it that work is done once.
"""

from __future__ import annotations

import errno
import json
import shutil
import socket
import threading
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from sfc.config import SETTINGS_VERSION
from sfc.errors import UserError
from sfc.runtime.bucket import Bucket
from sfc.runtime.store import MANIFEST, VERSION, Store, bytes_of, check_version, locked, log, put_folder, write_atomic

EXPIRY = 120.0
"""Seconds without a sign of life after which a claim counts as left by a killed process."""


@contextmanager
def claimed(bucket: Bucket, name: str, me: str, expiry: float = EXPIRY) -> Iterator[None]:
    """Mutual exclusion by objects alone: Lamport's bakery, where the lowest ticket is served.

    Claims are named NAME-TICKET-WHO. Ticket 0 says that its owner is about to draw one, higher than all that it sees.
    An owner enters when no other name sorts before its own. Whoever began to draw before that look is seen with ticket
    0, and waited for; whoever began after it saw this ticket, and drew a higher one.

    A claim is written anew all the time. It is dead when the asker's own is `expiry` younger: both times are the
    server's, so no machine's clock matters. A process that is halted for longer and then goes on may work at the same
    time as another.

    Args:
        bucket: where claims are.
        name: what is claimed.
        me: other than that of all who may ask at the same time; an older claim of this owner is from a process that
            ended.
        expiry: seconds; whole ones, since S3 keeps no finer time.

    Raises:
        UserError: the bucket can't be reached.
    """

    def claims() -> dict[str, float]:
        """Ticket-WHO of each, with its time."""
        found = bucket.names("claims")
        return {claim.removeprefix(f"{name}-"): at for claim, at in found.items() if claim.startswith(f"{name}-")}

    def put(claim: str) -> str:
        bucket.write(f"claims/{name}-{claim}", b"claimed")
        return claim

    def remove(claim: str) -> None:
        bucket.remove(f"claims/{name}-{claim}")

    def first() -> dict[str, float]:
        """Claims that come before this one, and how much older they are."""
        found = claims()
        return {claim: found.get(mine, at) - at for claim, at in found.items() if claim < mine}

    def renew() -> None:
        while not over.wait(expiry / 6):
            try:
                put(mine)
            except UserError as error:  # the next time it may work
                log.warning("the claim of %s can't be renewed: %s", name, error)

    for old in [claim for claim in claims() if claim.partition("-")[2] == me]:
        remove(old)
    drawing = put(f"{0:08d}-{me}")
    highest = max((int(claim[:8]) for claim in claims()), default=0)
    mine = put(f"{highest + 1:08d}-{me}")
    remove(drawing)
    over, shown = threading.Event(), ""
    renewing = threading.Thread(target=renew, daemon=True)
    renewing.start()
    try:
        while before := first():
            if min(before) != shown:
                shown = min(before)
                log.info("%s: waiting for another machine (%s)", name, shown)
            for claim, age in before.items():
                if age > expiry:
                    log.info("%s: the claim %s was left by a process that is gone", name, claim)
                    remove(claim)
            over.wait(min(1.0, expiry / 20))
        yield
    finally:
        over.set()
        renewing.join()
        try:
            remove(mine)
        except UserError as error:  # it will expire
            log.warning("the claim of %s can't be removed: %s", name, error)


class RemoteStore(Store):
    """A store in a bucket. Stages read and write folders of this machine: copies of it in a cache.

    Args:
        address: as `Bucket` takes it.
        cache: folder of this machine, not shared with others.
        expiry: as `claimed` takes it.

    Raises:
        UserError: it can't be reached, or another version of the settings made it.
    """

    def __init__(self, address: str, cache: Path, expiry: float = EXPIRY) -> None:
        self.bucket, self.expiry = Bucket(address), expiry
        version = self._version()
        check_version(self.bucket.address, version)
        super().__init__(cache / version["id"])  # a bucket that was emptied and filled anew has another cache
        who = self.root / "who"
        with locked(self.root / "version.lock"):
            if not who.is_file():
                write_atomic(who, uuid.uuid4().hex)
        # The cache's locks let one process work on a key: an older claim of the same owner is a dead one's.
        self.who = f"{socket.gethostname()}-{who.read_text(encoding='utf-8')}"

    def _version(self) -> dict[str, Any]:
        """What the bucket says of the store; said now, by one, where it is new."""
        if (found := self.bucket.read(VERSION)) is None:
            with claimed(self.bucket, "version", uuid.uuid4().hex, self.expiry):
                if (found := self.bucket.read(VERSION)) is None:
                    found = json.dumps({"settings": SETTINGS_VERSION, "id": uuid.uuid4().hex}).encode()
                    self.bucket.write(VERSION, found)
        return json.loads(found)

    def _read(self, stage: str, key: str) -> dict[str, Any] | None:
        """The manifest of an output that the bucket has."""
        found = self.bucket.read(f"{stage}/{key}/{MANIFEST}")
        return json.loads(found) if found else None

    def has(self, stage: str, key: str) -> bool:
        return super().has(stage, key) or self._read(stage, key) is not None

    def manifest(self, folder: Path) -> dict[str, Any]:
        if (folder / MANIFEST).is_file():
            return super().manifest(folder)
        found = self._read(folder.parent.name, folder.name)
        if found is None:
            raise FileNotFoundError(errno.ENOENT, "no finished output", str(folder))
        return found

    def fetch(self, stage: str, key: str) -> bool:
        with locked(self.folder(stage, key).with_suffix(".lock")):
            return self._fetch(stage, key)

    def _fetch(self, stage: str, key: str) -> bool:
        final = self.folder(stage, key)
        if super().has(stage, key):
            return True
        manifest = self._read(stage, key)
        if manifest is None:
            return False
        log.info("%s: fetching from %s (%s)", stage, self.bucket.address, key)
        partial = final.with_suffix(".fetched")
        shutil.rmtree(partial, ignore_errors=True)
        self.bucket.download(f"{stage}/{key}/{manifest['upload']}", partial)
        if bytes_of(partial) != manifest["bytes"]:
            raise UserError(
                f"{self.bucket.address}/{stage}/{key} has {bytes_of(partial)} bytes, its manifest says "
                f"{manifest['bytes']}: something else than this program changed it; remove it, and it is made again"
            )
        put_folder(partial, final)
        return True

    def _claimed(self, stage: str, key: str) -> AbstractContextManager[None]:
        return claimed(self.bucket, f"{stage}-{key}", self.who, self.expiry)

    def _publish(self, stage: str, key: str, work: Path) -> None:
        if self._read(stage, key) is not None:
            return  # made by another that took this one, halted for longer than claims last, for dead
        upload = uuid.uuid4().hex[:12]
        self.bucket.upload(work, f"{stage}/{key}/{upload}")
        manifest = super().manifest(work) | {"upload": upload}
        self.bucket.write(f"{stage}/{key}/{MANIFEST}", json.dumps(manifest, indent=1).encode())
