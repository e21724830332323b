"""What jobs would still run, and what the store knows of the time and disk space of such outputs."""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Callable, Iterable, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from sfc.config import Config, Data
from sfc.pipeline import STAGES, Pipeline
from sfc.runtime.engine import LocalEngine, default_device
from sfc.runtime.store import MANIFEST, Store
from tune.study.progress import duration

TRAINED = tuple(stage for stage, spec in STAGES.items() if spec.trains)
"""Stages whose time grows with the epochs, and whose output does not grow with the images."""

Work = tuple[Config, Callable[[Pipeline], object]]
"""A configuration, and what is asked of its pipeline."""


class Ledger(Store):
    """A store that notes what a pipeline asks of it, and builds nothing.

    Args:
        root: of the store; what it has is read.
    """

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.asked: dict[tuple[str, str], dict[str, Any]] = {}
        """What each output depends on, by stage and key."""

    def get(self, stage: str, key: str, identity: dict[str, Any], build: Callable[[Path], dict[str, Any]]) -> Path:
        """The folder in which the output is, or would be."""
        self.asked.setdefault((stage, key), identity)
        return self.folder(stage, key)


@dataclass(frozen=True)
class Measured:
    """The cost of an output that exists."""

    seconds: float
    """For each image, and each epoch of a training."""
    bytes: float
    """For each image; of a training in all."""


@dataclass(frozen=True)
class Row:
    """The outputs of one stage that jobs ask for."""

    stage: str
    existing: int
    """Outputs that the store has."""
    needed: int
    """Outputs that are still to be made."""
    seconds: float | None
    """Of those that are needed, on one device; None: the store has none to go by."""
    bytes: float | None
    """The same."""
    basis: int
    """Outputs in the store that both are the median of."""


def units(stage: str, manifest: dict[str, Any]) -> float:
    """Images that a stage goes over, a training as often as it has epochs."""
    images = float(manifest["images"])
    if stage not in TRAINED:
        return images
    section, default = manifest["settings"].get(stage, {}), getattr(Config(), stage)
    if section.get("weights"):
        return 1.0  # nothing is trained
    if steps := section.get("iterations"):
        return float(steps * section.get("batch", default.batch))
    return images * section.get("epochs", default.epochs)


def measured(store: Store, stage: str) -> list[Measured]:
    """The costs of a stage's outputs on this machine's kind of device; manifests that lack a number are left out."""
    costs = []
    for path in sorted((store.root / stage).glob(f"*/{MANIFEST}")):
        manifest = store.manifest(path.parent)
        if {"seconds", "bytes", "images"} <= manifest.keys() and manifest.get("device") == str(default_device()):
            size = manifest["bytes"] / (1 if stage in TRAINED else manifest["images"])
            costs.append(Measured(manifest["seconds"] / units(stage, manifest), size))
    return costs


def estimate(jobs: Iterable[Work], store: Store) -> list[Row]:
    """A row for each stage that jobs ask for; an output that several need counts once.

    Args:
        jobs: every one as if it ran in full.
        store: nothing is written to it.

    Raises:
        UserError: the data can't be opened, or a job needs masks that do not exist.
    """
    ledger, opened = Ledger(store.root), dict[Data, Pipeline]()
    for config, ask in jobs:
        if config.data not in opened:
            opened[config.data] = Pipeline(config, ledger, LocalEngine(1))
        pipeline = copy(opened[config.data])  # its splits are read once
        pipeline.config = config
        ask(pipeline)
    rows = []
    for stage in dict.fromkeys(stage for stage, _ in ledger.asked):
        asked = {key: identity for (name, key), identity in ledger.asked.items() if name == stage}
        needed = [identity for key, identity in asked.items() if not store.has(stage, key)]
        costs, seconds, size = measured(store, stage), None, None
        if costs or not needed:
            seconds = sum(units(stage, n) for n in needed) * statistics.median([c.seconds for c in costs] or [0.0])
            images = sum(1 if stage in TRAINED else n["images"] for n in needed)
            size = images * statistics.median([c.bytes for c in costs] or [0.0])
        rows.append(Row(stage, len(asked) - len(needed), len(needed), seconds, size, len(costs)))
    return rows


def show(console: Console, rows: Sequence[Row], at_once: int, root: Path) -> None:
    """Print the rows, their sums over `at_once` jobs at a time, and a warning where the disk of `root` is too small."""
    table = Table(title="what it would take, if everything runs to its end", title_justify="left")
    for column in ("stage", "to run", "in the store", "time each", "disk each", "median of"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    for row in rows:
        cells = ["-", "-", "-"]
        if row.needed and row.seconds is not None and row.bytes is not None:
            cells = [duration(row.seconds / row.needed), decimal(round(row.bytes / row.needed)), str(row.basis)]
        elif row.needed:
            cells = ["unknown", "unknown", "none"]
        table.add_row(row.stage, str(row.needed), str(row.existing), *cells)
    console.print(table)
    unknown = [row.stage for row in rows if row.seconds is None]
    seconds = sum(row.seconds or 0.0 for row in rows) / at_once
    size, free = sum(row.bytes or 0.0 for row in rows), shutil.disk_usage(root).free
    if len(unknown) == len(rows):
        lines = [f"time and disk are unknown: this store has no output to go by; {decimal(free)} are free at {root}"]
    else:
        rest = f", and what is unknown: {', '.join(unknown)}" if unknown else ""
        lines = [
            f"about {seconds / 3600:.1f} hours ({duration(seconds)}) with {at_once} at once, {decimal(round(size))} of "
            f"disk{rest}; {decimal(free)} are free at {root}"
        ]
    if size > free:
        more = decimal(round(size - free))
        lines.append(f"warning: that is {more} more than is free; free some, or name another folder by --results")
    console.print("\n".join(lines), soft_wrap=True, highlight=False)
