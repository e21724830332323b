"""The trials of a search, run by Ray Tune."""

from __future__ import annotations

import functools
import math
import time
import warnings
from collections.abc import Callable, Sequence

import optuna
import ray.tune
from ray.tune import Callback, FailureConfig, RunConfig, TuneConfig, Tuner
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from tune.cluster.ray_engine import RETRIES
from tune.study.ask_tell import StudySearch
from tune.study.study import repair
from tune.study.trial import Job, run_trial


def run_trials(
    study: optuna.Study,
    job: Job,
    trials: int,
    deadline: float = math.inf,
    callbacks: Sequence[Callback] = (),
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
            callbacks=list(callbacks),
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
    asha, epochs = job.space.asha, job.space.base.classifier.epochs
    if asha is None or job.workers > 1:
        return FIFOScheduler()
    return ASHAScheduler(
        time_attr="epoch",
        metric="objective",
        mode="max",
        max_t=epochs,
        grace_period=min(asha.grace, epochs),
        reduction_factor=asha.reduction,
    )
