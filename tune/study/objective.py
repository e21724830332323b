"""The number by which a trial is judged: measured on its pipeline, and previewed while its classifier trains."""

from __future__ import annotations

import json
import math
from typing import Any

from sfc.config import plugins
from sfc.config.files import change_config
from sfc.errors import Diverged, UserError
from sfc.pipeline import NotDone, Pipeline
from sfc.results import Result, Supervision, supervision
from sfc.scoring.names import prefix_of
from sfc.scoring.tally import METRICS
from tune.space.sections import Objective


def measure(pipeline: Pipeline, objective: Objective) -> Result:
    """Run what an objective needs. Returns the objective's number under the name of its metric, and the others of the
    same stage.

    Raises:
        UserError: masks are missing, or a function of the user's own failed.
        Diverged: a training did, or a function of the user's own returned no finite number.
    """
    result = Result(label_source=pipeline.data.label_source)
    metric = objective.metric
    if not objective.is_plugin:
        pipeline.measure(result, prefix_of(metric))
        if metric not in result.metrics:
            method = pipeline.config.classifier.method
            raise UserError(f"the objective {metric} can't be measured of the method {method}: it has no such number")
        return result
    try:
        value = float(plugins.load(metric)(pipeline))
    except (UserError, Diverged, NotDone):
        raise
    except Exception as error:
        raise UserError(f"the objective {metric} failed: {plugins.last_line(error)}") from error
    if not math.isfinite(value):
        raise Diverged(f"the objective {metric} is {value}")
    result.metrics[metric], result.supervision[metric] = value, masks_of_plugin(pipeline)
    return result


def at_best_threshold(pipeline: Pipeline) -> Pipeline:
    """The pipeline with the background threshold that is best for the seeds of the select split."""
    seeds = pipeline.output("seeds", pipeline.config.data.select) / METRICS
    best = json.loads(seeds.read_text(encoding="utf-8"))["best"]
    chosen = {"pseudo.threshold": best["threshold"], "selected_on": pipeline.config.data.select}
    return pipeline.changed(change_config(pipeline.config, chosen))


def masks_of_plugin(pipeline: Pipeline) -> Supervision:
    """Masks that the number of a user's own function has seen: the select split's, if any, since it may read them."""
    return supervision(pipeline.config, pipeline.config.selected_on)


def everything(pipeline: Pipeline, objective: Objective) -> Result:
    """All numbers that are worth having of one complete trial beside a function of the user's own: seeds where there
    are masks, and the objectives that need none, so that it can be seen which of them to trust."""
    result = Result(label_source=pipeline.data.label_source)
    if pipeline.split(pipeline.config.data.select).has_masks:
        pipeline.measure(result, "seed")
    for prefix in ("pseudo", "segmentation"):
        if objective.metric.startswith(("segmentation/", f"{prefix}/")):
            pipeline.measure(result, prefix)
    pipeline.measure(result, "proxy")
    return result


def preview(pipeline: Pipeline, objective: Objective, state: dict[str, Any]) -> float | None:
    """The number that early stopping compares: seed mIoU, or the proxy that is the objective, of a classifier in
    training. None where the objective needs no mask and there is none: then no trial is stopped early.

    Args:
        pipeline: of the trial.
        objective: of the search.
        state: checkpoint of the training; `model` has the weights.
    """
    select = pipeline.split(pipeline.config.data.select)
    if objective.metric.startswith("proxy/"):
        return float(pipeline.preview(state["model"], "proxy", select)[objective.metric.partition("/")[2]])
    if not select.has_masks and not objective.needs_masks:
        return None
    split = select if select.has_masks else pipeline.train
    return float(pipeline.preview(state["model"], "seed", split)["best"]["miou"])
