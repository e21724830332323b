"""Train and evaluate Shared Feature Calibration (SFC) on this machine, one configuration at a time."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sfc.terminal import execute, guarded


class Command(NamedTuple):
    """A command, imported when it is called."""

    module: str
    """Its module, which has `parser()` and `run(options)`."""
    about: str
    """Its line in the list of commands."""

    def load(self) -> Any:
        """The command's module."""
        return importlib.import_module(self.module)


COMMANDS = {
    "run": Command("sfc.commands.run", "run one configuration through all stages, without Ray"),
    "show": Command("sfc.commands.show", "print a configuration with all its settings"),
    "check": Command("sfc.commands.check", "check a configuration and its data"),
    "data": Command("sfc.commands.data", "prepare and verify VOC 2012 or COCO"),
    "import": Command("sfc.commands.import_checkpoint", "take over a published SFC or IRN checkpoint"),
}
OLD_NAMES = {"import-checkpoint": "import"}
"""Names that commands had before, and their names today."""


def outline(
    prog: str,
    description: str | None,
    commands: Mapping[str, Command],
    options: Mapping[str, argparse.ArgumentParser] | None = None,
) -> argparse.ArgumentParser:
    """A parser that knows the commands by name, and those options of theirs that `options` has by command."""
    parser = argparse.ArgumentParser(prog=prog, description=description)
    names = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, command in commands.items():
        names.add_parser(name, help=command.about, parents=[options[name]] if options else [], add_help=False)
    return parser


def dispatch(parser: argparse.ArgumentParser, commands: Mapping[str, Command], words: Sequence[str]) -> int:
    """Run the command that the first word names with the other words; returns its exit code."""
    first = [OLD_NAMES.get(word, word) for word in words[:1]]
    name = parser.parse_args(words if first and first[0].startswith("-") else first).command

    def command() -> int:
        module = commands[name].load()
        own = module.parser()
        own.prog = f"{parser.prog} {name}"
        return execute(own, module.run, words[1:])

    return guarded(command)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    words = sys.argv[1:] if arguments is None else arguments
    return dispatch(outline("python -m sfc", __doc__, COMMANDS), COMMANDS, words)


if __name__ == "__main__":
    sys.exit(main())
