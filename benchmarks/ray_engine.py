"""What RayEngine costs over LocalEngine, and what a second core gives its map stages.

    python benchmarks/ray_engine.py [--minutes 5]     one training by each engine, then the maps on one and two cores

The training is the classifier of synthetic.yaml with as many epochs as fill the minutes, with one worker and one thread
on one core by either engine. Its own time is that from its first step to its last; everything else that the stage
took is start-up. Where others use the machine too, believe the processor's time: it decides. The map stages go
over 1,200 generated images on one core, then on two, each in a process of its own which is held to those cores; a first
map over nothing starts Ray's processes, and is not counted. Exit code 1 where a bound is missed.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
import torch
from common import machine, verdict

from sfc.config.files import change_config, load_config
from sfc.pipeline import Pipeline
from sfc.runtime.engine import Context, Engine, Item, LocalEngine, Output
from sfc.runtime.store import Store
from tune.cluster.connect import OBJECT_STORE
from tune.cluster.ray_engine import RayEngine

CONFIG = "synthetic.yaml"
IMAGES, SIZE = 1200, 128
TIMES = "times.json"
STAGES = ("maps", "labels", "evaluation")


def started(cores: int) -> None:
    """Hold this process to its first `cores` cores, and start a Ray with as many CPUs."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    torch.set_num_threads(1)
    ray.init(
        "local",
        num_cpus=cores,
        include_dashboard=False,
        object_store_memory=OBJECT_STORE,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )


def _timed(context: Context, loop: Callable[..., None], *arguments: Any) -> None:
    """A training loop that leaves the seconds from its first step to its last in the stage's folder, those of the clock
    and those of the processor in its process."""
    marks: list[tuple[float, float]] = []

    def on_step() -> None:
        context.on_step()
        marks.append((time.monotonic(), time.process_time()))

    loop(replace(context, on_step=on_step), *arguments)
    spent = [last - first for first, last in zip(marks[0], marks[-1], strict=True)]
    (context.folder / TIMES).write_text(json.dumps(spent), encoding="utf-8")


class Timing:
    """Runs the trainings of another engine with `_timed` around their loops."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def train(self, loop: Callable[..., None], *args: Any, folder: Path) -> None:
        self.engine.train(_timed, loop, *args, folder=folder)

    def map(self, function: Callable[[Item], Output], items: Iterable[Item], *, gpu: bool = False) -> Iterator[Output]:
        return self.engine.map(function, items, gpu=gpu)


def training(folder: Path, epochs: int, engine: Engine) -> tuple[float, float, float]:
    """Seconds of a classifier's steps, the processor's in them, and those of the rest of its stage."""
    changes = {"classifier.epochs": epochs, "data.root": str(folder / "data")}
    store = Store(folder / f"store-{time.monotonic_ns()}")
    made = Pipeline(change_config(load_config(CONFIG), changes), store, Timing(engine)).output("classifier")
    own, processor = json.loads((made / TIMES).read_text(encoding="utf-8"))
    return own, processor, store.manifest(made)["seconds"] - own


def trainings(minutes: float, rounds: int) -> dict[str, Any]:
    """`epochs`, and by engine the times of each round, in a process that has one core and Ray."""
    started(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        engines: dict[str, Callable[[], Engine]] = {
            "LocalEngine": lambda: LocalEngine(1),
            "RayEngine": lambda: RayEngine(1, folder),
        }
        training(folder, 1, LocalEngine(1))  # data are generated, torch is warm
        epochs = max(1, round(60 * minutes / (training(folder, 2, LocalEngine(1))[1] / 2)))
        times: dict[str, Any] = {name: [] for name in engines} | {"epochs": epochs}
        for _ in range(rounds):
            for name, engine in engines.items():
                times[name].append(training(folder, epochs, engine()))
    return times


def _nothing(item: int) -> int:
    import sfc.pipeline  # noqa: F401  # what a stage's shard imports

    time.sleep(1)  # so that each of Ray's processes gets one
    return item


def maps(cores: int, folder: Path) -> dict[str, float]:
    """Seconds of each map stage, in a process that has so many cores and Ray."""
    started(cores)
    changes = {
        "classifier.epochs": 1,
        "segmentation.epochs": 1,
        "segmentation.iterations": 20,
        "data.root": str(folder / "data"),
        "data.synthetic.size": SIZE,
        "data.synthetic.train": IMAGES,
        "data.synthetic.val": IMAGES,
    }
    store = Store(folder / f"store-{cores}-{time.monotonic_ns()}")
    engine = RayEngine(1, folder)
    pipeline = Pipeline(change_config(load_config(CONFIG), changes), store, engine)
    begin = time.monotonic()
    list(engine.map(_nothing, range(2 * cores)))
    start = time.monotonic() - begin
    pipeline.output("evaluation", pipeline.config.data.val)
    return {"start": start} | {stage: store.manifest(pipeline.output(stage))["seconds"] for stage in STAGES}


def child(*words: str) -> dict[str, Any]:
    """What this file prints as JSON, run with some words in a process of its own."""
    done = subprocess.run([sys.executable, __file__, *words], check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def compare_trainings(minutes: float, rounds: int) -> bool:
    """Print what the training cost by each engine; whether the bound is met."""
    times = child("--child", "train", "--minutes", str(minutes), "--rounds", str(rounds))
    print(f"{times.pop('epochs')} epochs, {rounds} in turn")
    medians: dict[str, list[float]] = {}
    for name, runs in times.items():
        texts = (", ".join(f"{value:.1f}" for value in part) for part in zip(*runs, strict=True))
        print("{:12} training {} s, of the processor {} s; start-up {} s".format(name, *texts))
        medians[name] = [statistics.median(part) for part in zip(*runs, strict=True)]
    wall, processor, _ = (b / a for a, b in zip(medians["LocalEngine"], medians["RayEngine"], strict=True))
    print(verdict("time of RayEngine's training over LocalEngine's", wall, 1.05))
    print(verdict("the processor's time of one over the other's", processor, 1.05))
    return processor <= 1.05


def compare_maps(rounds: int) -> bool:
    """Print what one and two cores took for the map stages; whether the bound is met by each."""
    with tempfile.TemporaryDirectory() as name:
        runs: dict[int, list[dict[str, float]]] = {cores: [] for cores in (1, 2)}
        for _ in range(rounds):
            for cores, times in runs.items():
                times.append(child("--child", str(cores), "--folder", name))
    print(f"{IMAGES} images of {SIZE} x {SIZE}, {rounds} in turn")
    met = True
    for stage in ("start", *STAGES):
        one, two = ([run[stage] for run in runs[cores]] for cores in (1, 2))
        seconds = " and ".join(", ".join(f"{value:.1f}" for value in values) for values in (one, two))
        print(f"{stage:12} {seconds} s on one and two cores")
        if stage in STAGES:
            ratio = statistics.median(one) / statistics.median(two)
            print("  " + verdict(f"{stage} on two cores over one", ratio, 1.8, at_most=False))
            met &= ratio >= 1.8
    return met


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5.0, help="of each training")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only", choices=("train", "map"))
    parser.add_argument("--child", choices=("train", "1", "2"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child == "train":
        print(json.dumps(trainings(options.minutes, options.rounds)))
        return 0
    if options.child:
        print(json.dumps(maps(int(options.child), options.folder)))
        return 0
    print(machine())
    met = options.only == "map" or compare_trainings(options.minutes, options.rounds)
    if options.only != "train":
        met &= compare_maps(options.rounds)
    return int(not met)


if __name__ == "__main__":
    sys.exit(main())
