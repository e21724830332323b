"""What jobs would cost before they start, from what was measured, and what the trials so far show.

Every stage's manifest says its seconds, bytes and images. A stage that is still to run costs the median of what the
same stage took an image (an image and epoch for trainings) with the same settings on the same data and device, else of
all of it in the store; where the store has none, it is measured now, on a few images. Manifests do not say how many
processes shared a stage, so an output of a final run on many cores counts like a trial's on one.
"""

from __future__ import annotations

import dataclasses
import logging
import shutil
import statistics
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from sfc.config import Config, Data
from sfc.config.files import change_config
from sfc.data import Split
from sfc.pipeline import Pipeline
from sfc.runtime.engine import LocalEngine, default_device
from sfc.runtime.store import MANIFEST, Store
from tune.study.progress import duration

log = logging.getLogger("sfc")

Need = tuple[str, str]
"""Stage and key."""
Identity = dict[str, Any]
"""What a manifest says of what a stage depends on."""

TRAINED = ("classifier", "affinity", "segmentation")
COST = {
    "classifier": "backbone.name backbone.frozen_stages classifier.weights classifier.batch classifier.bank_images "
    "classifier.crop classifier.options.scales classifier.precision",
    "cam": "cam.scales cam.mirror cam.correlation cam.precision",
    "proxy": "crf.iterations precision",
    "affinity": "backbone.name affinity.weights affinity.batch affinity.crop affinity.radius affinity.precision "
    "pseudo.crf.iterations",
    "edge": "crop precision",
    "pseudo": "pseudo.method pseudo.void_unsure pseudo.crf.iterations pseudo.walk.walks pseudo.walk.radius "
    "pseudo.walk.steps",
    "segmentation": "backbone.name segmentation.architecture segmentation.batch segmentation.crop "
    "segmentation.precision",
    "evaluation": "evaluation.scales evaluation.mirror evaluation.crf evaluation.precision",
}
"""Settings in a stage's manifest on which its time depends."""
NETWORK = "backbone.name segmentation.architecture"
"""The same of the networks that a stage is given."""
FEW = 16
"""Images of each split that a measurement takes; the classifier trains on two batches."""


@dataclass(frozen=True)
class Work:
    """A configuration, and what is asked of its pipeline."""

    config: Config
    drive: Callable[[Pipeline], object] = Pipeline.run
    alone: bool = False
    """It runs by itself, before or after those that share the slots."""


@dataclass(frozen=True)
class Row:
    """A stage in an estimate."""

    stage: str
    needed: int
    """Outputs that are still to be made."""
    found: int
    """Outputs that the store has."""
    seconds: float
    """Of each that is needed, on the mean."""
    bytes: float
    """The same."""
    basis: str
    """Where both come from."""


@dataclass(frozen=True)
class Estimate:
    """What jobs still cost, if each of them runs to its end."""

    rows: tuple[Row, ...]
    seconds: float
    """Of the clock, with the slots that run at once."""
    bytes: float
    """That the store grows by."""
    at_once: int
    root: Path
    """The store."""


class Ledger(Store):
    """A store that notes what a pipeline asks of it, and builds nothing.

    Args:
        root: of the store; what it has is read.
    """

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.asked: dict[Need, Identity] = {}

    def get(self, stage: str, key: str, identity: Identity, build: Callable[[Path], dict[str, Any]]) -> Path:
        """Where the output is, or would be."""
        self.asked.setdefault((stage, key), identity)
        return self.folder(stage, key)


def _at(values: Any, address: str) -> Any:
    for name in address.split("."):
        values = values.get(name) if isinstance(values, dict) else None
    return values


def units(stage: str, identity: Identity) -> float:
    """What a stage's time is proportional to: images, times epochs where it trains."""
    images, section = identity["images"], identity["settings"].get(stage, {})
    if stage not in TRAINED:
        return images
    if section.get("weights"):
        return 1  # nothing is trained
    batch = min(section["batch"], images)
    if steps := section.get("iterations"):
        return steps * batch
    return section["epochs"] * (images - images % batch)


@dataclass(frozen=True)
class Measured:
    """A stage's output that exists."""

    traits: list[Any]
    prints: frozenset[str]
    """Fingerprints of its data."""
    device: str
    seconds: float
    """For each of `units`."""
    bytes: float
    """For each image; of a training, in all."""
    images: int


def traits(stage: str, identity: Identity, given: Iterable[Identity]) -> list[Any]:
    """Values of the settings that a stage's time depends on, its own and those of the outputs that it is given."""
    own = [_at(identity["settings"], name) for name in COST.get(stage, "").split()]
    return own + [[_at(one["settings"], name) for name in NETWORK.split()] for one in given]


def measured(store: Store, stage: str) -> list[Measured]:
    """What the store's outputs of a stage took; those from before manifests said images and bytes are left out."""
    found = []
    for path in sorted((store.root / stage).glob(f"*/{MANIFEST}")):
        manifest = store.manifest(path.parent)
        if "images" not in manifest or "bytes" not in manifest:
            continue
        given = [store.root / name for name in manifest["inputs"]]
        if not all((folder / MANIFEST).is_file() for folder in given):
            continue  # somebody tidied the store
        found.append(
            Measured(
                traits(stage, manifest, map(store.manifest, given)),
                frozenset(manifest["data"].values()),
                manifest.get("device", ""),
                manifest["seconds"] / units(stage, manifest),
                manifest["bytes"] / (1 if stage in TRAINED else manifest["images"]),
                manifest["images"],
            )
        )
    return found


def few(split: Split, images: int) -> Split:
    """The first images of a split under its own name and fingerprint, so that keys do not depend on their number."""
    return dataclasses.replace(split, ids=split.ids[:images], labels=split.labels[:images])


def probe(pipeline: Pipeline, drive: Callable[[Pipeline], object], scratch: Store) -> None:
    """Really run what a job needs on a few images, one epoch, in this process.

    Args:
        pipeline: of the job; its data are used, its store is not touched.
        drive: what is asked of it.
        scratch: where outputs go; their manifests say what they took. Start-up is in it, so they say too much:
            half as much again for five epochs on 1,000 generated images.
    """
    rates = ("classifier.lr", "classifier.head_lr", "affinity.lr", "affinity.displacement_lr")
    changes = dict.fromkeys([*rates, "segmentation.lr", "segmentation.head_lr"], 1e-6)  # so that nothing diverges
    changes |= dict.fromkeys(["classifier.epochs", "affinity.epochs", "segmentation.epochs"], 1)
    config = change_config(pipeline.config, changes | {"segmentation.iterations": None})
    small, whole = Pipeline(config, scratch, LocalEngine(1)), pipeline.split
    small.split = cache(lambda name: few(whole(name), 2 * config.classifier.batch))
    log.setLevel(logging.WARNING)
    small.classifier()
    small.split = cache(lambda name: few(whole(name), FEW))
    drive(small)
    log.setLevel(logging.INFO)


def _rate(
    seen: Sequence[Measured], wanted: list[Any], prints: frozenset[str], just_now: bool
) -> tuple[float, float, str]:
    """Seconds for each unit, bytes, and the words for where they come from."""
    device = str(default_device())
    same = [m for m in seen if m.traits == wanted and m.prints & prints and m.device == device]
    chosen = same or seen
    if just_now:
        basis = f"measured just now on {statistics.median_high(m.images for m in chosen)} images"
    else:
        basis = f"{len(chosen)} in the store"
    basis += "" if same else ", other settings, data or device: rough"
    return statistics.median(m.seconds for m in chosen), statistics.median(m.bytes for m in chosen), basis


def _plans(jobs: Iterable[Work], ledger: Ledger, store: Store) -> list[tuple[Work, Pipeline, list[Need]]]:
    """Each job with its pipeline and what it is the first to need of what the store lacks."""
    opened: dict[Data, Pipeline] = {}
    plans = []
    for job in jobs:
        if job.config.data not in opened:
            opened[job.config.data] = Pipeline(job.config, ledger, LocalEngine(1))
        pipeline = copy(opened[job.config.data])  # its splits are read once
        pipeline.config, before = job.config, set(ledger.asked)
        job.drive(pipeline)
        missing = [need for need in ledger.asked if need not in before and not store.has(*need)]
        plans.append((job, pipeline, missing))
    return plans


def estimate(jobs: Iterable[Work], store: Store, at_once: int = 1) -> Estimate:
    """What is still to run for some jobs, and what it takes; an output that several need counts once.

    Args:
        jobs: every one as if it ran in full, in the order in which they would start.
        store: what it has is not run; no output is written to it.
        at_once: jobs that run at the same time, those `alone` apart.

    Raises:
        UserError: the data can't be opened, or a job needs masks that are not there.
    """
    ledger = Ledger(store.root)
    plans = _plans(jobs, ledger, store)
    seen = {stage: measured(store, stage) for _, _, missing in plans for stage, _ in missing}
    unknown = {stage for stage, found in seen.items() if not found}
    with tempfile.TemporaryDirectory() as name:
        scratch = Store(Path(name))
        for job, pipeline, missing in plans:
            if wanted := {stage for stage, _ in missing if not seen[stage]}:
                log.info("no measured times of %s: running them on a few images", ", ".join(sorted(wanted)))
                probe(pipeline, job.drive, scratch)
                seen |= {stage: measured(scratch, stage) for stage in unknown}

    prints = frozenset(value for identity in ledger.asked.values() for value in identity["data"].values())
    seconds: dict[str, list[float]] = defaultdict(list)
    sizes: dict[str, list[float]] = defaultdict(list)
    bases: dict[str, Counter[str]] = defaultdict(Counter)
    shared, alone = [0.0], 0.0
    for job, _, missing in plans:
        total = 0.0
        for stage, key in missing:
            identity = ledger.asked[stage, key]
            given = [ledger.asked[folder, name] for folder, name in (i.split("/") for i in identity["inputs"])]
            each, size, basis = _rate(seen[stage], traits(stage, identity, given), prints, stage in unknown)
            total += each * units(stage, identity)
            seconds[stage].append(each * units(stage, identity))
            sizes[stage].append(size if stage in TRAINED else size * identity["images"])
            bases[stage][basis] += 1
        if job.alone:
            alone += total
        else:
            shared.append(total)
    rows = []
    for stage, asked in Counter(stage for stage, _ in ledger.asked).items():
        needed = len(seconds[stage])
        mean = [statistics.fmean(values[stage]) if needed else 0.0 for values in (seconds, sizes)]
        rows.append(Row(stage, needed, asked - needed, *mean, "; ".join(bases[stage])))
    clock = max(sum(shared) / at_once, max(shared)) + alone  # a job runs on one slot
    return Estimate(tuple(rows), clock, sum(map(sum, sizes.values())), at_once, store.root)


def show(console: Console, estimate: Estimate) -> None:
    """An estimate as a table, its sums, the free disk space, and a warning where that is too little."""
    table = Table(title="what it would take, if everything runs to its end", title_justify="left")
    for column in ("stage", "to run", "in the store", "time each", "disk each", "from"):
        table.add_column(column, justify="left" if column in ("stage", "from") else "right")
    for row in estimate.rows:
        each = (duration(row.seconds), decimal(round(row.bytes))) if row.needed else ("-", "-")
        table.add_row(row.stage, str(row.needed), str(row.found), *each, row.basis or "-")
    console.print(table)
    free = shutil.disk_usage(estimate.root).free
    console.print(
        f"about {estimate.seconds / 3600:.1f} hours ({duration(estimate.seconds)}) with {estimate.at_once} at once, "
        f"{decimal(round(estimate.bytes))} of disk; {decimal(free)} are free at {estimate.root}",
        soft_wrap=True,
        highlight=False,
    )
    if estimate.bytes > free:
        console.print(
            f"warning: that is {decimal(round(estimate.bytes - free))} more than is free; free some, or name another "
            "folder by --results",
            soft_wrap=True,
            highlight=False,
        )


def outlook(values: Sequence[float]) -> str:
    """What the trials so far show about going on, and no more than that.

    Args:
        values: objectives of the trials that ran in full, more is better, in the order in which they ended.
    """
    number = len(values)
    if number < 2:
        return f"{number or 'no'} trial{'s' * (number != 1)} in full: nothing can be said yet of what more would gain"
    best = max(values)
    last, half = values.index(best) + 1, number // 2
    gain = best - max(values[:half])
    return (
        f"best of {number} trials in full: {best:.4f}, reached by number {last}; the last {number - half} "
        f"raised the best so far by {gain:.4f}. That is what was seen: what further trials would gain can't be known "
        "from it"
    )
