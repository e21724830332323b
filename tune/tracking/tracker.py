"""MLflow, from the driver alone: a run for each search, trial, final run, ablation and arm."""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME

from sfc.config import Config
from sfc.config.values import flat
from sfc.errors import UserError
from tune.study.storage import check_database

EXPERIMENT = "sfc"
LIMIT = 6000
"""Characters of a parameter that MLflow keeps."""
BATCH = 900
"""Metrics in a request, of which MLflow takes 1,000."""
KEY = "sfc.key"
"""Tag that names a run once and for all."""
LOGGED = "sfc.logged"
"""Tag of a run that ended and holds its results."""
WARNINGS = "sfc.warnings"
"""Tag of a run: what its stages said of outputs that can't be meant."""
REASON = "sfc.reason"
"""Tag of a failed run: why it failed."""


def tracking_uri(results: Path) -> str:
    """MLFLOW_TRACKING_URI, else a SQLite file in the results folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(results / 'mlflow.db').absolute()}"


def without_password(uri: str) -> str:
    """An address `scheme://user:password@host/path?key=value` without the parts that may hold a secret."""
    return re.sub(r"\?.*", "?***", re.sub(r"//[^/]*@", "//***@", uri))


def fixed_settings(config: Config) -> dict[str, Any]:
    """Every setting as a parameter `settings/section.key`, so that MLflow lists it behind the parameters that vary,
    which have no prefix. `data.root` is left out: it differs between machines."""
    return {f"settings/{name}": value for name, value in flat(config).items() if name != "data.root"}


def masks_seen(supervision: dict[str, str]) -> dict[str, str]:
    """A tag `supervision.NAME` for each mIoU: the masks it has seen; its parts such as `_tail` have seen the same."""
    return {f"supervision.{name}": seen for name, seen in supervision.items() if name.endswith("miou")}


class Tracker:
    """Writes runs: `start`, then `log` while the work goes on, then `finish` with the results (or `end` without any).

    A run has a key, so that no run is made twice, and what it holds is not written again: a command that was killed
    catches up by the same calls.

    Args:
        uri: tracking server or database; it and the experiment are made here, before anything else writes.
        results: folder for artifacts where the uri is a database.

    Raises:
        UserError: the server does not answer, or the database can't be opened.
    """

    def __init__(self, uri: str, results: Path) -> None:
        if uri.startswith("sqlite:///"):
            check_database(Path(uri.removeprefix("sqlite:///")))
        try:
            self.client = MlflowClient(uri)
            experiment = self.client.get_experiment_by_name(EXPERIMENT)
        except Exception as error:  # of MLflow, requests, SQLAlchemy or a driver: the message may hold the password
            raise UserError(
                f"MLflow's {without_password(uri)} can't be opened ({type(error).__name__}); MLFLOW_TRACKING_URI names "
                "a server or a database"
            ) from None
        if experiment is None:
            folder = (results / "mlflow-artifacts").absolute().as_uri() if uri.startswith("sqlite") else None
            self.experiment = self.client.create_experiment(EXPERIMENT, artifact_location=folder)
        else:
            self.experiment = experiment.experiment_id
        self._epochs: dict[str, int] = {}  # last epoch in the history of a run, by its id

    def find(self, key: str) -> Run | None:
        """The run with a key, or None."""
        runs = self.client.search_runs([self.experiment], f"tags.`{KEY}` = '{key}'", max_results=1)
        return runs[0] if runs else None

    def all(self, condition: str) -> list[Run]:
        """Every run that meets a condition in MLflow's language."""
        page = self.client.search_runs([self.experiment], condition, max_results=1000)
        runs = list(page)
        while page.token:
            page = self.client.search_runs([self.experiment], condition, max_results=1000, page_token=page.token)
            runs += page
        return runs

    def start(self, key: str, name: str, tags: dict[str, str], parent: str | None = None, *, new: bool = False) -> str:
        """The id of the run with a key, made under a parent (by its id) where none exists. It runs again, unless it
        holds its results. With `new` the caller has looked, and no run has the key."""
        run = None if new else self.find(key)
        if run is None:
            tags = {KEY: key, MLFLOW_RUN_NAME: name, **tags} | ({MLFLOW_PARENT_RUN_ID: parent} if parent else {})
            run = self.client.create_run(self.experiment, tags=tags, run_name=name)
            self._epochs[run.info.run_id] = 0
        elif LOGGED not in run.data.tags:
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
        """Write to a run, by one request where MLflow allows it.

        Args:
            run: its id.
            params: by name; MLflow lets nobody change one.
            metrics: by name; values that are not finite are left out.
            history: metrics of epochs, each with its `epoch`; epochs that the run has are left out.
            tags: written last.
        """
        now = int(time.time() * 1000)
        points = [Metric(name, value, now, 0) for name, value in (metrics or {}).items() if math.isfinite(value)]
        last = self._last_epoch(run) if history else 0
        for entry in (entry for entry in history if entry["epoch"] > last):
            step = self._epochs[run] = int(entry["epoch"])
            numbers = {name: value for name, value in entry.items() if name != "epoch" and math.isfinite(value)}
            points += [Metric(f"train/{name}", value, now, step) for name, value in numbers.items()]
        parameters = [Param(name, str(value)[:LIMIT]) for name, value in (params or {}).items()]
        labels = [RunTag(name, value) for name, value in (tags or {}).items()]
        for start in range(0, max(1, len(points)), BATCH):
            rest = (parameters, labels) if start + BATCH >= len(points) else ((), ())
            self.client.log_batch(run, points[start : start + BATCH], *rest)

    def _last_epoch(self, run: str) -> int:
        """The last epoch in a run's history; 0 where it has none."""
        if run not in self._epochs:
            names = [name for name in self.client.get_run(run).data.metrics if name.startswith("train/")]
            steps = [point.step for name in names for point in self.client.get_metric_history(run, name)]
            self._epochs[run] = max(steps, default=0)
        return self._epochs[run]

    def finish(
        self,
        run: str,
        *,
        params: dict[str, Any] | None = None,
        metrics: dict[str, float] | None = None,
        history: Sequence[dict[str, float]] = (),
        tags: dict[str, str] | None = None,
        failed: str = "",
    ) -> None:
        """End a run and write the results that it lacks, as `log` does; `failed` says why it has none. A run that has
        them all stays as it is."""
        existing = self.client.get_run(run)
        before, status = existing.data, "FAILED" if failed else "FINISHED"
        numbers = {name: value for name, value in (metrics or {}).items() if math.isfinite(value)}
        same = numbers.items() <= before.metrics.items() and before.tags.get(REASON, "") == failed
        if LOGGED in before.tags and existing.info.status == status and same:
            return
        self.client.set_terminated(run, status)
        missing = {name: value for name, value in (params or {}).items() if name not in before.params}
        reason = {REASON: failed} if failed or REASON in before.tags else {}
        self.log(run, params=missing, metrics=numbers, history=history, tags={**(tags or {}), **reason, LOGGED: "True"})

    def end(self, run: str, *, failed: bool = False) -> None:
        """End a run that other runs are below."""
        self.client.set_terminated(run, "FAILED" if failed else "FINISHED")

    def best(self, search: str, kept: str, values: dict[str, Any], numbers: dict[str, Any]) -> None:
        """Write what a search keeps to the search's own run (by its id), by which MLflow compares two studies.

        Args:
            search: id of the search's run.
            kept: number of the best trial, or the name of a reference.
            values: its settings that varied; tags, since a parameter can't change when the search goes on.
            numbers: `metrics` and `supervision` of one of its runs, or without a comparison of the trial itself.
        """
        tags = {"sfc.best": kept, **{f"best.{name}": str(value)[:LIMIT] for name, value in values.items()}}
        self.log(search, metrics=numbers["metrics"], tags=tags | masks_seen(numbers.get("supervision", {})))

    def files(self, run: str, folder: Path, name: str | None = None) -> None:
        """Store a folder's files as artifacts, in a folder of another name or in none."""
        self.client.log_artifacts(run, str(folder), name)

    def text(self, run: str, text: str, file: str) -> None:
        """Store a text as an artifact."""
        self.client.log_text(run, text, file)
