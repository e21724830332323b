"""The trials of a search, run by Ray Tune, which asks the study for settings and reports results to it."""

from __future__ import annotations

import contextlib
import functools
import json
import math
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import optuna
import ray.tune
from optuna.trial import TrialState
from ray.tune import Callback, FailureConfig, RunConfig, TuneConfig, Tuner
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from tune.cluster.ray_engine import RETRIES
from tune.private import set_attrs
from tune.space.space_file import Space
from tune.study.study import QUEUED, repair
from tune.study.trial import Job, run_trial

DIED = "the trial's process died"


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
                self.running[trial_id][0].report(result["objective"], result["step"])

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        trial, started = self.running[trial_id]
        result = result or {}
        failed = error or result.get("failed")
        if time.monotonic() > self.deadline and not failed and not result.get("complete"):
            return
        attributes = {"started": started, "seconds": round(time.time() - started, 2), "epoch": result.get("epoch", 0)}
        attributes["reached"] = result.get("reached", "the start")
        state, value = TrialState.PRUNED, None  # also of settings that failed: see `how_ended`
        if failed:
            state = TrialState.FAIL if error else TrialState.PRUNED
            attributes["reason"] = result.get("failed") or f"{DIED}; see its log"
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


class Listener(Protocol):
    """Hears of each trial, by its number."""

    def started(self, number: int, chosen: dict[str, Any]) -> None:
        """Its process is there; `chosen`: its settings. Again where the process died and another took over."""

    def reported(self, number: int, result: dict[str, Any]) -> None:
        """It sent a result, the last one included."""

    def ended(self, number: int, result: dict[str, Any]) -> None:
        """It is over, and the study knows it; `result`: its last, or `failed`, the reason."""


class _Callback(Callback):
    """Hands on what Tune says of trials. Tune pickles its callbacks, to restore an experiment; ours are continued from
    the study."""

    def __init__(self, listeners: Sequence[Listener] = ()) -> None:
        self.listeners = listeners

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        for listener in self.listeners:
            listener.started(trial.config["number"], json.loads(trial.config["changes"]))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        for listener in self.listeners:
            listener.reported(trial.config["number"], result)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        for listener in self.listeners:
            listener.ended(trial.config["number"], trial.last_result or {})

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        for listener in self.listeners:
            listener.ended(trial.config["number"], {"failed": DIED})


def run_trials(
    study: optuna.Study,
    job: Job,
    trials: int,
    deadline: float = math.inf,
    listeners: Sequence[Listener] = (),
    trainable: Callable[..., None] = run_trial,
) -> None:
    """Run so many more trials of a study from `open_study`. Those that run at the deadline, in `time.monotonic`, are
    stopped and put in the queue; `trainable` takes what `run_trial` takes."""
    alone = job.workers == 1
    # The workers of a trial that has several are Ray Train's: the trial itself waits, and takes next to nothing.
    resources = {"cpu": 1, "gpu": job.gpus} if alone else {"cpu": 0.01}
    tuner = Tuner(
        ray.tune.with_resources(functools.partial(trainable, job=job), resources),
        tune_config=TuneConfig(
            search_alg=StudySearch(study, job.space, trials, deadline),
            scheduler=_scheduler(job),
            num_samples=trials,
            time_budget_s=max(1.0, deadline - time.monotonic()) if math.isfinite(deadline) else None,
            max_concurrent_trials=job.at_once,
            reuse_actors=alone,  # an actor that waits for Ray Train can't take another trial when it is stopped
        ),
        run_config=RunConfig(
            name=f"{study.study_name}-{int(time.time())}",
            storage_path=str((job.results / "ray").absolute()),
            failure_config=FailureConfig(max_failures=RETRIES),
            callbacks=[_Callback(listeners)],
            verbose=0,
        ),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tuner.fit()
    repair(study)  # trials that the deadline stopped


def _scheduler(job: Job) -> TrialScheduler:
    """Early stopping where the space has it. Ray Train keeps the resources of workers whose trial is stopped, so that
    the next trial would wait for ever: trials of several workers run in full."""
    asha, rungs = job.space.file.asha, [*job.space.rungs(job.space.base), *job.space.stages]
    if asha is None or not rungs or job.workers > 1:
        return FIFOScheduler()
    return ASHAScheduler(
        time_attr="rung",  # 1, r, r^2, ...: each number that a trial reports is one rung
        metric="objective",
        mode="max",
        max_t=asha.reduction ** len(rungs),
        grace_period=1,
        reduction_factor=asha.reduction,
    )
