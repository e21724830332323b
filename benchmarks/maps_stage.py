"""The map stage on all cores against one: python benchmarks/maps_stage.py [CONFIG] [section.key=value ...]

An untrained classifier of the configuration over the images of its split train, through the stage itself; each round
into a folder of its own, the two in turn.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch
from common import in_turn, machine, verdict

from sfc.config.files import load_config
from sfc.method.build import build_method
from sfc.pipeline import STAGES, Pipeline
from sfc.runtime.engine import LocalEngine
from sfc.runtime.machine import available_cpus
from sfc.runtime.store import Store
from sfc.runtime.training import save
from sfc.stages.spec import Work


def main() -> None:
    config = load_config(sys.argv[1] if len(sys.argv) > 1 else "synthetic.yaml", sys.argv[2:])
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pipeline = Pipeline(config, Store(folder / "store"), None)
        work = Work(folder, config, {"classifier": folder}, pipeline.data, pipeline.train, pipeline.train)
        save(build_method(config.classifier, config.backbone, work.training_set()), [], folder)

        def run(processes: int) -> None:
            with tempfile.TemporaryDirectory(dir=folder) as output:
                to = Work(Path(output), config, work.inputs, work.data, work.split, work.train)
                STAGES["maps"].run(to, LocalEngine(processes))

        cores = available_cpus()
        seconds = in_turn({"one": lambda: run(1), "all": lambda: run(cores)}, rounds=5)
    print(f"{len(pipeline.train)} images, {config.backbone.name}; {machine()}")
    print(f"one core {seconds['one']:.2f} s, {cores} cores {seconds['all']:.2f} s")
    print(verdict("one core over all", seconds["one"] / seconds["all"], 0.9 * cores, at_most=False))


if __name__ == "__main__":
    main()
