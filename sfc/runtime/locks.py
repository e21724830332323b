"""Locks between processes, by files; the kernel frees them when their process ends, however it ends."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from sfc.errors import UserError

NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)
"""Errors of a file system that has no locks."""


@contextmanager
def locked(path: Path, *, busy: str | None = None) -> Iterator[None]:
    """Hold an exclusive lock on a file, which is made where it is missing; its holder may delete it as the last act.

    Raises:
        UserError: another process holds the lock (with the message `busy`; None waits for that process instead), or
            the file system has no locks.
        OSError: the file can't be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Without locks, filelock would fall back to files that stay, and block everyone, after a kill.
    lock = FileLock(path, timeout=-1 if busy is None else 0, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(str(busy)) from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        raise UserError(
            f"the file system of {path.parent} has no file locks ({error.strerror}), so two processes could write "
            "there at once: mount it with locks, name a folder on another, or a store in a bucket"
        ) from None
    try:
        yield
    finally:
        lock.release()
