"""One trial as a Tune function: train a classifier, then search the stages after it on its maps."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import ray.tune
import torch

from sfc.errors import Diverged
from sfc.pipeline import Pipeline, Result
from sfc.runtime.engine import Engine, LocalEngine
from sfc.runtime.stores import StoreAddress, open_store
from sfc.runtime.training import WEIGHTS
from sfc.stages import maps as cam
from sfc.stages import proxies as proxy
from sfc.stages import seeds as seed
from tune.cluster.ray_engine import RayEngine, hang_guard
from tune.space.parameter import Value
from tune.space.space_file import Objective, Space
from tune.study.sampler import make_sampler

PREVIEW_IMAGES = 100


@dataclass(frozen=True)
class Job:
    """What all trials of a search share."""

    space: Space
    results: Path
    """Folder for Ray Train's own files, seen by every node."""
    store: StoreAddress
    workers: int = 1
    """Of each training: 1 trains in the trial's own process, more are Ray Train's."""
    gpus: float = 0.0
    """Of each trial."""
    at_once: int = 1
    """Trials that run at the same time."""


def collect(pipeline: Pipeline, result: Result, what: str) -> None:
    """Add the numbers of a stage, `seed`, `pseudo` or `proxy`, to a result.

    Raises:
        UserError: it needs masks, and its split has none.
    """
    splits = pipeline.config.data
    if what == "seed":
        pipeline.collect(result, what, pipeline.seed(splits.select), splits.select)
    elif what == "pseudo":
        pipeline.collect(result, what, pipeline.pseudo(), splits.train)
    else:
        pipeline.collect(result, what, pipeline.proxy(splits.select), splits.select)


def everything(pipeline: Pipeline, objective: Objective) -> Result:
    """All numbers that are worth having of one complete trial: the objective's, seeds where there are masks, and the
    objectives that need none, so that it can be seen which of them to trust."""
    result = Result(label_source=pipeline.data.label_source)
    if pipeline.split(pipeline.config.data.select).has_masks:
        collect(pipeline, result, "seed")
    if objective.metric.startswith("pseudo/"):
        collect(pipeline, result, "pseudo")
    collect(pipeline, result, "proxy")
    return result


def search_inner(pipeline: Pipeline, space: Space, chosen: dict[str, Value], number: int) -> list[dict[str, Any]]:
    """Try settings of the stages after the classifier on one trained classifier; nothing is trained.

    Args:
        pipeline: of the outer settings.
        space: with its budget of inner trials; without inner parameters there is one, of the settings as they are.
        chosen: the outer settings.
        number: of the outer trial; with the space's seed it seeds the sampler, so that a trial gives the same twice.

    Returns:
        In order: `values`, `value` of the objective, and `metrics`, the objective's parts. The first has the published
        values, and also its `iou` and the folder of its `maps`.
    """
    objective = space.file.objective
    study = optuna.create_study(direction="maximize", sampler=make_sampler(space.file.budget.seed + number))
    for point in space.inner_points(chosen):
        study.enqueue_trial(point)
    tried: list[dict[str, Any]] = []
    for _ in range(space.file.budget.inner if space.inner else 1):
        trial = study.ask()
        values = space.suggest_inner(trial, chosen)
        known = next((t for t in tried if t["values"] == values), None)
        if known is None:
            result = Result()
            later = pipeline.changed(space.config({**chosen, **values}))
            collect(later, result, objective.metric.split("/")[0])
            metrics = {k: v for k, v in result.metrics.items() if k.startswith(objective.metric)}
            known = {"values": values, "value": result.metrics[objective.metric], "metrics": metrics}
            if not tried:  # shown beside the best
                known |= {"iou": result.iou, "maps": str(later.cam(later.config.data.select))}
            tried.append(known)
        study.tell(trial, known["value"])
    return tried


def preview(pipeline: Pipeline, objective: Objective, state: dict[str, Any]) -> float:
    """The objective of a network in training, from maps at one scale of a few images: what early stopping compares.
    In the place of pseudo-labels it looks at seeds."""
    config, split = pipeline.config, pipeline.split(pipeline.config.data.select)
    if objective.needs_masks and not split.has_masks:
        split = pipeline.train
    few = split.first(PREVIEW_IMAGES)
    section = config.cam.model_copy(update={"scales": (1.0,), "mirror": False})
    with tempfile.TemporaryDirectory() as name:
        network, maps, out = (Path(name, part) for part in ("network", "maps", "out"))
        for folder in (network, maps, out):
            folder.mkdir()
        weights = {k.removeprefix("net."): v for k, v in state["model"].items() if k.startswith("net.")}
        torch.save(weights, network / WEIGHTS)
        engine = LocalEngine(1)
        shared: dict[str, Any] = {"backbone": config.backbone, "data": pipeline.data, "split": few}
        cam.run(maps, engine, section=section, classifier=network, **shared)
        if not objective.needs_masks:
            proxy.run(out, engine, section=config.pseudo, cam=section, classifier=network, maps=maps, **shared)
            return json.loads((out / "metrics.json").read_text(encoding="utf-8"))[objective.metric.split("/")[1]]
        counts = pipeline.train.labels.sum(0)
        seed.run(out, engine, section=config.pseudo, maps=maps, data=pipeline.data, split=few, counts=counts)
        return json.loads((out / "metrics.json").read_text(encoding="utf-8"))["best"]["miou"]


def run_trial(given: dict[str, Any], *, job: Job) -> None:
    """The Tune function. Reports at each rung, and at the end with `complete`; a divergence is reported, not raised.

    Args:
        given: the trial's `number` and its `changes` (JSON).
        job: the rest.
    """
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space, chosen = job.space, json.loads(given["changes"])
    config = space.config(chosen)
    rungs = space.rungs(config)
    last = {"epoch": 0}

    def on_epoch(metrics: dict[str, float], state: dict[str, Any]) -> None:
        last["epoch"] = int(metrics["epoch"])
        if last["epoch"] in rungs:
            value = preview(pipeline, space.file.objective, state)
            ray.tune.report({"objective": value, "epoch": last["epoch"], "history": json.dumps(state["history"])})

    try:
        if job.workers == 1:
            engine: Engine = LocalEngine(1, on_epoch, hang_guard)
        else:
            gpus = job.gpus / job.workers
            engine = RayEngine(job.workers, job.results, beside=job.at_once, gpus=gpus, in_trial=True)
        pipeline = Pipeline(config, open_store(job.store), engine)
        tried = search_inner(pipeline, space, chosen, given["number"])
        report = finished(pipeline, space, chosen, tried)
    except Diverged as error:
        report = {"objective": float("nan"), "epoch": last["epoch"], "failed": str(error)}
    ray.tune.report(report)


def finished(pipeline: Pipeline, space: Space, chosen: dict[str, Value], tried: list[dict[str, Any]]) -> dict[str, Any]:
    """What a complete trial tells Tune: the best of its inner trials, and all that the study keeps of it, as JSON."""
    best = max(tried, key=lambda t: t["value"])
    settings = {**chosen, **best["values"]}
    chosen_pipeline = pipeline.changed(space.config(settings))
    result = everything(chosen_pipeline, space.file.objective)
    found = {
        "settings": settings,
        "inner": tried,
        "metrics": result.metrics,
        "supervision": result.supervision,
        "iou": result.iou,
        "history": json.loads((pipeline.classifier() / "history.json").read_text(encoding="utf-8")),
        "maps": str(chosen_pipeline.cam(pipeline.config.data.select)),
    }
    epochs = pipeline.config.classifier.epochs
    return {"objective": best["value"], "epoch": epochs, "complete": True, "found": json.dumps(found)}
