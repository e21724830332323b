"""Command-line options that several commands share. Imports nothing heavy."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from sfc.runtime.store import Address, store_address


@dataclass(frozen=True)
class ClusterOptions:
    """Where a command's work runs, and where its outputs go."""

    results: Path
    """Results folder, absolute."""
    store: Address
    """Address of the store."""
    workers: int = 1
    """Ray Train workers of each training."""
    address: str | None = None
    """Address of a Ray cluster, such as `auto`; None: RAY_ADDRESS, else a Ray on this machine alone."""


def add_shared_options(parser: argparse.ArgumentParser) -> None:
    """Add `--workers`, `--address`, `--results`, `--store`, `--plugin` and the overrides."""
    parser.add_argument("--workers", type=int, default=1, help="of each training (Ray Train)")
    parser.add_argument("--address", help="of a Ray cluster, such as auto")
    parser.add_argument("--results", type=results_folder, default="results", help="where everything is written")
    parser.add_argument("--store", type=store_address, help="folder, s3://... or gs://...; default RESULTS/store")
    text = "code of your own that a study's settings may import; can be given several times"
    parser.add_argument("--plugin", action="append", default=[], metavar="MODULE:NAME", help=text)
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")


def cluster_options(options: argparse.Namespace) -> ClusterOptions:
    """The cluster's part of the parsed options."""
    store = options.store or options.results / "store"
    return ClusterOptions(options.results, store, options.workers, options.address)


def allow_plugins(options: argparse.Namespace) -> None:
    """Let configurations import what `--plugin` names: one that is read from a study imports nothing by itself."""
    if options.plugin:
        from sfc.config import plugins

        for path in options.plugin:
            plugins.allow(path)


def results_folder(text: str) -> Path:
    """The absolute folder of `--results`, since workers have other working folders. A relative one is below the current
    folder; in a job of `ray job submit`, whose current folder Ray deletes after the end, below the home folder."""
    uploaded = "working_dir_files" in Path.cwd().parts  # Ray's copy of --working-dir
    return (Path.home() if uploaded else Path.cwd()) / text
