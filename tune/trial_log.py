"""MLflow runs of trials, written as Tune runs them and caught up with after a crash."""

from __future__ import annotations

import json
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState
from ray.tune import Callback

from sfc import plots
from sfc.data import Dataset
from sfc.store import Store
from tune.space import Space
from tune.study import name_of, values_of
from tune.tracking import Tracker, masks_seen

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
        self.logged: dict[str, int] = {}
        self.pictured = data.ids(space.base.data.select)[:FIGURE_IMAGES]
        self.painter = ThreadPoolExecutor(1)  # drawing does not keep the next trial waiting
        self.drawn: list[Future[None]] = []

    def __getstate__(self) -> dict[str, Any]:
        return {}  # as in `searcher.StudySearch`

    def _run(self, number: int) -> str:
        study = name_of(self.study)
        return self.tracker.start(
            f"{study}/{number}",
            f"trial {number:03d} {study}",  # tables cut names at their end
            {"sfc.kind": "trial", "sfc.study": study, "sfc.trial": str(number)},
            self.parent,
        )

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        if trial.trial_id not in self.runs:  # else started again after its process died
            self.runs[trial.trial_id] = self._run(trial.config["number"])
            self.tracker.log(self.runs[trial.trial_id], params=json.loads(trial.config["changes"]))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        if result.get("complete") or result.get("failed"):
            return
        since = self.logged.get(trial.trial_id, 0)
        history = [entry for entry in json.loads(result["history"]) if entry["epoch"] > since]
        self.logged[trial.trial_id] = int(result["epoch"])
        history.append({"epoch": result["epoch"], "preview": result["objective"]})
        self.tracker.log(self.runs[trial.trial_id], history=history)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        number, since = trial.config["number"], self.logged.pop(trial.trial_id, 0)
        finished = self.study.get_trials(deepcopy=False)[number]
        if finished.state.is_finished():  # else the search's time was over
            self._finish(finished, self.runs[trial.trial_id], since)

    on_trial_error = on_trial_complete

    def _finish(self, trial: FrozenTrial, run: str, since: int) -> None:
        """Write all that the study knows of a finished trial, `sfc.logged` last."""
        found, failed = trial.user_attrs, trial.state == TrialState.FAIL
        full = trial.state == TrialState.COMPLETE
        tags = {"sfc.complete": str(full)}
        if failed:
            tags["sfc.reason"] = found.get("reason", "interrupted; the same settings were tried again")
        else:
            tags |= masks_seen(found.get("supervision", {}))
        self.tracker.log(
            run,
            params={name: value for name, value in values_of(trial).items() if full and name not in trial.params},
            metrics={"epochs": float(found.get("epoch", 0)), **found.get("metrics", {})},
            history=[entry for entry in found.get("history", []) if entry["epoch"] > since],
            tags=tags,
        )
        self.tracker.end(run, failed=failed)
        self.drawn.append(self.painter.submit(self._rest, trial, run))

    def _rest(self, trial: FrozenTrial, run: str) -> None:
        """Inner trials and figures of a complete trial; they take longer than the next trial should wait."""
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
        maps = self.store.local(Path(trial.user_attrs.get("maps", "-")))
        if maps:

            def draw(folder: Path) -> None:
                section = self.space.config(values_of(trial)).pseudo
                plots.maps_figure(folder / "maps.png", self.data, self.pictured, maps, section)
                plots.curves(folder / "losses.png", trial.user_attrs["history"])

            self.tracker.figures(run, draw)
        self.tracker.log(run, tags={"sfc.logged": "True"})

    def catch_up(self) -> None:
        """Finish the runs of trials that ended when no driver was there to say so."""
        study = name_of(self.study)
        runs = self.tracker.all(f"tags.`sfc.study` = '{study}' and tags.`sfc.kind` = 'trial'")
        by_number = {int(run.data.tags["sfc.trial"]): run for run in runs}
        for trial in self.study.get_trials(deepcopy=False):
            run = by_number.get(trial.number)
            wanted = run is not None or "outcome" in trial.user_attrs  # trials that never started have none
            if not trial.state.is_finished() or not wanted or "unfit" in trial.user_attrs:
                continue
            if run is None or "sfc.logged" not in run.data.tags:
                since = self.tracker.last_epoch(run) if run else 0
                self._finish(trial, run.info.run_id if run else self._run(trial.number), since)

    def finish(self) -> None:
        """Wait for the last figures; raises what drawing one raised."""
        self.painter.shutdown()
        for figure in self.drawn:
            figure.result()
