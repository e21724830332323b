"""MLflow, from the driver alone: one run a search, one a trial below it, one for the final."""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME
from ray.tune import Callback

from sfc import plots
from sfc.data import Dataset
from tune.space import Space
from tune.study import StudySearch

EXPERIMENT = "sfc"
FIGURE_IMAGES = 4
LIMIT = 6000
"""Characters of a parameter that MLflow keeps."""


def tracking_uri(results: Path) -> str:
    """MLFLOW_TRACKING_URI, else a SQLite file in the results folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(results / 'mlflow.db').absolute()}"


def versions() -> dict[str, str]:
    """Versions of what computes, and the commit of the code where it is in a checkout."""
    names = ("sfc-wsss", "torch", "torchvision", "ray", "optuna", "mlflow", "numpy")
    found = {f"version.{name}": importlib.metadata.version(name) for name in names}
    root = Path(__file__).resolve().parent.parent
    git = subprocess.run(
        ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"], capture_output=True, text=True
    )
    commit = git.stdout.strip() if git.returncode == 0 else "unknown"
    return found | {"version.python": platform.python_version(), "git.commit": commit}


class Tracker:
    """Writes runs. Each has a key, looked up before a run is made, so that none is ever made twice.

    Args:
        uri: of the tracking server or database; it and the experiment are made here, before anything else writes.
        results: folder for artifacts where the uri is a database.
    """

    def __init__(self, uri: str, results: Path) -> None:
        self.client = MlflowClient(uri)
        found = self.client.get_experiment_by_name(EXPERIMENT)
        if found is None:
            place = (
                (results / "mlflow-artifacts").absolute().as_uri()
                if "://" in uri and uri.startswith("sqlite")
                else None
            )
            self.experiment = self.client.create_experiment(EXPERIMENT, artifact_location=place)
        else:
            self.experiment = found.experiment_id

    def find(self, key: str) -> Run | None:
        """The run of a key, or None."""
        runs = self.client.search_runs([self.experiment], f"tags.`sfc.key` = '{key}'", max_results=1)
        return runs[0] if runs else None

    def start(self, key: str, name: str, tags: dict[str, str], parent: str | None = None) -> str:
        """The id of the run of a key, running from now."""
        run = self.find(key)
        if run is None:
            tags = {"sfc.key": key, MLFLOW_RUN_NAME: name, **tags}
            if parent:
                tags[MLFLOW_PARENT_RUN_ID] = parent
            return self.client.create_run(self.experiment, tags=tags, run_name=name).info.run_id
        self.client.update_run(run.info.run_id, status="RUNNING")
        return run.info.run_id

    def log(
        self,
        run: str,
        *,
        params: dict[str, Any] | None = None,
        metrics: dict[str, float] | None = None,
        history: Sequence[dict[str, float]] = (),
        tags: dict[str, str] | None = None,
    ) -> None:
        """One request for everything; `history` has metrics by epoch. Values that are not finite are left out."""
        now = int(time.time() * 1000)
        points = [Metric(k, v, now, 0) for k, v in (metrics or {}).items() if math.isfinite(v)]
        for entry in history:
            step = int(entry["epoch"])
            points += [
                Metric(f"train/{k}", v, now, step) for k, v in entry.items() if k != "epoch" and math.isfinite(v)
            ]
        parameters = [Param(k, str(v)[:LIMIT]) for k, v in (params or {}).items()]
        labels = [RunTag(k, v) for k, v in (tags or {}).items()]
        for start in range(0, max(1, len(points)), 900):  # MLflow takes 1,000 entities at a time
            last = start + 900 >= len(points)
            self.client.log_batch(run, points[start : start + 900], parameters if last else (), labels if last else ())

    def figures(self, run: str, draw: Callable[[Path], None]) -> None:
        """Artifacts that `draw` puts in a folder."""
        with tempfile.TemporaryDirectory() as name:
            draw(Path(name))
            self.client.log_artifacts(run, name, "figures")

    def text(self, run: str, text: str, file: str) -> None:
        """An artifact of text."""
        self.client.log_text(run, text, file)

    def end(self, run: str, *, failed: bool = False) -> None:
        """The run is over."""
        self.client.set_terminated(run, "FAILED" if failed else "FINISHED")


class TrialLogger(Callback):
    """Tune's callback that keeps one MLflow run a trial.

    Args:
        tracker: writes.
        search: knows the trials' numbers.
        parent: run of the search.
        data: for the figures.
    """

    def __init__(self, tracker: Tracker, search: StudySearch, space: Space, parent: str, data: Dataset) -> None:
        self.tracker, self.search, self.space, self.parent, self.data = tracker, search, space, parent, data
        self.runs: dict[str, str] = {}
        self.logged: dict[str, int] = {}
        self.pictured = data.ids(space.base.data.select)[:FIGURE_IMAGES]
        self.painter = ThreadPoolExecutor(1)  # drawing does not keep the next trial waiting
        self.drawn: list[Future[None]] = []

    def __getstate__(self) -> dict[str, Any]:
        return {}  # as in StudySearch

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        if trial.trial_id in self.runs:  # started again after its process died
            return
        number = trial.config["number"]
        study = self.search.study.study_name
        run = self.tracker.start(
            f"{study}/{number}",
            f"{study}-{number:03d}",
            {"sfc.kind": "trial", "sfc.study": study, "sfc.trial": str(number)},
            self.parent,
        )
        self.runs[trial.trial_id] = run
        self.tracker.log(run, params=json.loads(trial.config["changes"]))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        run = self.runs[trial.trial_id]
        history = [
            entry
            for entry in json.loads(result.get("history", "[]"))
            if entry["epoch"] > self.logged.get(trial.trial_id, 0)
        ]
        if history:
            self.logged[trial.trial_id] = int(history[-1]["epoch"])
        metrics = {"epochs": float(result["epoch"])}
        tags = {"sfc.complete": str(bool(result.get("complete")))}
        if result.get("complete"):
            metrics |= json.loads(result["metrics"])
        else:
            history.append({"epoch": result["epoch"], "preview": result["objective"]})
        if result.get("failed"):
            tags["sfc.reason"] = result["failed"]
        self.tracker.log(run, metrics=metrics, history=history, tags=tags)
        if result.get("complete"):
            config = self.space.config(json.loads(trial.config["changes"]))

            def draw(folder: Path) -> None:
                plots.maps_figure(folder / "maps.png", self.data, self.pictured, Path(result["maps"]), config.pseudo)
                plots.curves(folder / "losses.png", json.loads(result["history"]))

            self.drawn.append(self.painter.submit(self.tracker.figures, run, draw))

    def finish(self) -> None:
        """Wait for the last figures; raises what drawing one raised."""
        self.painter.shutdown()
        for figure in self.drawn:
            figure.result()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.tracker.end(self.runs[trial.trial_id], failed=bool((trial.last_result or {}).get("failed")))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        run = self.runs[trial.trial_id]
        self.tracker.log(run, tags={"sfc.reason": "the trial's process died"})
        self.tracker.end(run, failed=True)


def close_stale(tracker: Tracker, study: str, running: set[int]) -> None:
    """End the runs of trials that a driver left behind.

    Args:
        tracker: writes.
        study: its name.
        running: numbers of trials that really run.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        runs = tracker.client.search_runs(
            [tracker.experiment],
            f"tags.`sfc.study` = '{study}' and tags.`sfc.kind` = 'trial' and attributes.status = 'RUNNING'",
            max_results=1000,
        )
    for run in runs:
        if int(run.data.tags["sfc.trial"]) not in running:
            tracker.log(run.info.run_id, tags={"sfc.reason": "interrupted; the same settings were tried again"})
            tracker.end(run.info.run_id, failed=True)
