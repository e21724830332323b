"""The engine on Ray: training by Ray Train on any number of workers, shards as Ray tasks."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer, get_device

from sfc.engine import Context, Item, Output
from sfc.errors import Diverged, UserError

REASON = "diverged.txt"
RETRIES = 2
"""Times that a worker's death is answered by a restart from the last checkpoint."""


def _worker(given: dict[str, Any]) -> None:
    """What each worker of Ray Train runs."""
    place, folder = ray.train.get_context(), Path(given["folder"])
    if given["cpus"]:
        torch.set_num_threads(given["cpus"])
    context = Context(
        folder,
        rank=place.get_world_rank(),
        world_size=place.get_world_size(),
        device=get_device(),
        loader_workers=min(8, given["cpus"]) if get_device().type == "cuda" else 0,
        on_report=lambda metrics, _: ray.train.report(metrics),
    )
    try:
        given["loop"](context, *given["arguments"])
    except Diverged as error:  # to start again would only diverge again
        (folder / REASON).write_text(str(error), encoding="utf-8")


def _task(function: Callable[[Item], Output], item: Item, threads: int) -> Output:
    torch.set_num_threads(threads)
    return function(item)


class RayEngine:
    """Runs stages on the Ray cluster that this process is connected to.

    Args:
        workers: of a training; the effective batch is the setting, whatever their number.
        results: folder, seen by every node, for Ray Train's own files.
        beside: runs that share the cluster's CPUs with this one.
    """

    def __init__(self, workers: int, results: Path, beside: int = 1) -> None:
        self.workers, self.results, self.beside = workers, results.absolute(), beside

    def _resources(self) -> tuple[int, int]:
        """CPUs and GPUs of the cluster."""
        there = ray.cluster_resources()
        return int(there.get("CPU", 1)), int(there.get("GPU", 0))

    def train(self, loop: Callable[..., None], *args: Any, folder: Path) -> None:
        (folder / REASON).unlink(missing_ok=True)
        all_cpus, gpus = self._resources()
        if self.workers > (gpus or all_cpus):
            raise UserError(f"{self.workers} workers, but the cluster has {all_cpus} CPUs and {gpus} GPUs")
        cpus = 1 if gpus else max(1, all_cpus // (self.workers * self.beside))
        trainer = TorchTrainer(
            _worker,
            train_loop_config={"loop": loop, "arguments": args, "folder": str(folder), "cpus": cpus},
            scaling_config=ScalingConfig(
                num_workers=self.workers, use_gpu=bool(gpus), resources_per_worker={"CPU": cpus}
            ),
            run_config=RunConfig(
                # Our checkpoints lie in the stage's folder, so a run of Ray Train is never resumed by its name.
                name=f"{folder.parent.name}-{folder.stem}-{os.getpid()}-{time.time_ns()}",
                storage_path=str(self.results / "ray"),
                failure_config=FailureConfig(max_failures=RETRIES),
            ),
        )
        trainer.fit()
        if (folder / REASON).is_file():
            raise Diverged((folder / REASON).read_text(encoding="utf-8"))

    def map(self, function: Callable[[Item], Output], items: Iterable[Item], *, gpu: bool = False) -> Iterator[Output]:
        use_gpu = gpu and self._resources()[1] > 0
        task = ray.remote(num_cpus=1, num_gpus=1 if use_gpu else 0)(_task)
        shared = ray.put(function)
        waiting = [task.remote(shared, item, 1) for item in items]
        for reference in waiting:
            yield ray.get(reference)
