"""MLflow runs of trials, written as Tune runs them and caught up with after a crash."""

from __future__ import annotations

import json
import tempfile
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import optuna
from mlflow.entities import Run
from optuna.trial import FrozenTrial, TrialState

from sfc.data import Dataset
from sfc.runtime.store import Store
from tune.space.space_file import Space
from tune.study.study import how_ended, values_of
from tune.tracking.tracker import LOGGED, WARNINGS, Tracker, masks_seen

FIGURE_IMAGES = 4


class TrialLogger:
    """Keeps one MLflow run a trial, and one below it for each inner trial.

    Results come from the study, so that `catch_up` finishes the runs which a killed driver left unfinished.

    Args:
        tracker: writes.
        study: knows the trials.
        space: gives a trial's configuration.
        parent: id of the search's run.
        data: for the figures.
        store: has the maps of every trial, on whatever machine it ran.
    """

    def __init__(
        self, tracker: Tracker, study: optuna.Study, space: Space, parent: str, data: Dataset, store: Store
    ) -> None:
        self.tracker, self.study, self.space, self.parent = tracker, study, space, parent
        self.data, self.store = data, store
        self.runs: dict[int, str] = {}  # id of a trial's run by its number
        self.existing = self._existing()  # a look-up for each trial would cost more than making its run
        self.pictured = data.ids(space.base.data.select)[:FIGURE_IMAGES]
        self.writer = ThreadPoolExecutor(1)  # neither MLflow nor drawing keeps the next trial waiting
        self.waiting: deque[Future[None]] = deque()

    def _existing(self) -> dict[int, Run]:
        """The runs that MLflow has now of the study's trials, by number."""
        condition = f"tags.`sfc.study` = '{self.study.study_name}' and tags.`sfc.kind` = 'trial'"
        return {int(run.data.tags["sfc.trial"]): run for run in self.tracker.all(condition)}

    def _start(self, number: int, inner: int | None = None, parent: str = "") -> str:
        """The id of the run of a trial, or of one of its inner trials."""
        study = self.study.study_name
        kind, key, name = "trial", f"{study}/{number}", f"trial {number:03d}"
        if inner is not None:
            kind, key, name = "inner", f"{key}/{inner}", f"{name}.{inner:02d}"
        return self.tracker.start(
            key,
            f"{name} {study}",  # tables cut names at their end
            {"sfc.kind": kind, "sfc.study": study, "sfc.trial": str(number)},
            parent or self.parent,
            new=inner is None and number not in self.existing,
        )

    def _later(self, write: Callable[..., None], *arguments: Any) -> None:
        """Write in the thread, after what is waiting; raises what an earlier write raised."""
        while self.waiting and self.waiting[0].done():
            self.waiting.popleft().result()
        self.waiting.append(self.writer.submit(write, *arguments))

    def started(self, number: int, chosen: dict[str, Any]) -> None:
        self._later(self._begin, number, chosen)

    def _begin(self, number: int, chosen: dict[str, Any]) -> None:
        if number not in self.runs:  # else it started again, after its process died
            self.runs[number] = self._start(number)
            self.tracker.log(self.runs[number], params=chosen)

    def reported(self, number: int, result: dict[str, Any]) -> None:
        if not result.get("complete") and not result.get("failed"):
            self._later(self._epochs, number, result)

    def _epochs(self, number: int, result: dict[str, Any]) -> None:
        preview = {"epoch": result["epoch"], "preview": result["objective"]}
        self.tracker.log(self.runs[number], history=[*json.loads(result["history"]), preview])

    def ended(self, number: int, result: dict[str, Any]) -> None:
        self._later(self._end, number)

    def _end(self, number: int) -> None:
        trial = self.study.get_trials(deepcopy=False)[number]
        self._begin(number, values_of(trial))  # its process may have died before it started
        if trial.state.is_finished():  # else the search's time was over
            self._finish(trial, self.runs[number])

    def _finish(self, trial: FrozenTrial, run: str) -> None:
        """Write the results of a finished trial from the study; its own run is marked last."""
        self._inner(trial, run)
        self._figures(trial, run)
        results, failed = trial.user_attrs, how_ended(trial) == TrialState.FAIL
        seen = {} if failed else masks_seen(results.get("supervision", {}))
        if results.get("warnings"):
            seen[WARNINGS] = "; ".join(results["warnings"])
        self.tracker.finish(
            run,
            params=values_of(trial),
            metrics={"epochs": float(results.get("epoch", 0)), **results.get("metrics", {})},
            history=results.get("history", []),
            tags={"sfc.complete": str(trial.state == TrialState.COMPLETE)} | seen,
            failed=results.get("reason", "interrupted; the same settings were tried again") if failed else "",
        )

    def _inner(self, trial: FrozenTrial, run: str) -> None:
        """Write the runs of a complete trial's inner trials."""
        inner = trial.user_attrs.get("inner", [])
        for i, result in enumerate(inner if len(inner) > 1 else []):
            below = self._start(trial.number, i, run)
            self.tracker.finish(below, params=result["values"], metrics=result["metrics"])

    def _figures(self, trial: FrozenTrial, run: str) -> None:
        """Draw maps and losses of a complete trial."""
        maps = self.store.local(Path(trial.user_attrs.get("maps", "-")))
        if maps is None:
            return
        from sfc import plots  # late: matplotlib takes a second

        with tempfile.TemporaryDirectory() as name:
            section = self.space.config(values_of(trial)).pseudo
            plots.maps_grid(Path(name, "maps.png"), self.data, self.pictured, {"": (maps, section)})
            plots.curves(Path(name, "losses.png"), trial.user_attrs["history"])
            self.tracker.files(run, Path(name), "figures")

    def catch_up(self) -> None:
        """Finish the runs of trials that ended while no driver was running."""
        self._wait()
        self.existing = self._existing()
        for trial in self.study.get_trials(deepcopy=False):
            run = self.existing.get(trial.number)
            started = run is not None or "outcome" in trial.user_attrs
            if not trial.state.is_finished() or not started or "unfit" in trial.user_attrs:
                continue
            if run is None or LOGGED not in run.data.tags:
                self._later(self._finish, trial, self._start(trial.number))

    def finish(self) -> None:
        """Write the last and end."""
        self._wait()
        self.writer.shutdown()

    def _wait(self) -> None:
        """Return when all is written; raises what a write raised."""
        while self.waiting:
            self.waiting.popleft().result()
