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
import ray.train
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer, get_device

from sfc.errors import Diverged, UserError
from sfc.runtime.engine import Context, Item, Output, Step

log = logging.getLogger("sfc")

REASON = "diverged.txt"
RETRIES = 2
"""Times that a worker's death is answered by a restart from the last checkpoint."""
TIMEOUT = 1800.0
"""Seconds without a step, or for one shard, after which a worker counts as hung and is ended; its retry follows."""
STARTED = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"
"""Environment variable of Ray: how long it waits for the places of all workers before it looks again how many places
there are. Its own 60 s are lost whenever a node is, whose places it counts until its death is known."""
SAID = 30.0
"""Seconds between two words on the progress of shards."""


class ProcessDied(UserError):
    """A task's process died as often as it was tried."""


@contextmanager
def watched(timeout: float = TIMEOUT) -> Iterator[Step]:
    """End this process, with a trace of all its threads in its log, where the function that this gives is not called
    for `timeout` seconds. The timer is outside of Python, so that it also ends a process that hangs in a library."""

    def step() -> None:
        faulthandler.dump_traceback_later(timeout, exit=True, file=sys.__stderr__)

    step()
    try:
        yield step
    finally:
        faulthandler.cancel_dump_traceback_later()


def node() -> str:
    """How messages name this machine."""
    return f"node {ray.util.get_node_ip_address()}"


def _worker(given: dict[str, Any]) -> None:
    """What each worker of Ray Train runs."""
    place, folder = ray.train.get_context(), Path(given["folder"])
    if given["cpus"]:
        torch.set_num_threads(given["cpus"])
    try:
        with watched(given["timeout"]) as step:
            context = Context(
                folder,
                rank=place.get_world_rank(),
                world_size=place.get_world_size(),
                device=get_device(),
                loader_workers=min(8, given["cpus"]) if get_device().type == "cuda" else 0,
                on_step=step,
            )
            given["loop"](context, *given["arguments"])
    except Diverged as error:  # to start again would only diverge again
        (folder / REASON).write_text(str(error), encoding="utf-8")
    except FileNotFoundError as error:
        raise _not_here(error) from error


def _not_here(error: FileNotFoundError) -> UserError:
    return UserError(
        f"{node()}: there is no {error.filename}. Every node needs the data, the results folder and the weights under "
        "the same path (docs/cluster.md)"
    )


def _task(function: Callable[[Item], Output], item: Item, timeout: float) -> Output:
    torch.set_num_threads(1)
    try:
        with watched(timeout):
            return function(item)
    except FileNotFoundError as error:
        raise _not_here(error) from error


class RayEngine:
    """Runs stages on the Ray cluster that this process is connected to.

    A training has `workers` workers while the cluster holds them, and goes on from its last checkpoint with fewer when
    a node is lost: the effective batch is the setting, and their number changes the order of sums alone.

    Args:
        workers: of a training.
        results: folder, seen by every node, for Ray Train's own files.
        beside: runs that share the cluster with this one.
        gpus: of each worker; None: one where the cluster has any.
        in_trial: this process is a trial of Ray Tune's.
        timeout: see TIMEOUT.
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
        there = ray.cluster_resources()
        self.cpus = int(there.get("CPU", 1))
        self.gpus = gpus if gpus is not None else float(there.get("GPU", 0) > 0)
        if workers > (there.get("GPU", 0) / self.gpus if self.gpus else self.cpus):
            raise UserError(f"{workers} workers, but the cluster has {self.cpus} CPUs and {there.get('GPU', 0):g} GPUs")

    def train(self, loop: Callable[..., None], *args: Any, folder: Path) -> None:
        (folder / REASON).unlink(missing_ok=True)
        cpus = 1 if self.gpus else max(1, self.cpus // (self.workers * self.beside))
        given = {"loop": loop, "arguments": args, "folder": str(folder), "cpus": cpus, "timeout": self.timeout}
        # A trial itself holds a hundredth of a CPU: with whole ones the last of a full cluster would wait for ever.
        share = cpus - 0.01 if self.in_trial and cpus == 1 else float(cpus)
        resources = {"CPU": share} | ({"GPU": self.gpus} if self.gpus else {})
        os.environ.setdefault(STARTED, "15")
        trainer = TorchTrainer(
            _worker,
            train_loop_config=given,
            scaling_config=ScalingConfig(
                num_workers=(1, self.workers) if self.workers > 1 else 1,
                use_gpu=bool(self.gpus),
                resources_per_worker=resources,
            ),
            torch_config=TorchConfig(timeout_s=int(self.timeout)),
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
        """As `Engine.map`. Twice as many shards as there are CPUs are under way, so that a large data set's results do
        not fill the memory; a shard whose process or node died is done again."""
        task = ray.remote(
            num_cpus=1,
            num_gpus=self.gpus if gpu else 0,
            max_retries=RETRIES,
            scheduling_strategy="SPREAD",  # also: not in the placement group of a trial that is this process
        )(_task)
        shared, items = ray.put(function), list(items)
        left, window, said = iter(items), 2 * self.cpus, time.monotonic()
        waiting = [task.remote(shared, item, self.timeout) for item in islice(left, window)]
        for number in range(len(items)):
            yield outcome(waiting.pop(0))
            waiting += [task.remote(shared, item, self.timeout) for item in islice(left, 1)]
            if time.monotonic() - said > SAID:
                said = time.monotonic()
                log.info("%d of %d shards", number + 1, len(items))


def outcome(reference: ray.ObjectRef) -> Any:
    """What a task returned.

    Raises:
        UserError: as the task raised it.
        ProcessDied: its process did, in each of its attempts.
    """
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
