"""Ray Tune's side of a study: Tune asks it for settings and reports results to it."""

from __future__ import annotations

import contextlib
import json
import math
import time
from typing import Any

import optuna
from optuna.trial import TrialState
from ray.tune.search import Searcher

from tune.private import set_attrs
from tune.space.space_file import Space
from tune.study.study import QUEUED


class StudySearch(Searcher):
    """Searcher on an Optuna study: epochs are steps, early-stopped trials pruned, failures have their reason.

    Args:
        study: opened by `open_study`.
        space: gives each trial's settings.
        trials: how many more to start.
        deadline: in `time.monotonic`; no trial starts after it, and one that it stops is left to `study.repair`.
    """

    def __init__(self, study: optuna.Study, space: Space, trials: int, deadline: float = math.inf) -> None:
        super().__init__(metric="objective", mode="max")
        self.study, self.space, self.left, self.deadline = study, space, trials, deadline
        self.running: dict[str, tuple[optuna.Trial, float]] = {}
        """Optuna's trial and the time of its start, by Tune's id."""

    # Tune saves its searcher to restore an experiment; ours are continued from the study, which is the authority.
    def save(self, checkpoint_path: str) -> None: ...

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str:  # type: ignore[override]  # Ray's type forgets FINISHED
        if self.left <= 0 or time.monotonic() > self.deadline:
            return Searcher.FINISHED
        self.left -= 1
        trial = self.study.ask()  # from the queue first; what no longer lies in the edited space is passed over
        while not self.space.fits(trial.user_attrs.get(QUEUED, {})):
            self.study.tell(trial, state=TrialState.FAIL)
            trial = self.study.ask()
        chosen = self.space.suggest(trial)
        self.running[trial_id] = trial, time.time()
        return {"number": trial.number, "changes": json.dumps(chosen)}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        if math.isfinite(result.get("objective", math.nan)) and not result.get("complete"):
            with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
                self.running[trial_id][0].report(result["objective"], result["epoch"])

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        trial, started = self.running[trial_id]
        result = result or {}
        failed = error or result.get("failed")
        if time.monotonic() > self.deadline and not failed and not result.get("complete"):
            return
        attributes = {"started": started, "seconds": round(time.time() - started, 2), "epoch": result.get("epoch", 0)}
        state, value = TrialState.PRUNED, None
        if failed:
            state = TrialState.FAIL
            attributes["reason"] = result.get("failed") or "the trial's process died; see its log"
        elif result.get("complete"):
            state, value = TrialState.COMPLETE, result["objective"]
            attributes |= json.loads(result["attributes"])
        else:
            self.on_trial_result(trial_id, result)  # Tune itself does not report the result at which it stops a trial
            attributes["history"] = json.loads(result.get("history", "[]"))
        attributes["outcome"] = [state.name, value]  # killed between here and `tell`: `repair` tells it
        set_attrs(trial, attributes)
        with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
            self.study.tell(trial, value, state=state)
        del self.running[trial_id]
