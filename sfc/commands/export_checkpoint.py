"""Write a network on ResNet-50, such as a stage's model.pt, as the published code saves it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from sfc.terminal import guarded


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path, help="weights under this project's names")
    parser.add_argument("--out", type=Path, required=True, help="file to write")
    return parser


def main(words: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    options = parser().parse_intermixed_args(words)

    def command() -> int:
        from sfc.networks import published_checkpoints as published

        published.write_published(published.read_checkpoint(options.file, "export-checkpoint"), options.out)
        print(f"written to {options.out}, under the published names")
        return 0

    return guarded(command)
