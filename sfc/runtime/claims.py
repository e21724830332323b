"""Claims: notes in a bucket by which one machine tells others that it works on something.

They save work, and nothing depends on them: two may work at once if one was halted until its claim was taken over.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from sfc.errors import UserError
from sfc.runtime.bucket import Bucket
from sfc.runtime.store import log

EXPIRY = 120.0
"""Seconds without a change after which a claim counts as left by a killed process."""


@contextmanager
def claimed(bucket: Bucket, name: str, me: str, expiry: float = EXPIRY) -> Iterator[None]:
    """Wait until no other machine claims a name, and hold a claim on it.

    Args:
        bucket: has the claims as `claims/NAME`, whose content begins with the owner and changes all the time.
        name: such as the key of an output.
        me: the owner, without spaces. A claim of the same owner is from a process that ended.
        expiry: seconds by this machine's clock.

    Raises:
        UserError: the bucket can't be reached.
    """
    key, over, seen, since = f"claims/{name}", threading.Event(), b"", 0.0

    def sign() -> bytes:
        return f"{me} {uuid.uuid4().hex}".encode()

    def renew() -> None:
        while not over.wait(expiry / 6):
            try:
                bucket.write(key, sign())
            except UserError as error:  # the next time it may work
                log.warning("the claim of %s can't be renewed: %s", name, error)

    while not bucket.write(key, sign(), "create"):
        if (claim := bucket.read(key)) is None:
            continue
        content, version = claim
        owner, last = content.partition(b" ")[0], seen.partition(b" ")[0]
        if content != seen:
            seen, since = content, time.monotonic()
        if owner == me.encode() or time.monotonic() - since > expiry:
            log.info("%s: its claim was left by a process that is gone", name)
            if bucket.write(key, sign(), version):
                break
        elif owner != last:
            log.info("%s: waiting for another machine (%s)", name, owner.decode(errors="replace"))
        over.wait(min(1.0, expiry / 20))
    renewing = threading.Thread(target=renew, daemon=True)
    renewing.start()
    try:
        yield
    finally:
        over.set()
        renewing.join()
        try:
            bucket.remove(key)
        except UserError as error:  # it will expire
            log.warning("the claim of %s can't be removed: %s", name, error)
