"""One trial as a Tune function: a configuration through the stages that its objective needs."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray.tune
import torch

from sfc.engine import LocalEngine
from sfc.errors import Diverged
from sfc.fit import WEIGHTS
from sfc.pipeline import Pipeline, Result
from sfc.stages import cam, seed
from sfc.store import Store
from tune.space import Space

PREVIEW_IMAGES = 100


@dataclass(frozen=True)
class Job:
    """What all trials of a search share."""

    space: Space
    store: Path
    cpus: int = 1


def objective_of(pipeline: Pipeline, metric: str) -> Result:
    """Run what the objective needs, and no more.

    Raises:
        UserError: the split that the objective names has no masks.
    """
    result = Result(label_source=pipeline.data.label_source)
    select = pipeline.config.data.select
    pipeline.collect(result, "seed", pipeline.seed(select), select)
    if metric.startswith("pseudo/"):
        pipeline.collect(result, "pseudo", pipeline.pseudo(), pipeline.config.data.train)
    return result


def preview(pipeline: Pipeline, state: dict[str, Any]) -> float:
    """Seed mIoU of a network in training, from maps at one scale of a few images: what early stopping compares."""
    config, split = pipeline.config, pipeline.split(pipeline.config.data.select)
    few = type(split)(
        split.name,
        split.ids[:PREVIEW_IMAGES],
        split.labels[:PREVIEW_IMAGES],
        split.fingerprint,
        split.has_masks,
    )
    section = config.cam.model_copy(update={"scales": (1.0,), "mirror": False})
    with tempfile.TemporaryDirectory() as name:
        network, maps, out = (Path(name, part) for part in ("network", "maps", "out"))
        for folder in (network, maps, out):
            folder.mkdir()
        weights = {k.removeprefix("net."): v for k, v in state["model"].items() if k.startswith("net.")}
        torch.save(weights, network / WEIGHTS)
        engine = LocalEngine(1)
        cam.run(
            maps,
            engine,
            section=section,
            backbone=config.backbone,
            classifier=network,
            data=pipeline.data,
            split=few,
        )
        seed.run(
            out,
            engine,
            section=config.pseudo,
            maps=maps,
            data=pipeline.data,
            split=few,
            counts=pipeline.train.labels.sum(0),
        )
        return json.loads((out / "metrics.json").read_text(encoding="utf-8"))["best"]["miou"]


def run_trial(given: dict[str, Any], *, job: Job) -> None:
    """The Tune function. Reports at each rung, and at the end with `complete`; a divergence is reported, not raised.

    Args:
        given: the trial's `number` and its `changes` (JSON).
        job: the rest.
    """
    torch.set_num_threads(job.cpus)
    config = job.space.config(json.loads(given["changes"]))
    epochs = config.classifier.epochs
    rungs = job.space.file.asha.rungs(epochs) if job.space.file.asha else []
    last = {"epoch": 0}

    def on_epoch(metrics: dict[str, float], state: dict[str, Any]) -> None:
        last["epoch"] = int(metrics["epoch"])
        if last["epoch"] in rungs:
            history = json.dumps(state["history"])
            ray.tune.report({"objective": preview(pipeline, state), "epoch": last["epoch"], "history": history})

    pipeline = Pipeline(config, Store(job.store), LocalEngine(job.cpus, on_epoch))
    try:
        result = objective_of(pipeline, job.space.file.objective.metric)
    except Diverged as error:
        ray.tune.report({"objective": float("nan"), "epoch": last["epoch"], "failed": str(error)})
        return
    ray.tune.report(
        {
            "objective": result.metrics[job.space.file.objective.metric],
            "epoch": epochs,
            "complete": True,
            "metrics": json.dumps(result.metrics),
            "iou": json.dumps(result.iou),
            "history": (pipeline.classifier() / "history.json").read_text(encoding="utf-8"),
            "maps": str(pipeline.cam(config.data.select)),
        }
    )
