"""What VOC 2012 and COCO 2014 take on 1, 8 and 64 workers, from what the stages cost an image, and where it stops.

    python benchmarks/scaling.py                                   core hours, from one core's costs in scaling.json
    python benchmarks/scaling.py --costs gpu.json --cores 8        GPU hours, from your GPU's: see stage_costs.py
    python benchmarks/scaling.py --seconds classifier=0.02 --seconds maps=0.3 ...      from two numbers of your GPU
    python benchmarks/scaling.py --store results/store ...         from a store that has run voc.yaml or coco14.yaml

Nothing here is a measurement of many workers: it is arithmetic with measured costs, for workers that do not slow each
other down. Numbers of --seconds are for one image: of a step of the classifier (`training_step.py --gpu` prints images
a second), of its maps; the other trainings are taken to be as many times faster as the classifier's, the other passes
through networks as the maps'. Assumed, yours to measure: --bandwidth.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path

from sfc.config import Config
from sfc.config.files import load_config
from sfc.runtime.engine import SHARD
from sfc.runtime.store import Store
from sfc.stages.evaluation import CHUNK
from sfc.stages.proxies import CRF_IMAGES
from tune.study.estimate import measured

COSTS = Path(__file__).with_name("scaling.json")
WORKERS = (1, 8, 64)
SIZES = {"voc": (10582, 1464, 1449), "coco14": (82081, 82081, 40137)}
"""Images that train, whose masks choose, that report. COCO's preset chooses on those that train: their maps are needed
anyway."""
START = 24.4
"""Seconds that Ray Train takes to start a training and LocalEngine does not, on one core: `ray_engine.py`."""
DRIVER = 0.11
"""Seconds of the driver a trial: `many_nodes.py`."""
STEPS, PASSES = ("classifier", "affinity", "segmentation"), ("maps", "scores", "edges", "prediction", "displacement")
"""Trainings, and other parts that run a network."""


@dataclass(frozen=True)
class Part:
    """A part of a run."""

    name: str
    kind: str
    """`train`: steps of one batch over workers; `map`: shards, one network a worker; `crf`: shards, one a core;
    `serial`: one worker works."""
    seconds: float
    """For an image."""
    images: float
    """Times epochs."""
    most: int
    """Workers, or cores, that it can use."""

    def total(self) -> float:
        return self.seconds * self.images

    def clock(self, workers: int, cores: int) -> float:
        """Seconds with so many workers of so many cores each."""
        used = min(self.most, workers * (cores if self.kind == "crf" else 1))
        if self.kind == "train":
            return self.total() / self.most * math.ceil(self.most / used) + START  # as slow as who has the most images
        if self.kind == "serial":
            return self.total()
        in_turn = math.ceil(math.ceil(self.images / SHARD) / used) * SHARD  # images of who has the most shards
        return self.seconds * min(in_turn, self.images)


def mapped(name: str, seconds: dict[str, float], images: float, *, chunk: float = math.inf, kind: str = "map") -> Part:
    """A part of `kind` over shards, of which a chunk's are under way at a time."""
    return Part(name, kind, seconds[name], images, math.ceil(min(images, chunk) / SHARD))


def classifier_part(config: Config, seconds: dict[str, float], images: int) -> Part:
    section = config.classifier
    drawn = (section.batch + section.bank_images) / section.batch
    return Part(
        "classifier",
        "train",
        seconds["classifier"],
        section.epochs * images * drawn,
        section.batch + section.bank_images,
    )


def final_parts(name: str, config: Config, seconds: dict[str, float]) -> list[Part]:
    """What one configuration takes from its training to the evaluation of its segmentation model."""
    train, select, val = SIZES[name]
    others = (select if config.data.select != config.data.train else 0) + val
    affinity, segmentation = config.affinity, config.segmentation
    parts = [
        classifier_part(config, seconds, train),
        mapped("maps", seconds, train + others),
        mapped("seeds", seconds, select + val, kind="crf"),
    ]
    if config.pseudo.method == "irn":
        parts += [
            mapped("irn labels", seconds, train, kind="crf"),
            Part("affinity", "train", seconds["affinity"], affinity.epochs * train, affinity.batch),
            Part("displacement", "serial", seconds["displacement"], train, 1),
            mapped("edges", seconds, train),
        ]
    steps = segmentation.iterations or segmentation.epochs * train // segmentation.batch
    crf = config.evaluation.crf != "none"
    parts += [
        mapped("labels", seconds, train, kind="crf"),
        Part("segmentation", "train", seconds["segmentation"], steps * segmentation.batch, segmentation.batch),
        mapped("prediction", seconds, val, chunk=CHUNK if crf else math.inf),
    ]
    return parts + ([mapped("prediction crf", seconds, val, chunk=CHUNK, kind="crf")] if crf else [])


def trial_parts(name: str, config: Config, seconds: dict[str, float], inner: int) -> list[Part]:
    """What a trial takes: its classifier, maps of the images that choose, `inner` settings on them, the proxies."""
    train, select, _ = SIZES[name]
    return [
        classifier_part(config, seconds, train),
        mapped("maps", seconds, select),
        mapped("seeds", seconds, select * inner, kind="crf"),
        mapped("scores", seconds, select),
        mapped("agreement", seconds, min(select, CRF_IMAGES), kind="crf"),
    ]


def from_numbers(seconds: dict[str, float], own: dict[str, float]) -> dict[str, float]:
    """Costs with the user's numbers in their place; networks that have none scale as the classifier or the maps do."""
    changed = seconds | own
    for base, names in (("classifier", STEPS), ("maps", PASSES)):
        if base in own:
            faster = own[base] / seconds[base]
            changed |= {n: seconds[n] * faster for n in names if n in seconds and n not in own}
    return changed


def from_store(store: Store, config: Config) -> dict[str, float]:
    """Median costs by the manifests of a store, as far as it has the stages; the affinity's labels and displacement
    are in its training, the CRF in the prediction."""
    costs = {}
    for stage in ("classifier", "maps", "seeds", "affinity", "edges", "labels", "segmentation", "evaluation"):
        if seen := sorted(seconds for seconds, _ in measured(store, stage)):
            costs[stage] = seen[len(seen) // 2]
    if "classifier" in costs:
        section = config.classifier
        costs["classifier"] *= section.batch / (section.batch + section.bank_images)
    if "affinity" in costs:
        costs |= {"irn labels": 0.0, "displacement": 0.0}
    if "evaluation" in costs:
        costs |= {"prediction": costs.pop("evaluation"), "prediction crf": 0.0}
    return costs


def hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f}" if seconds < 36000 else f"{seconds / 3600:,.0f}"


def row(*cells: object) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def show_final(title: str, parts: list[Part], cores: int) -> None:
    """A Markdown table of a run by its parts."""
    print(f"\n{title}, hours\n")
    print(row("part", "s an image", "images", "uses at most", "work", *(f"on {w}" for w in WORKERS)))
    print(row("---", *["---:"] * 7))
    for part in parts:
        clocks = [hours(part.clock(workers, cores)) for workers in WORKERS]
        most = f"{part.most:,} {'cores' if part.kind == 'crf' else 'workers'}"
        print(row(part.name, f"{part.seconds:.3g}", f"{part.images:,.0f}", most, hours(part.total()), *clocks))
    sums = [sum(part.clock(workers, cores) for part in parts) for workers in WORKERS]
    print(row("all", "", "", "", hours(sum(part.total() for part in parts)), *map(hours, sums)))
    print(row("faster than on 1", "", "", "", "", *(f"{sums[0] / seconds:.1f} x" for seconds in sums)))


def show_search(trial: list[Part], cores: int, trials: int, inner: int) -> None:
    """A Markdown table of a search; a trial has one worker."""
    each = sum(part.clock(1, cores) - START * (part.kind == "train") for part in trial)
    print(f"\nsearch of {trials} trials, {inner} inner settings each; a trial takes {hours(each)} h on one worker\n")
    print(row("", *(f"on {w}" for w in WORKERS)))
    print(row("---", *["---:"] * len(WORKERS)))
    clocks = [math.ceil(trials / workers) * each for workers in WORKERS]
    print(row("hours", *map(hours, clocks)))
    print(row("trials a minute", *(f"{60 * trials / clock:.2g}" for clock in clocks)))
    print(row("driver busy, % of the time", *(f"{100 * trials * DRIVER / clock:.2g}" for clock in clocks)))
    print(
        f"\nthe driver, {1000 * DRIVER:.0f} ms a trial, is busy all the time with {each / DRIVER:,.0f} trials at once"
    )


def show_reading(costs: dict[str, dict[str, float]], bandwidth: float) -> None:
    """Workers whose reading fills a shared file system."""
    jpeg, maps, seconds = costs["bytes"]["jpeg"], costs["bytes"]["maps"], costs["seconds"]
    reads = {
        "classifier": jpeg / seconds["classifier"],
        "maps": jpeg / seconds["maps"],
        "seeds": maps / seconds["seeds"],
    }
    for name, rate in reads.items():
        print(f"{name} reads {rate / 1e6:.3g} MB/s a worker: {1e6 * bandwidth / rate:,.0f} fill {bandwidth:g} MB/s")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--costs", type=Path, default=COSTS, help="from stage_costs.py")
    parser.add_argument("--seconds", action="append", default=[], metavar="PART=SECONDS", help="for an image")
    parser.add_argument("--store", type=Path, help="whose manifests say what stages cost")
    parser.add_argument("--only", choices=tuple(SIZES), help="one of the data sets")
    parser.add_argument("--cores", type=int, default=1, help="of each worker, for the parts that need no network")
    parser.add_argument("--trials", type=int, default=64)
    parser.add_argument("--inner", type=int, default=10)
    parser.add_argument("--bandwidth", type=float, default=100.0, help="MB/s of the file system; assumed")
    options = parser.parse_args()
    costs = json.loads(options.costs.read_text(encoding="utf-8"))
    numbers = {name: float(value) for name, _, value in (word.partition("=") for word in options.seconds)}
    print(f"{costs['machine']}: {costs['command']}")
    for name in SIZES if options.only is None else [options.only]:
        config = load_config(f"{name}.yaml")
        base = costs[name]["seconds"] | (from_store(Store(options.store), config) if options.store else {})
        if unknown := numbers.keys() - base.keys():
            parser.error(f"--seconds: no part {', '.join(sorted(unknown))}; there are {', '.join(base)}")
        seconds = from_numbers(base, numbers)
        show_final(f"{name}.yaml", final_parts(name, config, seconds), options.cores)
        show_search(trial_parts(name, config, seconds, options.inner), options.cores, options.trials, options.inner)
        print()
        show_reading({"seconds": seconds, "bytes": costs[name]["bytes"]}, options.bandwidth)
    return 0


if __name__ == "__main__":
    sys.exit(main())
