"""Check a configuration and its data, and count images and masks by class and split."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from sfc.commands import config_parser
from sfc.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from sfc.data import Dataset

LISTED = 50
"""Problems that a message lists; it counts the others."""


def print_counts(data: Dataset, counts: Mapping[str, np.ndarray], totals: Mapping[str, Mapping[str, int]]) -> None:
    """Print a table of images by class (rows) and split (columns).

    Args:
        data: the data set; its classes name the rows.
        counts: by split, images with each class: whole numbers (C,).
        totals: further rows by name, with a number for each split.
    """
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{data.root}\nimage labels from: {data.label_source}")
    table.add_column("class")
    for split in counts:
        table.add_column(split, justify="right")
    for c, name in enumerate(data.classes):
        table.add_row(name, *(str(column[c]) for column in counts.values()))
    table.add_section()
    for name, numbers in totals.items():
        table.add_row(name, *(str(numbers[split]) for split in counts))
    Console().print(table)


def listed(problems: Sequence[str]) -> str:
    """The first problems, a line each, and the number of the others."""
    more = f"\n  and {len(problems) - LISTED} more" if len(problems) > LISTED else ""
    return "".join(f"\n  {problem}" for problem in problems[:LISTED]) + more


def parser() -> argparse.ArgumentParser:
    """The command line."""
    return config_parser(__doc__)


def run(options: argparse.Namespace) -> int:
    """The command; returns the exit code."""
    from sfc.config.files import load_config

    config = load_config(options.config, options.overrides)
    from sfc.data import open_dataset
    from sfc.data.check import check_data

    data = open_dataset(config.data)
    report = check_data(data, config.data)
    print_counts(data, report.counts, {"images": report.images, "masks": report.masks})
    if report.problems:
        raise UserError(f"{len(report.problems)} problems in the data:{listed(report.problems)}")
    print("settings and data are in order")
    return 0
