"""The number by which a trial is judged: measured on its pipeline, and previewed while its classifier trains."""

from __future__ import annotations

import math
from typing import Any

from sfc.config import plugins
from sfc.data import Split
from sfc.errors import Diverged, UserError
from sfc.pipeline import Pipeline
from sfc.results import Result, Supervision, supervision
from sfc.scoring.names import prefix_of
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
        pipeline.measure(result, "seed")
    if objective.metric.startswith("pseudo/"):
        pipeline.measure(result, "pseudo")
    pipeline.measure(result, "proxy")
    return result


def preview_split(pipeline: Pipeline, objective: Objective) -> Split | None:
    """The split on which previews are measured; None: there can be no previews, and so no early stopping."""
    select = pipeline.split(pipeline.config.data.select)
    if select.has_masks or objective.metric.startswith("proxy/"):
        return select
    return pipeline.train if objective.needs_masks else None


def preview(pipeline: Pipeline, objective: Objective, state: dict[str, Any], split: Split) -> float:
    """What early stopping compares: seeds, or the proxy that is the objective, of a network in training.

    Args:
        pipeline: of the trial.
        objective: of the search.
        state: checkpoint of the training; `model` has the weights.
        split: from `preview_split`.
    """
    if objective.metric.startswith("proxy/"):
        prefix, _, name = objective.metric.partition("/")
        return float(pipeline.preview(state["model"], prefix, split)[name])
    return float(pipeline.preview(state["model"], "seed", split)["best"]["miou"])
