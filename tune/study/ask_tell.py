"""What Ray Tune asks for settings and tells results: Optuna's searcher on a study of ours."""

from __future__ import annotations

import contextlib
import json
import math
import time
from typing import Any

import optuna
from optuna.trial import TrialState
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from tune.space.space_file import Space
from tune.study.storage import set_attrs


class StudySearch(OptunaSearch):
    """OptunaSearch on a study of ours: epochs as steps, early-stopped trials as pruned, failures with their reason.

    Args:
        study: opened by `open_study`.
        space: gives each trial's settings.
        trials: how many more to start.
        deadline: in `time.monotonic`; no trial starts after it, and one that it stops is left to `study.repair`.
    """

    def __init__(self, study: optuna.Study, space: Space, trials: int, deadline: float = math.inf) -> None:
        self.searched, self.left, self.deadline = space, trials, deadline
        self.started: dict[str, float] = {}
        super().__init__(
            space.suggest,
            metric="objective",
            mode="max",
            storage=study._storage,
            study_name=study.study_name,
            sampler=study.sampler,
        )

    @property
    def study(self) -> optuna.Study:
        return self._ot_study

    def number(self, trial_id: str) -> int:
        """Optuna's number of a Tune trial."""
        return self._ot_trials[trial_id].number

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the study's storage is the authority."""

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles what it is given, to restore an experiment; ours are continued from the study

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        if self.left <= 0 or time.monotonic() > self.deadline:
            return Searcher.FINISHED
        self.left -= 1
        trial = self._ot_trials[trial_id] = self.study.ask()
        chosen = self.searched.suggest(trial)
        self.started[trial_id] = time.time()
        return {"number": trial.number, "changes": json.dumps(chosen)}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        if math.isfinite(result.get("objective", math.nan)) and not result.get("complete"):
            with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
                self._ot_trials[trial_id].report(result["objective"], result["epoch"])

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        trial = self._ot_trials[trial_id]
        result = result or {}
        failed = error or result.get("failed")
        if time.monotonic() > self.deadline and not failed and not result.get("complete"):
            return
        begin = self.started.pop(trial_id)
        found: dict[str, Any] = {"started": begin, "seconds": round(time.time() - begin, 2)}
        state, value = TrialState.PRUNED, None
        if failed:
            state = TrialState.FAIL
            found["reason"] = result.get("failed") or "the trial's process died; see its log"
        elif result.get("complete"):
            state, value = TrialState.COMPLETE, result["objective"]
            found |= json.loads(result["found"])
        if state == TrialState.PRUNED:
            self.on_trial_result(trial_id, result)  # Tune does not tell the result at which it stops a trial by itself
            found["history"] = json.loads(result.get("history", "[]"))
        found["epoch"] = result.get("epoch", 0)
        found["outcome"] = [state.name, value]  # killed between here and `tell`: `repair` tells it
        set_attrs(trial, found)
        with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
            self.study.tell(trial, value, state=state)
