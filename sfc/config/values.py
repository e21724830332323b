"""Settings as plain values: by name, by what differs from the defaults, with a part put back to the defaults."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from sfc.config import Config, Section, plugins
from sfc.config.base import Content, Source


def marked(field: FieldInfo, kind: type) -> bool:
    """Whether a field has a mark, such as `Content`."""
    return any(isinstance(mark, kind) for mark in field.metadata)


def walk(section: Section, prefix: str = "") -> Iterator[tuple[str, FieldInfo, Any]]:
    """Name `section.key`, field and plain value of every setting below a section. An optional section that is missing
    counts as a setting with the value None."""
    values = section.model_dump(mode="json")
    for key, field in type(section).model_fields.items():
        value = getattr(section, key)
        if isinstance(value, Section):
            yield from walk(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", field, values[key]


def flat(section: Section) -> dict[str, Any]:
    """Every setting below a section as a plain value by `section.key`."""
    return {name: value for name, _, value in walk(section)}


def differing(section: Section, *, content: bool = False) -> dict[str, Any]:
    """Nested plain values of the settings that differ from their defaults; with `content` as keys of outputs hold them:
    a digest of its content for a file, of its source for code of the user's."""
    values, result = section.model_dump(mode="json"), {}
    for key, field in type(section).model_fields.items():
        value = getattr(section, key)
        default = field.get_default(call_default_factory=True)
        if isinstance(value, Section):
            below = differing(value, content=content)
            if below or default is None:
                result[key] = below
        elif value != default:
            plain = values[key]
            if content and isinstance(value, str) and marked(field, Content) and Path(value).exists():
                plain = content_digest(Path(value))
            elif content and isinstance(value, str) and marked(field, Source) and plugins.is_path(value):
                plain = f"{value} {plugins.source_digest(value)}"
            result[key] = plain
    return result


def content_digest(path: Path) -> str:
    """16 hexadecimal digits of a file's content; of a folder, of the names, sizes and times of its files."""
    if path.is_file():
        status = path.stat()
        return _file_digest(path, status.st_size, status.st_mtime_ns)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    state = [(str(f.relative_to(path)), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
    return hashlib.sha256(repr(state).encode()).hexdigest()[:16]


@lru_cache
def _file_digest(path: Path, size: int, time: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def restrict(config: Config, names: Iterable[str]) -> Config:
    """The configuration with all settings at their defaults but those that are named, sections or single settings."""

    def carry(source: Section, target: Section, address: list[str]) -> Section:
        key, *rest = address
        value = getattr(source, key)
        if rest:
            value = carry(value, getattr(target, key), rest)
        return target.model_copy(update={key: value})

    kept: Section = Config()
    for name in names:
        kept = carry(config, kept, name.split("."))
    assert isinstance(kept, Config)
    return kept
