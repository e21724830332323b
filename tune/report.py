"""One HTML file on a study, which stands alone: python tune/report.py --study NAME."""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from sfc.terminal import execute


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python tune/report.py", description=__doc__)
    parser.add_argument("--study", required=True)
    parser.add_argument("--results", type=lambda text: Path(text).absolute(), default="results")
    parser.add_argument("--out", type=Path, help="the file; by default RESULTS/reports/STUDY.html")
    parser.add_argument(
        "--plugin", action="append", default=[], metavar="module:name", help="code of your own that the study names"
    )
    return parser


def run(options: argparse.Namespace) -> int:
    """Make the page and write it; returns the exit code.

    Raises:
        UserError: there is no such study, or the file can't be written.
    """
    from sfc.errors import UserError
    from sfc.runtime.store import write_atomic
    from tune.evidence.page import page
    from tune.study.study import load_study

    for path in options.plugin:
        from sfc.config import plugins

        plugins.allow(path)
    command = f"python tune/report.py {shlex.join(options.words)}"
    html = page(load_study(options.study, options.results), options.results, command)
    name = re.sub(r"[^\w.-]", "_", options.study) + ".html"  # a study of an older version may have any name
    file = options.out or options.results / "reports" / name
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(file, html)
    except OSError as error:
        raise UserError(f"--out {file}: can't be written: {error.strerror}") from None
    print(f"report: {file}")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    return execute(parser(), run, arguments)


if __name__ == "__main__":
    sys.exit(main())
