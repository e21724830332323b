"""Print a configuration with all its settings, as YAML."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from sfc.commands import config_parser
from sfc.terminal import guarded


def parser() -> argparse.ArgumentParser:
    """The command line."""
    return config_parser(__doc__)


def main(words: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    options = parser().parse_intermixed_args(words)

    def command() -> int:
        from sfc.config.files import dump_config, load_config

        print(dump_config(load_config(options.config, options.overrides)), end="")
        return 0

    return guarded(command)
