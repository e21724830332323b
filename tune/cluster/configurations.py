"""Whole configurations through the stages, many at a time, on Ray: the work of the final and of an ablation."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ray
import torch

from sfc.config import Config, plugins
from sfc.errors import Diverged, UserError
from sfc.pipeline import NotDone, Pipeline, Until
from sfc.results import Result
from sfc.runtime.engine import Engine, LocalEngine
from sfc.runtime.store import Store
from sfc.runtime.stores import StoreAddress, open_store
from tune.cluster.connect import check_nodes, connect, cpus_each, slots
from tune.cluster.ray_engine import RETRIES, ProcessDied, RayEngine, hang_guard, outcome
from tune.options import ClusterOptions
from tune.space.sections import Objective
from tune.study.objective import at_best_threshold, measure

log = logging.getLogger("sfc")

Run = dict[str, Any]
"""A configuration's `config` (as JSON, its threshold chosen) and the fields of its `Result`, folders as text; or
`failed`, the reason."""


@dataclass(frozen=True)
class Goal:
    """How far configurations go, and how."""

    sweep: bool
    """Choose the background threshold on the masks of the select split, and record that."""
    metric: str | None = None
    """An objective to measure beside what a run measures: one without masks, or a function of the user's own."""
    until: Until | None = "segmentation"
    """The last stage; None: only the metric is measured."""


Work = tuple[Config, Goal]
"""A configuration, and how far it goes."""


def run_config(config: Config, store: StoreAddress, engine: Engine, goal: Goal) -> Run:
    """Take one configuration through the stages; divergence and death of a process are results."""
    return _run(Pipeline(config, open_store(store), engine), goal)


def _run(pipeline: Pipeline, goal: Goal) -> Run:
    """As `run_config`; of a pipeline without an engine everything is in the store, or this raises NotDone."""
    config = pipeline.config
    try:
        if goal.sweep and config.pseudo.method != "masks":
            pipeline = at_best_threshold(pipeline)
        result = pipeline.run(goal.until) if goal.until else Result(label_source=pipeline.data.label_source)
        if goal.metric is not None and goal.metric not in result.metrics:
            if plugins.is_path(goal.metric):
                plugins.allow(goal.metric)  # the driver may import it, or it would not have come here
            try:
                measured = measure(pipeline, Objective(metric=goal.metric))
                result.metrics.update(measured.metrics)
                result.supervision.update(measured.supervision)
            except UserError as error:  # a reference may be of another method, without what the objective looks at
                if goal.until is None or isinstance(error, ProcessDied):
                    raise
                result.warnings.append(str(error))
    except (Diverged, ProcessDied) as error:  # another attempt would end the same
        return failure(config, error)
    numbers = asdict(result)
    numbers["folders"] = {name: str(path) for name, path in result.folders.items()}
    numbers["iou"] = {k: [v if math.isfinite(v) else None for v in iou] for k, iou in result.iou.items()}
    return {"config": pipeline.config.model_dump(mode="json"), **numbers}


def failure(config: Config, error: Exception) -> Run:
    """The run of a configuration that gave no numbers."""
    return {"config": config.model_dump(mode="json"), "failed": str(error)}


def _task(config: Config, store: StoreAddress, cpus: int, goal: Goal) -> Run:
    torch.set_num_threads(cpus)
    return run_config(config, store, LocalEngine(cpus, watched=hang_guard), goal)


def with_local_folders(run: Run, store: Store) -> Run:
    """A run with the paths that its folders have on this machine."""
    folders = {name: str(store.local(Path(path))) for name, path in run.get("folders", {}).items()}
    return run | {"folders": folders} if folders else run


def run_all(work: Sequence[Work], cluster: ClusterOptions) -> Iterator[tuple[int, Run]]:
    """Take many configurations through the stages in their order, as many at a time as the cluster holds; first come
    those that are in the store. Ray is connected to if there are others.

    With one worker each runs in one Ray task, which starts again where a process was killed. With more, each training
    is Ray Train's on so many workers, and the other stages are spread over the cluster.

    Yields:
        Position in `work` and numbers, as they are done.
    """
    for metric in {goal.metric for _, goal in work if goal.metric and plugins.is_path(goal.metric)}:
        plugins.load(metric)  # refused where the user's command does not name it
    left: dict[int, Work] = {}
    store, opened = open_store(cluster.store), None
    for i, (config, goal) in enumerate(work):
        if opened is None or opened.config.data != config.data:
            opened = Pipeline(config, store, None)
        if (run := _stored(opened.changed(config), goal)) is None:
            left[i] = config, goal
        else:
            yield i, run
    if left:
        yield from _run_left(left, cluster)


def _stored(pipeline: Pipeline, goal: Goal) -> Run | None:
    """The run of a pipeline all of whose outputs the store has, else None."""
    level = log.level
    log.setLevel(logging.WARNING)  # not a line for every output that is there
    try:
        return _run(pipeline, goal)
    except NotDone:
        return None
    finally:
        log.setLevel(level)


def _run_left(work: dict[int, Work], cluster: ClusterOptions) -> Iterator[tuple[int, Run]]:
    """As `run_all`, of what is not done, by position."""
    connect(cluster.address)
    store = open_store(cluster.store)
    check_nodes([cluster.store, *([cluster.results] if cluster.workers > 1 else [])])
    gpus = ray.cluster_resources().get("GPU", 0) > 0
    at_once = min(len(work), slots(cluster.workers, cluster.workers if gpus else 0))
    if cluster.workers == 1:
        cpus = 1 if gpus else cpus_each(len(work))
        task = ray.remote(num_cpus=cpus, num_gpus=int(gpus), max_retries=RETRIES)(_task)
        waiting = {task.remote(config, cluster.store, cpus, goal): i for i, (config, goal) in work.items()}
        while waiting:
            [done], _ = ray.wait(list(waiting))
            i = waiting.pop(done)
            try:
                yield i, with_local_folders(outcome(done), store)
            except ProcessDied as error:  # the others go on
                yield i, failure(work[i][0], error)
        return
    engine = RayEngine(cluster.workers, cluster.results, beside=at_once)
    with ThreadPoolExecutor(at_once) as pool:  # each thread waits for Ray, which does the work
        futures = {
            pool.submit(run_config, config, cluster.store, engine, goal): i for i, (config, goal) in work.items()
        }
        for done in as_completed(futures):
            yield futures[done], with_local_folders(done.result(), store)
