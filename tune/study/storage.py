"""Where studies are kept, and what can be wrong with it: one driver a study, databases that are sound."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from sfc.errors import UserError
from sfc.runtime.locks import locked

optuna.logging.set_verbosity(optuna.logging.WARNING)  # at INFO it tells of every study, those in memory included

STORAGE = "OPTUNA_STORAGE"
"""Environment variable: a database's address, or journal:FILE, for studies on many machines."""


@contextmanager
def one_driver(path: Path) -> Iterator[None]:
    """Hold a study's lock file for as long as this process drives the study. Raises UserError where another does."""
    make_writable(path.parent)
    with locked(path, busy=f"another process is running this study (it holds {path}); wait for it or stop it"):
        yield


def make_writable(folder: Path) -> None:
    """Make a folder. Raises UserError where it can't be made or written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(13, "Permission denied")
    except OSError as error:
        raise UserError(f"the folder {folder} can't be written: {error.strerror}; name another by --results") from None


def check_database(path: Path) -> None:
    """Check that a SQLite file can be read, before anything writes to it; a missing file is made.

    Raises:
        UserError: the file is broken; a copy is put beside it and the file itself left alone. Or another process holds
            it.
    """
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=30)) as database:
            [answer] = database.execute("PRAGMA quick_check(1)").fetchone()
            database.execute("BEGIN IMMEDIATE").connection.rollback()
            if answer == "ok":  # a commit waits for the disk once, and readers do not block it
                database.execute("PRAGMA journal_mode=WAL")
    except sqlite3.OperationalError as error:
        if "locked" not in str(error):
            raise UserError(f"the database {path} can't be opened: {error}") from None
        raise UserError(
            f"the database {path} is locked by another process for over 30 s; stop that one, then run this again"
        ) from None
    except sqlite3.DatabaseError as error:
        answer = str(error)
    if answer == "ok":
        return
    copy = path.with_name(f"{path.name}.broken-{time.strftime('%Y%m%d-%H%M%S')}")
    shutil.copy2(path, copy)
    raise UserError(
        f"the database {path} is broken ({answer}). It was left as it is and copied to {copy}. Restore it from a "
        f"backup, or try `sqlite3 {copy.name} .recover`; to start anew, move it away: finished stages are in the store"
    )


class _Connection(sqlite3.Connection):
    """A connection to a database in WAL mode whose commits do not wait for the disk: a killed process loses nothing, a
    machine without power the last commits."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.execute("PRAGMA synchronous=NORMAL")


def is_new(results: Path) -> bool:
    """Whether no study can be there yet."""
    return not os.environ.get(STORAGE) and not (results / "optuna.db").exists()


def storage_at(results: Path) -> optuna.storages.BaseStorage:
    """The storage of all studies: the one that OPTUNA_STORAGE names, else a SQLite file in the results folder.

    Raises:
        UserError: the storage can't be written, is broken, or does not answer.
    """
    address = os.environ.get(STORAGE, "")
    if address.startswith("journal:"):
        path = Path(address.removeprefix("journal:")).absolute()
        make_writable(path.parent)
        return JournalStorage(JournalFileBackend(str(path)))
    own = not address
    if own:
        make_writable(results)
        path = (results / "optuna.db").absolute()
        check_database(path)
        address = f"sqlite:///{path}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            options = {"connect_args": {"timeout": 30, "factory": _Connection}}
            return optuna.storages.RDBStorage(address, engine_kwargs=options if own else None)
    except Exception as error:  # SQLAlchemy's or a driver's: the message may hold the address's password
        raise UserError(f"the storage that {STORAGE} names can't be opened ({type(error).__name__})") from None
