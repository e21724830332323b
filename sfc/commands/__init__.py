"""The commands of `python -m sfc`, a module each, with two functions.

`parser()` gives the command line; `run(options)` runs the command and returns its exit code. Importing such a module
costs next to nothing: what a command needs is imported when it runs, the settings first, so that a wrong file is
refused before torch is imported, which takes seconds.
"""

from __future__ import annotations

import argparse


def config_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser of a configuration file and of words `section.key=value` that change it."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("config", help="a YAML file, or its bare name in experiments/")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="settings put over the file's")
    return parser
