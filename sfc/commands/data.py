"""Make a benchmark's official files ready for use and compare its counts with the published ones."""

from __future__ import annotations

import argparse
from pathlib import Path

from sfc.commands.check import listed, print_counts
from sfc.errors import UserError

YEARS = {"coco14": 2014, "coco17": 2017}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=("voc", *YEARS))
    parser.add_argument("--root", type=Path, required=True, help="folder with the official archives, extracted")
    parser.add_argument("--download", action="store_true", help="first download and extract what is missing")
    return parser


def run(options: argparse.Namespace) -> int:
    """The command; returns the exit code.

    Raises:
        UserError: files are missing, or counts differ from the published ones.
    """
    from sfc.data import coco, voc
    from sfc.data.check import compare
    from sfc.data.dataset import open_folder

    name, root = options.name, options.root
    if options.download:
        from sfc.data.download import download

        download(name, root)
    if name == "voc":
        folder = voc.prepare_voc(root)
        report = voc.verify_voc(folder, voc.PUBLISHED)
    else:
        folder = coco.prepare_coco(root, YEARS[name])
        report = compare(folder, coco.PUBLISHED[YEARS[name]])
    print_counts(open_folder(folder), report.counts, {"images": report.images})
    use = f"data.format={name} data.root={root}"
    if report.problems:
        raise UserError(
            f"{folder} is not the published {name}, in {len(report.problems)} ways:{listed(report.problems)}\n"
            f"It can be used ({use}), but what is measured on it can't be compared with published numbers"
        )
    print(f"all counts are the published ones; to use it: {use}")
    return 0
