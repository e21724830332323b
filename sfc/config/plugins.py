"""Code of the user's own, named as `module:name`."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

from sfc.errors import UserError

_allowed: set[str] = set()


def is_path(text: str) -> bool:
    """Whether a text has the form `module:name`."""
    module, colon, name = text.partition(":")
    return bool(colon) and name.isidentifier() and all(part.isidentifier() for part in module.split("."))


def allow(path: str) -> None:
    """Let this process import `module:name`; other text is ignored."""
    if is_path(path):
        _allowed.add(path)


def load(path: str) -> Any:
    """The object that `module:name` names."""
    if path not in _allowed:
        raise UserError(f"{path}: not allowed; name it by --plugin {path}")
    module, _, name = path.partition(":")
    from sfc.config.files import EXPERIMENTS

    for folder in (str(Path.cwd()), str(EXPERIMENTS / "plugins")):
        if folder not in sys.path:
            sys.path.append(folder)
    return getattr(importlib.import_module(module), name)


def source_digest(path: str) -> str:
    """16 hexadecimal digits of the source of a plug-in's module."""
    spec = importlib.util.find_spec(path.partition(":")[0])
    assert spec is not None and spec.origin is not None
    return hashlib.sha256(Path(spec.origin).read_bytes()).hexdigest()[:16]
