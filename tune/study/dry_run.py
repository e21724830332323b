"""What a search would run and take, without starting it: by what the store's outputs took."""

from __future__ import annotations

import contextlib
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import optuna
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from sfc.config import Config, Data
from sfc.config.files import change_config
from sfc.errors import UserError
from sfc.pipeline import STAGES, Pipeline
from sfc.runtime.engine import LocalEngine, default_device
from sfc.runtime.machine import available_cpus
from sfc.runtime.store import MANIFEST, Store
from tune.space.parameter import Value
from tune.space.space_file import Space
from tune.study.objective import everything
from tune.study.progress import duration, shown
from tune.study.study import complete, counted, load_study, values_of

SAMPLES = 100
"""Configurations that are drawn and built as a check."""
TRAINED = tuple(stage for stage, spec in STAGES.items() if spec.trains)
"""Stages whose time grows with the epochs, and whose output does not grow with the images."""

Work = tuple[Config, Callable[[Pipeline], object]]
"""A configuration, and what is asked of its pipeline."""


class Ledger(Store):
    """A store that notes what a pipeline asks of it, and builds nothing."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.asked: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
        """What each output depends on, by stage and key."""

    def get(self, stage: str, key: str, identity: dict[str, Any], build: Callable[[Path], dict[str, Any]]) -> Path:
        """The folder in which the output is, or would be."""
        self.asked[stage].setdefault(key, identity)
        return self.folder(stage, key)


class Row(NamedTuple):
    """The outputs of one stage that jobs ask for."""

    stage: str
    existing: int
    """Outputs that the store has."""
    needed: int
    """Outputs that are still to be made."""
    seconds: float | None
    """Time for those that are needed, on one device; None: the store has none to go by."""
    bytes: float | None
    """Disk space of those that are needed; None: the store has none to go by."""
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


def measured(store: Store, stage: str) -> list[tuple[float, float]]:
    """Seconds for one of the stage's units, and bytes for an image or of a training in all, of each of its outputs that
    was made on this machine's kind of device; manifests that lack a number are left out."""
    costs = []
    for path in sorted((store.root / stage).glob(f"*/{MANIFEST}")):
        manifest = store.manifest(path.parent)
        complete = {"seconds", "bytes", "images"} <= manifest.keys() and manifest["bytes"] > 0  # 0: nothing was made
        if complete and manifest.get("device") == str(default_device()):
            size = manifest["bytes"] / (1 if stage in TRAINED else manifest["images"])
            costs.append((manifest["seconds"] / units(stage, manifest), size))
    return costs


def estimate(jobs: Iterable[Work], store: Store) -> list[Row]:
    """A row for each stage that jobs ask for; an output that several need counts once.

    Args:
        jobs: every one as if it ran in full.
        store: nothing is written to it.

    Raises:
        UserError: the data can't be opened, or a job needs masks that do not exist.
    """
    ledger = Ledger(store.root)

    @cache  # its splits are read once
    def opened(data: Data) -> Pipeline:
        return Pipeline(Config(data=data), ledger, LocalEngine(1))

    for config, ask in jobs:
        ask(opened(config.data).changed(config))
    rows = []
    for stage, asked in ledger.asked.items():
        needed = [identity for key, identity in asked.items() if not store.has(stage, key)]
        costs, seconds, size = measured(store, stage), None, None
        if costs or not needed:
            seconds = sum(units(stage, n) for n in needed) * median([unit for unit, _ in costs] or [0.0])
            images = sum(1 if stage in TRAINED else n["images"] for n in needed)
            size = images * median([size for _, size in costs] or [0.0])
        rows.append(Row(stage, len(asked) - len(needed), len(needed), seconds, size, len(costs)))
    return rows


def show(console: Console, rows: Sequence[Row], at_once: int, root: Path) -> None:
    """Print the rows, their sums over `at_once` jobs at a time, and a warning where the disk of `root` is too small."""
    table = Table(title="what it would take, if everything runs to its end", title_justify="left")
    for column in ("stage", "to run", "in the store", "time each", "disk each", "median of"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    for row in rows:
        cells = ["unknown", "unknown", "none"] if row.needed else ["-", "-", "-"]
        if row.needed and row.seconds is not None and row.bytes is not None:
            cells = [duration(row.seconds / row.needed), decimal(round(row.bytes / row.needed)), str(row.basis)]
        table.add_row(row.stage, str(row.needed), str(row.existing), *cells)
    console.print(table)
    unknown = [row.stage for row in rows if row.seconds is None]
    seconds = sum(row.seconds or 0.0 for row in rows) / at_once
    size, free = sum(row.bytes or 0.0 for row in rows), shutil.disk_usage(root).free
    text = "time and disk are unknown: this store has no output to go by"
    if len(unknown) < len(rows):
        rest = f", and what is unknown: {', '.join(unknown)}" if unknown else ""
        hours = f"{seconds / 3600:.1f} hours ({duration(seconds)})"
        text = f"about {hours} with {at_once} at once, {decimal(round(size))} of disk{rest}"
    console.out(f"{text}; {decimal(free)} are free at {root}", highlight=False)
    if size > free:
        more = f"warning: that is {decimal(round(size - free))} more than is free"
        console.out(f"{more}; free some, or name another folder by --results", highlight=False)


def samples(space: Space, number: int) -> list[dict[str, Value]]:
    """Settings of both levels, drawn at random.

    Raises:
        UserError: some are not valid together.
    """
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=space.file.budget.seed))
    drawn = []
    for _ in range(number):
        trial = study.ask()
        chosen = space.suggest(trial)
        chosen |= space.suggest_inner(trial, chosen)
        try:
            space.config(chosen)
        except UserError as error:
            raise UserError(f"the space allows settings that are not valid together, {chosen}: {error}") from None
        drawn.append(chosen)
    return drawn


def work(space: Space, left: int, best: list[dict[str, Value]]) -> list[Work]:
    """What `left` more trials, the confirmation and the comparison would ask for: trials with settings drawn at random,
    each in full, with the settings of later stages that it tries; after them the best so far, else the first of
    these."""
    file, inner = space.file, space.inner
    widest = max([step.trials for step in file.confirm], default=1)
    drawn = [file.published, *samples(space, max(left, widest) - 1)]
    later = [{n: s[n] for n in inner if n in s} for s in samples(space, space.file.budget.inner)[1:]] if inner else []
    jobs: list[Work] = []
    for chosen in drawn[:left]:
        outer = {name: chosen[name] for name in space.outer if name in chosen}
        for settings in [chosen, *(outer | values for values in later)]:
            jobs.append((space.config(settings), lambda pipeline: everything(pipeline, space.file.objective)))
    leaders, seed = [space.config(chosen) for chosen in [*best, *drawn]], space.base.seed + 1

    def objective(pipeline: Pipeline) -> object:
        return everything(pipeline, file.objective)

    for step in file.confirm:
        for config in leaders[: step.trials]:
            jobs += [(change_config(config, {"seed": seed + i}), objective) for i in range(step.seeds)]
    seed += max([step.seeds for step in file.confirm], default=0)
    arms = [*space.references().values(), leaders[0]]
    if file.compare.upper_bound:
        arms.append(change_config(leaders[0], {"pseudo.method": "masks"}))
    for config in arms:
        for i in range(file.compare.seeds):
            jobs.append((change_config(config, {**file.compare.set, "seed": seed + i}), Pipeline.run))
    return jobs


def show_plan(console: Console, space: Space, name: str, pipeline: Pipeline, results: Path) -> None:
    """Print what a search would run, after building 100 sampled configurations, and what it would take.

    Raises:
        UserError: a sampled configuration is invalid.
    """
    samples(space, SAMPLES)
    left, best = space.file.budget.trials, list[dict[str, Value]]()
    with contextlib.suppress(UserError):  # there is no such study yet
        study = load_study(name, results)
        left, best = max(0, left - len(counted(study))), [values_of(trial) for trial in complete(study)]
    base, file = space.base, space.file
    table = Table(title=f"study {name}: what would run", title_justify="left")
    for column in ("parameter", "searched in", "by", "published"):
        table.add_column(column, justify="right" if column == "published" else "left")
    for key, parameter in file.parameters.items():
        by = "each trial, on its maps" if key in space.inner else "trials"
        table.add_row(key, parameter.text(), by, shown(file.published.get(key, "")))
    console.print(table)
    select = pipeline.split(base.data.select)
    inner = f", {file.budget.inner} settings of later stages tried in each" if space.inner else ""
    console.out(
        f"{file.budget.trials} trials of {base.classifier.epochs} epochs on {len(pipeline.train)} images, compared at "
        f"epochs {space.rungs(base) or 'none'}{inner}; objective {file.objective.metric} on {len(select)} images of "
        f"the split {select.name}\n"
        f"confirmation: {' then '.join(f'{r.trials} trials x {r.seeds} seeds' for r in file.confirm) or 'none'}\n"
        f"comparison: the chosen setting with {', '.join(space.references())}, {file.compare.seeds} seeds each through "
        f"all stages, which report on the split {base.data.val}\n"
        f"{SAMPLES} sampled configurations are valid; {left} trials are still to run; nothing was started"
    )
    show(console, estimate(work(space, left, best), pipeline.store), available_cpus(), pipeline.store.root)
