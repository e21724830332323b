"""Locks: one at a time, across threads and processes; a file system without them is told."""

from __future__ import annotations

import errno
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from sfc.errors import UserError
from sfc.runtime.locks import locked
from sfc.runtime.store import Store

HOLD = """
import sys
from pathlib import Path
from sfc.runtime.locks import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_lock_lets_one_in_at_a_time_also_when_its_holder_deletes_the_file(tmp_path: Path) -> None:
    inside, entered = threading.Lock(), []

    def ask(delete: bool) -> None:
        for _ in range(20):
            with locked(tmp_path / "a.lock"):
                assert inside.acquire(blocking=False)
                entered.append(delete)
                inside.release()
                if delete:  # its last act: from here on another file is another lock
                    (tmp_path / "a.lock").unlink(missing_ok=True)

    threads = [threading.Thread(target=ask, args=(i % 2 == 0,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(entered) == 80


def test_a_lock_of_another_process_is_refused_or_waited_for_until_that_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "below" / "a.lock"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout and holder.stdout.readline() == b"held\n"
    with pytest.raises(UserError, match="busy now"), locked(path, busy="busy now"):
        raise AssertionError
    holder.kill()
    holder.communicate()
    with locked(path), pytest.raises(UserError, match="busy"), locked(path, busy="busy"):
        raise AssertionError


def test_an_error_of_the_holder_is_its_own(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="of the work"), locked(tmp_path / "a.lock"):
        raise OSError(errno.ENOLCK, "of the work")
    with locked(tmp_path / "a.lock", busy="still held"):
        pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_is_refused(tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_lock(file: object, how: int) -> None:
        raise OSError(number, "no locks here")

    monkeypatch.setattr("fcntl.flock", no_lock)  # no such file system can be mounted here
    with pytest.raises(UserError, match=f"file system of {tmp_path} has no file locks"):
        Store(tmp_path)
