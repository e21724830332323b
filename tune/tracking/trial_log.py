"""MLflow runs of trials, written as Tune runs them and caught up with after a crash."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Container
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import optuna
from mlflow.entities import Run
from optuna.trial import FrozenTrial, TrialState
from ray.tune import Callback

from sfc import plots
from sfc.data import Dataset
from sfc.runtime.store import Store
from tune.space.space_file import Space
from tune.study.study import name_of, values_of
from tune.tracking.tracker import Tracker, masks_seen

FIGURE_IMAGES = 4


class TrialLogger(Callback):
    """Tune's callback that keeps one MLflow run a trial, and one below it for each inner trial.

    What a finished trial's run holds is read from the study, so that a run which a killed driver left unfinished can be
    finished later (`catch_up`).

    Args:
        tracker: writes.
        study: knows the trials.
        space: gives a trial's configuration.
        parent: run of the search.
        data: for the figures.
        store: has the maps, wherever a trial ran.
    """

    def __init__(
        self, tracker: Tracker, study: optuna.Study, space: Space, parent: str, data: Dataset, store: Store
    ) -> None:
        self.store = store
        self.tracker, self.study, self.space, self.parent, self.data = tracker, study, space, parent, data
        self.runs: dict[str, str] = {}
        self.known = self._known()  # a look-up for each trial would cost more than making its run
        self.logged: dict[str, int] = {}
        self.pictured = data.ids(space.base.data.select)[:FIGURE_IMAGES]
        self.writer = ThreadPoolExecutor(1)  # neither MLflow nor drawing keeps the next trial waiting
        self.waiting: deque[Future[None]] = deque()

    def __getstate__(self) -> dict[str, Any]:
        return {}  # as in `searcher.StudySearch`

    def _known(self) -> dict[int, Run]:
        """The runs of the study's trials by number, as they are in MLflow now."""
        condition = f"tags.`sfc.study` = '{name_of(self.study)}' and tags.`sfc.kind` = 'trial'"
        return {int(run.data.tags["sfc.trial"]): run for run in self.tracker.all(condition)}

    def _run(self, number: int) -> str:
        if number in self.known:
            run = self.known[number].info.run_id
            self.tracker.reopen(run)
            return run
        study = name_of(self.study)
        return self.tracker.create(
            f"{study}/{number}",
            f"trial {number:03d} {study}",  # tables cut names at their end
            {"sfc.kind": "trial", "sfc.study": study, "sfc.trial": str(number)},
            self.parent,
        )

    def _later(self, write: Callable[..., None], *arguments: Any) -> None:
        """Write in the thread, after what is waiting there; raises what an earlier one raised."""
        while self.waiting and self.waiting[0].done():
            self.waiting.popleft().result()
        self.waiting.append(self.writer.submit(write, *arguments))

    def wait(self) -> None:
        """Until all is written; raises what writing raised."""
        while self.waiting:
            self.waiting.popleft().result()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._later(self._begin, trial.trial_id, trial.config)

    def _begin(self, trial_id: str, config: dict[str, Any]) -> None:
        if trial_id not in self.runs:  # else started again after its process died
            self.runs[trial_id] = self._run(config["number"])
            self.tracker.log(self.runs[trial_id], params=json.loads(config["changes"]))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        if not result.get("complete") and not result.get("failed"):
            self._later(self._epochs, trial.trial_id, result)

    def _epochs(self, trial_id: str, result: dict[str, Any]) -> None:
        since = self.logged.get(trial_id, 0)
        history = [entry for entry in json.loads(result["history"]) if entry["epoch"] > since]
        self.logged[trial_id] = int(result["epoch"])
        history.append({"epoch": result["epoch"], "preview": result["objective"]})
        self.tracker.log(self.runs[trial_id], history=history)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._later(self._end, trial.trial_id, trial.config)

    on_trial_error = on_trial_complete

    def _end(self, trial_id: str, config: dict[str, Any]) -> None:
        self._begin(trial_id, config)  # one whose process died before it started ends all the same
        finished = self.study.get_trials(deepcopy=False)[config["number"]]
        if finished.state.is_finished():  # else the search's time was over
            self._finish(finished, self.runs[trial_id], self.logged.pop(trial_id, 0), finished.params)

    def _finish(self, trial: FrozenTrial, run: str, since: int, there: Container[str]) -> None:
        """Write all that the study knows of a finished trial, `sfc.logged` last.

        Args:
            trial: finished.
            run: its run's id.
            since: up to this epoch the run has the history.
            there: names of parameters that it has, which MLflow lets nobody write again.
        """
        self._inner(trial, run)
        self._figures(trial, run)
        found, failed = trial.user_attrs, trial.state == TrialState.FAIL
        full = trial.state == TrialState.COMPLETE
        tags = {"sfc.complete": str(full), "sfc.logged": "True"}
        if failed:
            tags["sfc.reason"] = found.get("reason", "interrupted; the same settings were tried again")
        else:
            tags |= masks_seen(found.get("supervision", {}))
        self.tracker.end(run, failed=failed)
        self.tracker.log(
            run,
            params={name: value for name, value in values_of(trial).items() if name not in there},
            metrics={"epochs": float(found.get("epoch", 0)), **found.get("metrics", {})},
            history=[entry for entry in found.get("history", []) if entry["epoch"] > since],
            tags=tags,
        )

    def _inner(self, trial: FrozenTrial, run: str) -> None:
        """The runs of a complete trial's inner trials."""
        study, inner = name_of(self.study), trial.user_attrs.get("inner", [])
        for i, tried in enumerate(inner if len(inner) > 1 else []):
            below = self.tracker.start(
                f"{study}/{trial.number}/{i}",
                f"trial {trial.number:03d}.{i:02d} {study}",
                {"sfc.kind": "inner", "sfc.study": study, "sfc.trial": str(trial.number)},
                run,
            )
            self.tracker.log(below, params=tried["values"], metrics=tried["metrics"])
            self.tracker.end(below)

    def _figures(self, trial: FrozenTrial, run: str) -> None:
        """Maps and losses of a complete trial."""
        maps = self.store.local(Path(trial.user_attrs.get("maps", "-")))
        if maps:

            def draw(folder: Path) -> None:
                section = self.space.config(values_of(trial)).pseudo
                plots.maps_figure(folder / "maps.png", self.data, self.pictured, maps, section)
                plots.curves(folder / "losses.png", trial.user_attrs["history"])

            self.tracker.figures(run, draw)

    def catch_up(self) -> None:
        """Finish the runs of trials that ended when no driver was there to say so."""
        self.wait()
        self.known = self._known()
        for trial in self.study.get_trials(deepcopy=False):
            run = self.known.get(trial.number)
            wanted = run is not None or "outcome" in trial.user_attrs  # trials that never started have none
            if not trial.state.is_finished() or not wanted or "unfit" in trial.user_attrs:
                continue
            if run is None or "sfc.logged" not in run.data.tags:
                since, there = (self.tracker.last_epoch(run), run.data.params) if run else (0, {})
                self._later(self._finish, trial, run.info.run_id if run else self._run(trial.number), since, there)

    def finish(self) -> None:
        """Write the last and end."""
        self.wait()
        self.writer.shutdown()
