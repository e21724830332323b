"""Print a configuration with all its settings, as YAML."""

from __future__ import annotations

import argparse

from sfc.commands import config_parser


def parser() -> argparse.ArgumentParser:
    """The command line."""
    return config_parser(__doc__)


def run(options: argparse.Namespace) -> int:
    """The command; returns the exit code."""
    from sfc.config.files import dump_config, load_config

    print(dump_config(load_config(options.config, options.overrides)), end="")
    return 0
