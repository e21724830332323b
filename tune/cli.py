"""Train, search and ablate weakly supervised segmentation with SFC."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import shtab

from sfc.__main__ import COMMANDS as WITHOUT_RAY
from sfc.__main__ import Command, dispatch, outline

COMMANDS = WITHOUT_RAY | {
    "search": Command("tune.search", "search settings, then train the best in full"),
    "ablate": Command("tune.ablate", "compare arms over seeds"),
    "final": Command("tune.final", "take a study's best trials through all stages"),
    "report": Command("tune.report", "write an HTML report on a study"),
    "store": Command("tune.store", "show what the store holds, remove what is unused"),
}
COMPLETION = "--print-completion"
FILES = {"base", "config", "file", "out", "plan", "results", "root", "space", "store", "table"}
"""Arguments that the shell completes by names of files."""


def completable(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """The parser, its files marked for shtab."""
    for action in parser._actions:  # argparse lists them nowhere else; shtab reads them here, too
        if action.dest in FILES:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command `sfc`; returns the exit code."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    if words[:1] == [COMPLETION]:
        options = {name: completable(command.load().parser()) for name, command in COMMANDS.items()}
        parser = outline("sfc", __doc__, COMMANDS, options)
        shtab.add_argument_to(parser, COMPLETION)
    else:
        parser = outline("sfc", __doc__, COMMANDS)
        parser.add_argument(COMPLETION, metavar="SHELL", help="print a script that completes commands and options")
    return dispatch(parser, COMMANDS, words)


if __name__ == "__main__":
    sys.exit(main())
