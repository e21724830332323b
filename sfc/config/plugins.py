"""Code of a user's own, named in the settings as `module:name`; imported only where the user's command allows it."""

from __future__ import annotations

import functools
import hashlib
import importlib
import inspect
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

from sfc.errors import UserError

_allowed: set[str] = set()


def is_path(text: str) -> bool:
    """Whether a text has the form `module:name`, where the module may have dots."""
    module, colon, name = text.partition(":")
    return bool(colon) and all(part.isidentifier() for part in [*module.split("."), name])


def allow(path: str) -> None:
    """Let `load` import a path, which the user names in their own files or command line, in this process.

    Raises:
        UserError: not of the form `module:name`.
    """
    if not is_path(path):
        raise UserError(f"{path!r} is not an import path of the form module:name")
    _allowed.add(path)


def load(path: str) -> Any:
    """The object that an import path names.

    Its module is looked for on `sys.path`, in the current folder and in the experiments' `plugins/`; the latter two
    stay at the end of `sys.path`, so that the module finds its neighbours.

    Raises:
        UserError: `allow` was not called for the path; module or name are missing; the module's import fails.
    """
    module, name = _module(path), path.partition(":")[2]
    if hasattr(module, name):
        return getattr(module, name)
    names = ", ".join(key for key in vars(module) if not key.startswith("_")) or "nothing"
    raise UserError(f"{path}: {getattr(module, '__file__', module)} has no {name}; it has {names}")


def source_digest(path: str) -> str:
    """16 hexadecimal digits that change with the source file of an import path's module.

    Raises:
        UserError: as `load`, or the module has no source file.
    """
    _module(path)
    if digest := _digest(path.partition(":")[0]):
        return digest
    raise UserError(f"{path}: its module has no source file, so nothing tells when it changes; write it in Python")


def last_line(error: BaseException) -> str:
    """An exception's last line and the file:line that raised it, for errors in a user's code."""
    frames = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError):
        frames = [(error.filename or "", error.lineno)]
    where = f" ({frames[-1][0]}:{frames[-1][1]})" if frames else ""
    return traceback.format_exception_only(error)[-1].strip() + where


def _module(path: str) -> ModuleType:
    if not is_path(path):
        raise UserError(f"{path!r} is not an import path of the form module:name")
    name = path.partition(":")[0]
    if path not in _allowed:
        raise UserError(
            f"{path}: a study, store or checkpoint does not import code by itself; if you trust it, name it on the "
            f"command line by --plugin {path}"
        )
    from sfc.config.files import EXPERIMENTS  # late: the settings, which that module imports, import this one

    folders = [str(Path.cwd()), str(EXPERIMENTS / "plugins")]
    sys.path += [folder for folder in folders if folder not in sys.path]
    importlib.invalidate_caches()  # the file may be younger than the last look into its folder
    try:
        module = importlib.import_module(name)
        _digest(name)
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}."):
            looked = ", ".join(folders)
            raise UserError(f"{path}: there is no module {error.name} on sys.path nor in {looked}") from None
        raise UserError(f"{path}: importing {name} failed: {last_line(error)}") from error
    return module


@functools.cache  # from the first import on: what is edited later is not what runs in this process
def _digest(name: str) -> str:
    """16 hexadecimal digits of an imported module's source, or nothing where it has none."""
    try:
        file = inspect.getsourcefile(sys.modules[name])
    except TypeError:  # built in, or a folder
        file = None
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16] if file else ""
