"""Two workers against one: python benchmarks/workers.py [CONFIG]. The same seed and effective batch.

One worker trains in this process, two by Ray Train; each ends with the seed mIoU of its own network. One worker runs
twice: with whole batches, and in pieces as large as a worker's share of two. The last bits of a sum depend on how it is
split, and a training from scratch makes them grow, so the first shows how far that alone carries.
"""

import sys
import tempfile
from pathlib import Path

import ray
import torch
from common import machine, verdict

from sfc.config import Config
from sfc.config.files import absolute, change_config, load_config
from sfc.pipeline import Pipeline
from sfc.runtime.engine import Engine, LocalEngine
from sfc.runtime.store import Store
from tune.cluster.connect import OBJECT_STORE
from tune.cluster.ray_engine import RayEngine

METRICS = ("seed/best_miou", "seed_val/miou")


def main() -> None:
    torch.set_num_threads(1)
    print(machine())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = absolute(load_config(sys.argv[1] if len(sys.argv) > 1 else "synthetic.yaml"))
        ray.init("local", num_cpus=2, include_dashboard=False, object_store_memory=OBJECT_STORE, log_to_driver=False)
        share = -(-(config.classifier.batch + config.classifier.bank_images) // 2)
        pieces = change_config(config, {"classifier.micro_batch": share})
        runs: dict[str, tuple[Config, Engine]] = {
            "one worker": (config, LocalEngine(1)),
            "one worker in two pieces": (pieces, LocalEngine(1)),
            "two workers": (config, RayEngine(2, folder)),
        }
        metrics = {}
        for what, (settings, engine) in runs.items():
            pipeline = Pipeline(settings, Store(folder / what), engine)
            metrics[what] = pipeline.run("seed").metrics
            seconds = pipeline.store.manifest(pipeline.output("classifier"))["seconds"]
            shown = ", ".join(f"{k} {100 * metrics[what][k]:.2f}" for k in METRICS)
            print(f"{what}: {shown}; training {seconds:.1f} s with start-up", flush=True)
        for metric in METRICS:
            whole, split, two = (100 * numbers[metric] for numbers in metrics.values())
            print(f"{metric}: whole batches against pieces, points apart: {abs(whole - split):.2f}")
            print(verdict(f"{metric}: pieces against two workers, points apart", abs(split - two), 0.3))


if __name__ == "__main__":
    main()
