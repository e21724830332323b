"""Mistakes in the entries of space and plan files."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from pydantic import ValidationError

from sfc.config.files import Address, explain


def explain_entries(error: ValidationError, places: dict[Address, str], origin: str, names: Sequence[str]) -> str:
    """One line a mistake, as `explain` gives it for settings; an unknown entry is compared with `names`."""
    lines = []
    for line in explain(error, places, origin).splitlines():
        place, unknown, rest = line.partition(": unknown setting ")
        if unknown:
            entry = rest.partition(";")[0]
            close = difflib.get_close_matches(entry.split(".")[-1], names, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(names)}"
            line = f"{place}: unknown entry {entry}; {hint}"
        lines.append(line)
    return "\n".join(lines)
