"""The engine on Ray: training by Ray Train on any number of workers, shards as Ray tasks on every node."""

from __future__ import annotations

import faulthandler
import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import ray
import torch

from sfc.errors import Diverged, UserError
from sfc.runtime.engine import Context, Item, Output, Step
from tune.cluster.connect import cpus_each

log = logging.getLogger("sfc")

REASON = "diverged.txt"
"""File in a training's folder that says why it diverged."""
RETRIES = 2
"""Restarts after the death of a process, each from the last checkpoint."""
TIMEOUT = 1800.0
"""Seconds without a step, or for one shard, after which a worker counts as hung and is ended; its retry follows."""
START_TIMEOUT = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"
"""Environment variable of Ray: seconds to wait for the resources of all workers. The default of 60 s would delay every
restart after the loss of a node."""
PROGRESS = 30.0
"""Seconds between two progress lines."""


class ProcessDied(UserError):
    """A task's process died in each of its attempts."""


@contextmanager
def hang_guard(timeout: float = TIMEOUT) -> Iterator[Step]:
    """Give a function, and end this process, with a trace of all threads in its log, if the function is not called for
    `timeout` seconds. The timer is outside of Python, so that it also ends a process that hangs in a library."""

    def step() -> None:
        faulthandler.dump_traceback_later(timeout, exit=True, file=sys.__stderr__ or 2)

    step()
    try:
        yield step
    finally:
        faulthandler.cancel_dump_traceback_later()


@contextmanager
def _work(cpus: int, timeout: float) -> Iterator[Step]:
    """Guard the work of a task or worker with so many threads, as `hang_guard`; a file that this node lacks is a
    UserError."""
    torch.set_num_threads(cpus)
    try:
        with hang_guard(timeout) as step:
            yield step
    except FileNotFoundError as error:
        raise UserError(
            f"node {ray.util.get_node_ip_address()}: there is no {error.filename}. Every node needs the data, the "
            "results folder and the weights under the same path (docs/cluster.md)"
        ) from error


def _train(loop: Callable[..., None], arguments: tuple[Any, ...], folder: Path, cpus: int, timeout: float) -> None:
    """Run a training loop in a worker of Ray Train. A divergence ends it as if it were done, with its reason in a file,
    since a retry would diverge again."""
    import ray.train.torch

    worker, device = ray.train.get_context(), ray.train.torch.get_device()
    try:
        with _work(cpus, timeout) as step:
            context = Context(
                folder,
                rank=worker.get_world_rank(),
                world_size=worker.get_world_size(),
                device=device,
                loader_workers=min(8, cpus) if device.type == "cuda" else 0,
                on_step=step,
            )
            loop(context, *arguments)
    except Diverged as error:
        (folder / REASON).write_text(str(error), encoding="utf-8")


def _task(function: Callable[[Item], Output], item: Item, timeout: float) -> Output:
    with _work(1, timeout):
        return function(item)


class RayEngine:
    """Runs stages on the Ray cluster that this process is connected to.

    A training has `workers` workers while the cluster holds them, and goes on from its last checkpoint with fewer when
    a node is lost: the effective batch is the setting, and the number of workers changes the order of sums alone.

    Args:
        workers: of a training.
        results: folder, seen by every node, for Ray Train's own files.
        beside: runs that share the cluster with this one.
        gpus: of each worker; None: one if the cluster has any.
        in_trial: this process is a trial of Ray Tune's.
        timeout: see TIMEOUT.

    Raises:
        UserError: the cluster does not hold the workers.
    """

    def __init__(
        self,
        workers: int,
        results: Path,
        *,
        beside: int = 1,
        gpus: float | None = None,
        in_trial: bool = False,
        timeout: float = TIMEOUT,
    ) -> None:
        self.workers, self.results, self.beside = workers, results.absolute(), beside
        self.in_trial, self.timeout = in_trial, timeout
        total = ray.cluster_resources()
        self.cpus = int(total.get("CPU", 1))
        self.gpus = gpus if gpus is not None else float(total.get("GPU", 0) > 0)
        if workers > (total.get("GPU", 0) / self.gpus if self.gpus else self.cpus):
            raise UserError(f"{workers} workers, but the cluster has {self.cpus} CPUs and {total.get('GPU', 0):g} GPUs")

    def train(self, loop: Callable[..., None], *args: Any, folder: Path) -> None:
        from ray.train import FailureConfig, RunConfig, ScalingConfig  # late: seconds, which a trial need not wait
        from ray.train.torch import TorchConfig, TorchTrainer

        (folder / REASON).unlink(missing_ok=True)
        cpus = 1 if self.gpus else cpus_each(self.workers * self.beside)
        # A trial itself holds a hundredth of a CPU: with whole ones the last of a full cluster would wait for ever.
        share = cpus - 0.01 if self.in_trial and cpus == 1 else float(cpus)
        resources = {"CPU": share} | ({"GPU": self.gpus} if self.gpus else {})
        os.environ.setdefault(START_TIMEOUT, "15")
        timeout = self.timeout  # the workers get the values alone, not this object
        trainer = TorchTrainer(
            lambda: _train(loop, args, folder, cpus, timeout),
            scaling_config=ScalingConfig(
                num_workers=(1, self.workers) if self.workers > 1 else 1,  # type: ignore[arg-type]  # elastic
                use_gpu=bool(self.gpus),
                resources_per_worker=resources,
            ),
            torch_config=TorchConfig(timeout_s=int(timeout)),
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
        """As `Engine.map`. At most two shards a CPU run or wait in Ray, so that results do not fill the memory; a shard
        whose process or node died is done again."""
        task: Any = ray.remote(
            num_cpus=1,
            num_gpus=self.gpus if gpu else 0,
            max_retries=RETRIES,
            scheduling_strategy="SPREAD",  # also: not in the placement group of a trial that is this process
        )(_task)
        shared, items = ray.put(function), list(items)
        left, printed = iter(items), time.monotonic()
        waiting = [task.remote(shared, item, self.timeout) for item in islice(left, 2 * self.cpus)]
        for number in range(1, len(items) + 1):
            yield outcome(waiting.pop(0))
            waiting += [task.remote(shared, item, self.timeout) for item in islice(left, 1)]
            if time.monotonic() - printed > PROGRESS:
                printed = time.monotonic()
                log.info("%d of %d shards", number, len(items))


def outcome(reference: ray.ObjectRef[Any]) -> Any:
    """The result of a task; raises the task's UserError, or ProcessDied."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise error.cause from None
        raise
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError) as error:
        raise ProcessDied(
            f"a process died {RETRIES + 1} times on the same work: {str(error).splitlines()[0]} Its log is under Ray's "
            "session folder (docs/cluster.md); what is finished stays"
        ) from error
