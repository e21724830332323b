"""One trial as a Tune function: train a classifier, then search the stages after it on its maps."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import ray.tune
import torch

from sfc.config import plugins
from sfc.config.files import allow_named
from sfc.errors import Diverged, UserError
from sfc.pipeline import Pipeline
from sfc.runtime.engine import Engine, LocalEngine
from sfc.runtime.stores import StoreAddress, open_store
from sfc.runtime.training import read_history
from tune.cluster.ray_engine import RayEngine, hang_guard
from tune.space.parameter import Value
from tune.space.space_file import Space
from tune.study.objective import everything, masks_of_plugin, measure, preview
from tune.study.study import tpe


@dataclass(frozen=True)
class Job:
    """What all trials of a search share."""

    space: Space
    results: Path
    """Folder for Ray Train's own files, seen by every node."""
    store: StoreAddress
    workers: int = 1
    """Workers of each training: 1 trains in the trial's own process, more are Ray Train's."""
    gpus: float = 0.0
    """GPUs of each trial."""
    at_once: int = 1
    """Trials that run at the same time."""


def search_inner(pipeline: Pipeline, space: Space, chosen: dict[str, Value], number: int) -> list[dict[str, Any]]:
    """Try settings of the stages after the classifier on one trained classifier; nothing is trained.

    Args:
        pipeline: of the outer settings.
        space: with its budget of inner trials; without inner parameters there is one, of the settings as they are.
        chosen: the outer settings.
        number: of the outer trial; with the space's random seed it seeds the sampler, so that a trial gives the same
            twice.

    Returns:
        In order: `values`, `value` of the objective, and `metrics`, the objective's parts. The first has the published
        values, and also its `iou` and the folder of its `maps`.

    Raises:
        UserError, Diverged: as `measure`.
    """
    objective = space.file.objective
    study = optuna.create_study(direction="maximize", sampler=tpe(space.file.budget.seed + number))
    for point in space.inner_points(chosen):
        study.enqueue_trial(point)
    tried: list[dict[str, Any]] = []
    for _ in range(space.file.budget.inner if space.inner else 1):
        trial = study.ask()
        values = space.suggest_inner(trial, chosen)
        entry = next((t for t in tried if t["values"] == values), None)
        if entry is None:
            later = pipeline.changed(space.config({**chosen, **values}))
            result = measure(later, objective)
            metrics = {k: v for k, v in result.metrics.items() if k.startswith(objective.metric)}
            entry = {"values": values, "value": result.metrics[objective.metric], "metrics": metrics}
            if not tried:  # shown beside the best
                entry |= {"iou": result.iou, "maps": maps_of(later)}
            tried.append(entry)
        study.tell(trial, entry["value"])
    return tried


def maps_of(pipeline: Pipeline) -> str:
    """Folder of the maps of the select split."""
    return str(pipeline.output("maps", pipeline.config.data.select))


def run_trial(sample: dict[str, Any], *, job: Job) -> None:
    """The Tune function. Reports at each rung, and at the end with `complete`; a divergence and an error that a user
    can mend are reported, not raised.

    Args:
        sample: the trial's `number` and its `changes` (JSON).
        job: what it shares with the others.
    """
    torch.set_num_threads(1)
    space, chosen, objective = job.space, json.loads(sample["changes"]), job.space.file.objective
    allow_named(space.file.model_dump(mode="json"))  # the space file of the user's own command names it
    config = space.config(chosen)
    epoch = 0

    def on_epoch(metrics: dict[str, float], state: dict[str, Any]) -> None:
        nonlocal epoch
        epoch = int(metrics["epoch"])
        value = preview(pipeline, objective, state) if epoch in space.rungs(config) else None
        if value is not None:
            ray.tune.report({"objective": value, "epoch": epoch, "history": json.dumps(state["history"])})

    try:
        engine: Engine = LocalEngine(1, on_epoch, hang_guard)
        if job.workers > 1:
            gpus = job.gpus / job.workers
            engine = RayEngine(job.workers, job.results, beside=job.at_once, gpus=gpus, in_trial=True)
        pipeline = Pipeline(config, open_store(job.store), engine)
        report = finished(pipeline, space, chosen, search_inner(pipeline, space, chosen, sample["number"]))
    except (Diverged, UserError) as error:
        report = {"objective": float("nan"), "epoch": epoch, "failed": str(error)}
    except Exception as error:
        if not plugins.is_path(config.classifier.method):
            raise
        failed = f"the method {config.classifier.method} failed: {plugins.last_line(error)}"
        report = {"objective": float("nan"), "epoch": epoch, "failed": failed}
    ray.tune.report(report)


def finished(pipeline: Pipeline, space: Space, chosen: dict[str, Value], tried: list[dict[str, Any]]) -> dict[str, Any]:
    """The report of a complete trial: the best of its inner trials, and as JSON all that the study keeps of it."""
    best, objective = max(tried, key=lambda t: t["value"]), space.file.objective
    settings = {**chosen, **best["values"]}
    later = pipeline.changed(space.config(settings))
    result = everything(later, objective)
    if objective.is_plugin:  # no stage's folder has its number
        result.metrics[objective.metric] = best["value"]
        result.supervision[objective.metric] = masks_of_plugin(later)
    attributes = {
        "settings": settings,
        "inner": tried,
        "metrics": result.metrics,
        "supervision": result.supervision,
        "iou": result.iou,
        "history": read_history(pipeline.output("classifier")),
        "maps": maps_of(later),
    }
    epochs = pipeline.config.classifier.epochs
    return {"objective": best["value"], "epoch": epochs, "complete": True, "attributes": json.dumps(attributes)}
