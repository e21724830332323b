"""The number by which a trial is judged: measured on its pipeline, and previewed while its classifier trains."""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path
from typing import Any

import torch

from sfc.config import plugins
from sfc.data import Split
from sfc.errors import Diverged, UserError
from sfc.pipeline import Pipeline, Result, Supervision, supervision
from sfc.runtime.engine import LocalEngine
from sfc.runtime.training import WEIGHTS
from sfc.scoring.names import prefix_of, split_of
from sfc.stages import maps, proxies, seeds
from tune.space.sections import Objective

PREVIEW_IMAGES = 100


def collect(pipeline: Pipeline, result: Result, prefix: str) -> None:
    """Add the numbers under a prefix, `seed`, `pseudo` or `proxy`, to a result.

    Raises:
        UserError: they need masks, and their split has none.
    """
    split = split_of(prefix, pipeline.config.data)
    stages = {"seed": pipeline.seed, "pseudo": lambda _: pipeline.pseudo(), "proxy": pipeline.proxy}
    pipeline.collect(result, prefix, stages[prefix](split), split)


def measure(pipeline: Pipeline, objective: Objective) -> Result:
    """Run what an objective needs. Returns the objective's number under the name of its metric, and the others of the
    same stage.

    Raises:
        UserError: as `collect`, or a function of the user's own failed.
        Diverged: a training did, or a function of the user's own returned no finite number.
    """
    result = Result(label_source=pipeline.data.label_source)
    metric = objective.metric
    if not objective.is_plugin:
        collect(pipeline, result, prefix_of(metric))
        return result
    try:
        value = float(plugins.load(metric)(pipeline))
    except (UserError, Diverged):
        raise
    except Exception as error:
        raise UserError(f"the objective {metric} failed: {plugins.last_line(error)}") from error
    if not math.isfinite(value):
        raise Diverged(f"the objective {metric} is {value}")
    result.metrics[metric], result.supervision[metric] = value, masks_of_plugin(pipeline)
    return result


def masks_of_plugin(pipeline: Pipeline) -> Supervision:
    """Which masks the number of a user's own function has seen: those of the select split, where it has any, since
    the function may read them."""
    return supervision(pipeline.config, pipeline.config.selected_on)


def everything(pipeline: Pipeline, objective: Objective) -> Result:
    """All numbers that are worth having of one complete trial beside a function of the user's own: seeds where there
    are masks, and the objectives that need none, so that it can be seen which of them to trust."""
    result = Result(label_source=pipeline.data.label_source)
    if pipeline.split(pipeline.config.data.select).has_masks:
        collect(pipeline, result, "seed")
    if objective.metric.startswith("pseudo/"):
        collect(pipeline, result, "pseudo")
    collect(pipeline, result, "proxy")
    return result


def preview_split(pipeline: Pipeline, objective: Objective) -> Split | None:
    """The split on which previews are measured; None: there can be no previews, and so no early stopping."""
    select = pipeline.split(pipeline.config.data.select)
    if select.has_masks or objective.metric.startswith("proxy/"):
        return select
    return pipeline.train if objective.needs_masks else None


def preview(pipeline: Pipeline, objective: Objective, state: dict[str, Any], split: Split) -> float:
    """What early stopping compares: seeds, or the proxy that is the objective, of a network in training, from maps at
    one scale of a few images.

    Args:
        pipeline: of the trial.
        objective: of the search.
        state: checkpoint of the training; `model` has the weights.
        split: from `preview_split`.
    """
    config, few = pipeline.config, split.first(PREVIEW_IMAGES)
    section = config.cam.model_copy(update={"scales": (1.0,), "mirror": False})
    with tempfile.TemporaryDirectory() as name:
        network, folder, out = (Path(name, part) for part in ("network", "maps", "out"))
        for path in (network, folder, out):
            path.mkdir()
        weights = {k.removeprefix("net."): v for k, v in state["model"].items() if k.startswith("net.")}
        torch.save(weights, network / WEIGHTS)
        engine = LocalEngine(1)
        shared: dict[str, Any] = {"backbone": config.backbone, "data": pipeline.data, "split": few}
        maps.run(folder, engine, section=section, classifier=network, **shared)
        if objective.metric.startswith("proxy/"):
            proxies.run(out, engine, section=config.pseudo, cam=section, classifier=network, maps=folder, **shared)
            return json.loads((out / "metrics.json").read_text(encoding="utf-8"))[objective.metric.split("/")[1]]
        counts = pipeline.train.labels.sum(0)
        seeds.run(out, engine, section=config.pseudo, maps=folder, data=pipeline.data, split=few, counts=counts)
        return json.loads((out / "metrics.json").read_text(encoding="utf-8"))["best"]["miou"]
