"""Whole configurations through the stages, many at a time, on Ray: what the final and an ablation are made of."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray
import torch

from sfc.config import Config, plugins
from sfc.config.files import change_config
from sfc.errors import Diverged
from sfc.pipeline import Pipeline, Until
from sfc.runtime.engine import Engine, LocalEngine
from sfc.runtime.store import Address, Store, open_store
from tune.cluster.connect import check_nodes, slots
from tune.cluster.ray_engine import RETRIES, ProcessDied, RayEngine, outcome, watched
from tune.space.sections import Objective
from tune.study.objective import measure

Run = dict[str, Any]
"""A configuration's `config` (as JSON, its threshold chosen) and the fields of its `Result`, folders as text; or
`failed`, the reason."""


def run_config(
    config: Config, store: Address, engine: Engine, *, sweep: bool, until: Until, metric: str | None = None
) -> Run:
    """One configuration through the stages.

    Args:
        config: all settings.
        store: address of the store.
        engine: runs the work.
        sweep: choose the background threshold on the masks of the select split, and say so.
        metric: an objective that `Pipeline.run` does not measure: one without masks, or a function of the user's own.
        until: the last stage.
    """
    try:
        pipeline = Pipeline(config, open_store(store), engine)
        if sweep:
            seeds = json.loads((pipeline.seed(config.data.select) / "metrics.json").read_text(encoding="utf-8"))
            chosen = {"pseudo.threshold": seeds["best"]["threshold"], "selected_on": config.data.select}
            pipeline = pipeline.changed(change_config(config, chosen))
        result = pipeline.run(until)
        if metric is not None and metric not in result.metrics:
            if plugins.is_path(metric):
                plugins.allow(metric)  # the driver may import it, or it would not have come here
            measured = measure(pipeline, Objective(metric=metric))
            result.metrics.update(measured.metrics)
            result.supervision.update(measured.supervision)
    except Diverged as error:  # it would only diverge again
        return {"config": config.model_dump(mode="json"), "failed": str(error)}
    found = asdict(result)
    found["folders"] = {name: str(path) for name, path in result.folders.items()}
    found["iou"] = {k: [v if math.isfinite(v) else None for v in iou] for k, iou in result.iou.items()}
    return {"config": pipeline.config.model_dump(mode="json"), **found}


def _task(config: Config, store: Address, cpus: int, arguments: dict[str, Any]) -> Run:
    torch.set_num_threads(cpus)
    return run_config(config, store, LocalEngine(cpus, watched=watched), **arguments)


def brought(run: Run, store: Store) -> Run:
    """A run whose folders are on this machine, wherever it ran."""
    folders = {name: str(store.local(Path(path))) for name, path in run.get("folders", {}).items()}
    return run | {"folders": folders} if folders else run


def run_all(
    configs: Sequence[Config],
    results: Path,
    store: Address,
    *,
    workers: int = 1,
    sweep: bool,
    metric: str | None = None,
    until: Until = "segmentation",
) -> Iterator[tuple[int, Run]]:
    """Many configurations in their order, as many at a time as the cluster holds; what the store has is not done again.

    With one worker each runs in one Ray task, which starts again where a killed one was. With more, each training is
    Ray Train's on so many workers, and the other stages are spread over the cluster.

    Yields:
        Position in `configs` and numbers, as they are done.
    """
    check_nodes([store, *([results] if workers > 1 else [])])
    if metric is not None and plugins.is_path(metric):
        plugins.load(metric)  # refused where the user's command does not name it
    arguments = {"sweep": sweep, "metric": metric, "until": until}
    gpus, here = ray.cluster_resources().get("GPU", 0) > 0, open_store(store)
    at_once = min(len(configs), slots(workers, workers if gpus else 0))
    if workers == 1:
        cpus = 1 if gpus else max(1, int(ray.cluster_resources()["CPU"]) // len(configs))
        task = ray.remote(num_cpus=cpus, num_gpus=int(gpus), max_retries=RETRIES)(_task)
        waiting = {task.remote(config, store, cpus, arguments): i for i, config in enumerate(configs)}
        while waiting:
            [done], _ = ray.wait(list(waiting))
            i = waiting.pop(done)
            try:
                yield i, brought(outcome(done), here)
            except ProcessDied as error:  # a run that failed; the others go on
                yield i, {"config": configs[i].model_dump(mode="json"), "failed": str(error)}
        return
    with ThreadPoolExecutor(at_once) as pool:  # each waits for Ray, which does the work
        futures: dict[Future[Run], int] = {
            pool.submit(run_config, config, store, RayEngine(workers, results, beside=at_once), **arguments): i
            for i, config in enumerate(configs)
        }
        for done in as_completed(futures):
            yield futures[done], brought(done.result(), here)
