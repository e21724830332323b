"""MLflow, from the driver alone: one run a search, one a trial below it, one for the final."""

from __future__ import annotations

import math
import os
import re
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME

from sfc.config import Config
from sfc.errors import UserError
from tune.study.storage import check_database

EXPERIMENT = "sfc"
LIMIT = 6000
"""Characters of a parameter that MLflow keeps."""


def tracking_uri(results: Path) -> str:
    """MLFLOW_TRACKING_URI, else a SQLite file in the results folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(results / 'mlflow.db').absolute()}"


def without_password(uri: str) -> str:
    """`scheme://user:password@host/path?key=value` as it may be shown: without what may hold a secret."""
    return re.sub(r"\?.*", "?***", re.sub(r"//[^/]*@", "//***@", uri))


def flat(config: Config) -> dict[str, Any]:
    """Every setting by `section.key`."""

    def walk(values: dict[str, Any], prefix: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in values.items():
            found |= walk(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
        return found

    return walk(config.model_dump(mode="json"), "")


def fixed_settings(config: Config) -> dict[str, Any]:
    """Every setting as a parameter `settings/section.key`: behind the parameters that vary, which have their bare
    names. The place of the data is none: it is another one on another machine."""
    return {f"settings/{name}": value for name, value in flat(config).items() if name != "data.root"}


def masks_seen(supervision: dict[str, str]) -> dict[str, str]:
    """A tag `supervision.NAME` for each mIoU: which masks it has seen; `..._tail` and the like have seen the same."""
    return {f"supervision.{name}": seen for name, seen in supervision.items() if name.endswith("miou")}


class Tracker:
    """Writes runs. Each has a key, looked up before a run is made, so that none is ever made twice.

    Args:
        uri: of the tracking server or database; it and the experiment are made here, before anything else writes.
        results: folder for artifacts where the uri is a database.

    Raises:
        UserError: nothing answers there.
    """

    def __init__(self, uri: str, results: Path) -> None:
        if uri.startswith("sqlite:///"):
            check_database(Path(uri.removeprefix("sqlite:///")))
        try:
            self.client = MlflowClient(uri)
            found = self.client.get_experiment_by_name(EXPERIMENT)
        except Exception as error:  # of MLflow, requests, SQLAlchemy or a driver: the message may hold the password
            raise UserError(
                f"MLflow's {without_password(uri)} can't be opened ({type(error).__name__}); MLFLOW_TRACKING_URI names "
                "a server or a database"
            ) from None
        if found is None:
            place = (results / "mlflow-artifacts").absolute().as_uri() if uri.startswith("sqlite") else None
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
            return self.create(key, name, tags, parent)
        self.reopen(run.info.run_id)
        return run.info.run_id

    def reopen(self, run: str) -> None:
        """The run goes on."""
        self.client.update_run(run, status="RUNNING")

    def create(self, key: str, name: str, tags: dict[str, str], parent: str | None = None) -> str:
        """The id of a new run; for a key of which the caller knows that it has none."""
        tags = {"sfc.key": key, MLFLOW_RUN_NAME: name, **tags}
        if parent:
            tags[MLFLOW_PARENT_RUN_ID] = parent
        return self.client.create_run(self.experiment, tags=tags, run_name=name).info.run_id

    def best(self, parent: str, trial: int, values: dict[str, Any], found: dict[str, Any]) -> None:
        """What a search found, on its own run: two studies then compare under the names that their trials have. Its
        settings are tags, since a parameter can't change when the search goes on and finds better.

        Args:
            parent: run of the search.
            trial: number of the best one.
            values: its settings that varied.
            found: `metrics` and `supervision` of one run: of its final one, or without a final of the trial.
        """
        tags = {"sfc.best": str(trial), **{f"best.{name}": str(value)[:LIMIT] for name, value in values.items()}}
        self.log(parent, metrics=found["metrics"], tags=tags | masks_seen(found.get("supervision", {})))

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

    def all(self, condition: str) -> list[Run]:
        """Every run of a condition in MLflow's language."""
        found, token = [], None
        while True:
            page = self.client.search_runs([self.experiment], condition, max_results=1000, page_token=token)
            found += page
            token = page.token
            if not token:
                return found

    def last_epoch(self, run: Run) -> int:
        """Up to which epoch a run's history is there."""
        points = [
            self.client.get_metric_history(run.info.run_id, key)[-1].step
            for key in run.data.metrics
            if key.startswith("train/")
        ]
        return max(points, default=0)

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
