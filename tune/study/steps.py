"""Steps of the command `search` before and after its trials."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import optuna
from rich.console import Console

from sfc.config.files import dump_config
from sfc.errors import UserError
from sfc.pipeline import Pipeline
from sfc.runtime.stores import StoreAddress, open_store
from sfc.scoring.names import split_of
from tune.options import ClusterOptions
from tune.space.sections import PROXIES
from tune.space.space_file import Space
from tune.tracking.versions import versions

if TYPE_CHECKING:  # Ray and MLflow take seconds to import, so a function imports what it uses
    from tune.study.trial import Job
    from tune.tracking.tracker import Tracker


def open_data(space: Space, store: StoreAddress) -> tuple[Space, Pipeline]:
    """Open the base's data. Returns the pipeline of the base, which runs nothing, and the space, from which
    `selected_on` is gone where no masks can choose.

    Raises:
        UserError: the split that the objective names has no masks, or the data are not in order.
    """
    pipeline = Pipeline(space.base, open_store(store), engine=None)
    objective, data = space.file.objective, space.base.data
    for split in dict.fromkeys([data.train, data.select]):
        pipeline.split(split)
    if objective.needs_masks and not pipeline.split(wanted := split_of(objective.metric, data)).has_masks:
        raise UserError(
            f"the objective {objective.metric} needs masks, and the split {wanted} of {pipeline.data.root} has none "
            f"(or not one for each image); objectives that need none: {', '.join(PROXIES)}"
        )
    if objective.is_plugin and not pipeline.split(data.select).has_masks:
        space = space.model_copy(update={"base": space.base.model_copy(update={"selected_on": None})})
    return space, pipeline.changed(space.base)


def start_job(space: Space, cluster: ClusterOptions, workers: int, gpus: float) -> Job:
    """Connect to Ray. Returns what all trials share: `workers` for each trial's training, `gpus` for each trial.

    Raises:
        UserError: no Ray answers, it holds no such trial or final, or a node lacks the code, the data or a folder.
    """
    from tune.cluster.connect import check_nodes, connect, slots
    from tune.study.trial import Job

    connect(cluster.address)
    at_once = slots(workers, gpus)
    slots(cluster.workers, 0)
    folders = [cluster.store, *([cluster.results] if workers > 1 else [])]
    if space.base.data.format != "synthetic":  # which each node makes for itself
        folders.append(space.base.data.root)
    check_nodes(folders)
    return Job(space, cluster.results, cluster.store, workers, gpus, at_once)


def start_run(tracker: Tracker, study: optuna.Study, space: Space, pipeline: Pipeline, words: list[str]) -> str:
    """Start or continue the MLflow run of a search whose command had these words. Returns the run's id."""
    from tune.tracking.tracker import fixed_settings

    code = versions() | {"data.fingerprint": pipeline.train.fingerprint}
    command = f"python tune/search.py {shlex.join(words)}"
    study.set_user_attr("command", command)
    study.set_user_attr("commit", code["git.commit"])
    name = study.study_name
    run = tracker.start(name, name, {"sfc.kind": "search", "sfc.study": name})
    tracker.log(run, params=fixed_settings(space.base), tags=code | {"sfc.command": command})
    tracker.text(run, dump_config(space.base), "base.yaml")
    tracker.text(run, space.text(), "space.yaml")
    return run


def show_runs(console: Console, name: str, results: Path) -> None:
    """Print where MLflow has a study's runs and how to open them."""
    from tune.tracking.tracker import EXPERIMENT, tracking_uri, without_password

    address = without_password(tracking_uri(results))
    opens = f"open {address}" if address.startswith("http") else f"mlflow ui --backend-store-uri {address}"
    text = f"runs: MLflow experiment {EXPERIMENT}, study {name}; to open them:\n  {opens}"
    console.out(text, highlight=False)
