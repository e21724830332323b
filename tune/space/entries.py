"""Reading space and plan files: their entries with types, and the line of each."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import ValidationError

from sfc.config import Section
from sfc.config.files import Address, explain, find_file, merge, read_yaml
from sfc.errors import UserError

File = TypeVar("File", bound=Section)


@dataclass(frozen=True)
class Entries(Generic[File]):
    """A space or plan file that was read."""

    file: File
    path: Path
    places: dict[Address, str]
    """`file:line` of each entry."""

    def at(self, *address: str | int) -> str:
        """`file:line` of an entry, or of the nearest one above it."""
        above = (address[:n] for n in range(len(address), 0, -1))
        return next((self.places[part] for part in above if part in self.places), str(self.path))


def read_entries(kind: type[File], name: str, folder: Path, change: Mapping[str, Any] | None = None) -> Entries[File]:
    """The entries of a file (a path, or a bare name in a folder), with the nested values of `change` put over them.

    Raises:
        UserError: every mistake in the entries, with its line.
    """
    path = find_file(name, [folder])
    values, places = read_yaml(path)
    try:
        return Entries(kind.model_validate_json(json.dumps(merge(values, dict(change or {})))), path, places)
    except ValidationError as error:
        lines = explain(error, places, str(path)).splitlines()
        raise UserError("\n".join(_with_nearest_entry(line, kind) for line in lines)) from None


def _with_nearest_entry(line: str, kind: type[Section]) -> str:
    """A line of `explain` with the nearest entry of the file in place of the nearest setting."""
    place, unknown, rest = line.partition(": unknown setting ")
    if not unknown:
        return line
    schema, entry = kind.model_json_schema(), rest.partition(";")[0]
    sections = [schema, *schema.get("$defs", {}).values()]
    names = list(dict.fromkeys(name for section in sections for name in section.get("properties", {})))
    close = difflib.get_close_matches(entry.split(".")[-1], names, n=1)
    hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(names)}"
    return f"{place}: unknown entry {entry}; {hint}"
