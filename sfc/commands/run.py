"""Run one configuration through all stages; finished stages are not run again."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfc.commands import config_parser

if TYPE_CHECKING:
    from sfc.results import Result


def log_epoch(metrics: dict[str, float], _: dict[str, Any]) -> None:
    """Log an epoch of a training: its number, losses and speed in images/s."""
    losses = "  ".join(f"{k} {v:.4f}" for k, v in metrics.items() if k not in ("epoch", "images_per_second"))
    logging.getLogger("sfc").info(
        "  epoch %d  %s  %.0f images/s", metrics["epoch"], losses, metrics["images_per_second"]
    )


def show_result(result: Result) -> None:
    """Print every number with the masks that it has seen, and the folders of the stages."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"image labels from: {result.label_source}")
    for column in ("number", "value", "masks it has seen"):
        table.add_column(column, justify="right" if column == "value" else "left")
    for name, value in result.metrics.items():
        table.add_row(name, f"{value:.4f}", result.supervision[name])
    console = Console()
    console.print(table)
    for name, folder in result.folders.items():
        console.print(f"{name}: {folder}", soft_wrap=True)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = config_parser(__doc__)
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder for outputs (results)")
    parser.add_argument("--store", help="folder, s3://... or gs://... for the stages' outputs (RESULTS/store)")
    return parser


def run(options: argparse.Namespace) -> int:
    """The command; returns the exit code."""
    from sfc.config.files import load_config

    config = load_config(options.config, options.overrides)
    from sfc.pipeline import Pipeline
    from sfc.runtime.engine import LocalEngine
    from sfc.runtime.stores import open_store

    store = open_store(options.store or options.results / "store")
    show_result(Pipeline(config, store, LocalEngine(on_report=log_epoch)).run())
    return 0
