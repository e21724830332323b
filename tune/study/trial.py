"""One trial as a Tune function: train a classifier, then search the stages after it on its maps."""

from __future__ import annotations

import json
from collections.abc import Callable
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
from tune.study.objective import at_best_threshold, everything, masks_of_plugin, measure, preview
from tune.study.study import build_sampler

Report = Callable[[int, float], None]
"""Takes the position of a number in `Space.stages`, and its best value so far."""


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


def search_inner(
    pipeline: Pipeline, space: Space, chosen: dict[str, Value], number: int, report: Report
) -> list[dict[str, Any]]:
    """Try settings of the stages after the classifier on one trained classifier. Where the objective is of a later
    stage than the seeds, all are compared by their seeds; the best quarter of them get pseudo-labels, and the best by
    these a segmentation model.

    Args:
        pipeline: of the outer settings.
        space: with its budget of inner trials; without inner parameters there is one, of the settings as they are.
        chosen: the outer settings.
        number: of the outer trial; with the space's random seed it seeds the sampler, so that a trial gives the same
            twice.
        report: called with each number of `Space.stages` before what it decides; it may end the trial.

    Returns:
        In order: `values`; `first`, the number that all were compared by; `value` of the objective, None where a
        cheaper number was too low; and `metrics`, their parts. The first has the published values, and also its `iou`
        and the folder of its `maps`.

    Raises:
        UserError, Diverged: as `measure`.
    """
    objective, sampler = space.file.objective, build_sampler(space.file.sampler, space.file.budget.seed + number)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for point in space.inner_points(chosen):
        study.enqueue_trial(point)
    names = [*space.stages, objective.metric]
    tried: list[dict[str, Any]] = []

    def add(entry: dict[str, Any], metric: str) -> float:
        later = pipeline.changed(space.config({**chosen, **entry["values"]}))
        if metric != names[0] and space.file.sweeps:
            later = at_best_threshold(later)
        result = measure(later, objective.model_copy(update={"metric": metric}))
        entry["metrics"] |= {k: v for k, v in result.metrics.items() if k.startswith(metric)}
        entry["value"] = result.metrics[metric] if metric == objective.metric else None
        if not tried:  # shown beside the best
            entry |= {"iou": result.iou, "maps": maps_of(later)}
        return float(result.metrics[metric])

    for _ in range(space.file.budget.inner if space.inner else 1):
        trial = study.ask()
        values = space.suggest_inner(trial, chosen)
        entry = next((t for t in tried if t["values"] == values), None)
        if entry is None:
            entry = {"values": values, "metrics": {}}
            entry["first"] = add(entry, names[0])
            tried.append(entry)
        study.tell(trial, entry["first"])
    leaders, numbers = tried, [entry["first"] for entry in tried]
    for i in range(len(space.stages)):
        report(i, max(numbers))
        order = sorted(range(len(leaders)), key=lambda n: -numbers[n])
        leaders = [leaders[n] for n in order[: max(1, len(tried) // 4) if i == 0 else 1]]
        numbers = [add(entry, names[i + 1]) for entry in leaders]
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
    rungs, last = space.rungs(config), {"epoch": 0, "reached": "the start", "history": "[]"}

    def rung_of(index: int) -> int:
        return space.file.asha.reduction**index if space.file.asha else 1

    def at_rung(index: int, step: int, value: float) -> None:
        """Report a number by which trials are compared; a trial that is stopped here ends in this call."""
        ray.tune.report({"objective": value, "step": step, "rung": rung_of(index), **last})

    def on_epoch(metrics: dict[str, float], state: dict[str, Any]) -> None:
        epoch = int(metrics["epoch"])
        last.update(epoch=epoch, reached=f"epoch {epoch}", history=json.dumps(state["history"]))
        value = preview(pipeline, objective, state) if epoch in rungs else None
        if value is not None:
            at_rung(rungs.index(epoch), epoch, value)

    def on_stage(index: int, value: float) -> None:
        epochs = config.classifier.epochs
        history = json.dumps(read_history(pipeline.output("classifier")))
        last.update(epoch=epochs, reached=f"its {space.stages[index]}", history=history)
        at_rung(len(rungs) + index, epochs + index, value)

    try:
        engine: Engine = LocalEngine(1, on_epoch, hang_guard)
        if job.workers > 1:
            gpus = job.gpus / job.workers
            engine = RayEngine(job.workers, job.results, beside=job.at_once, gpus=gpus, in_trial=True)
        pipeline = Pipeline(config, open_store(job.store), engine)
        tried = search_inner(pipeline, space, chosen, sample["number"], on_stage)
        report = finished(pipeline, space, chosen, tried)
    except (Diverged, UserError) as error:
        report = {"objective": float("nan"), **last, "failed": str(error)}
    except Exception as error:
        if not plugins.is_path(config.classifier.method):
            raise
        failed = f"the method {config.classifier.method} failed: {plugins.last_line(error)}"
        report = {"objective": float("nan"), **last, "failed": failed}
    ray.tune.report(report | {"rung": rung_of(len(rungs) + len(space.stages))})


def finished(pipeline: Pipeline, space: Space, chosen: dict[str, Value], tried: list[dict[str, Any]]) -> dict[str, Any]:
    """The report of a complete trial: the best of its inner trials, and as JSON all that the study keeps of it."""
    best, objective = max((t for t in tried if t["value"] is not None), key=lambda t: t["value"]), space.file.objective
    settings = {**chosen, **best["values"]}
    later = pipeline.changed(space.config(settings))
    if space.file.sweeps:
        later = at_best_threshold(later)
    result = everything(later, objective)
    if objective.is_plugin:  # no stage's folder has its number
        result.metrics[objective.metric] = best["value"]
        result.supervision[objective.metric] = masks_of_plugin(later)
    attributes = {
        "settings": settings,
        "inner": tried,
        "metrics": result.metrics,
        "supervision": result.supervision,
        "warnings": result.warnings,
        "iou": result.iou,
        "history": read_history(pipeline.output("classifier")),
        "maps": maps_of(later),
    }
    epochs = pipeline.config.classifier.epochs
    return {
        "objective": best["value"],
        "epoch": epochs,
        "complete": True,
        "warnings": "; ".join(result.warnings),
        "attributes": json.dumps(attributes),
    }
