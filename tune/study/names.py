"""Names of studies: what may stand in file names, database entries and links. Imports nothing heavy."""

from __future__ import annotations

import argparse
import re

COMPARISON = "comparison.json"
"""File of a study's comparison, in `final/STUDY` of the results folder."""
LONGEST = 100
"""Characters of a name."""


def study_name(text: str) -> str:
    """The name of a study as a command line gives it; for `add_argument(type=study_name)`.

    Raises:
        argparse.ArgumentTypeError: the name could not be a folder's own name.
    """
    if not re.fullmatch(r"[A-Za-z0-9._-]+", text) or text in (".", "..") or len(text) > LONGEST:
        raise argparse.ArgumentTypeError(
            f"{text!r} can't name a study: use letters, digits and . _ -, at most {LONGEST} characters, not . or .."
        )
    return text


def name_from(stem: str, mark: str) -> str:
    """A valid name from a file's name without its ending and a mark that tells studies of this file apart."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", stem)
    return f"{plain[: LONGEST - len(mark) - 1]}-{mark}"
