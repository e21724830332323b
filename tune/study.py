"""The study: Optuna's storage is the authority on what was tried; Tune asks it and tells it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from sfc.config import SETTINGS_VERSION
from sfc.errors import UserError
from sfc.store import digest
from tune.space import Space, Value, decode

COUNTED = (TrialState.COMPLETE, TrialState.PRUNED)


@contextmanager
def one_driver(path: Path) -> Iterator[None]:
    """Hold a study's lock for as long as its driver lives.

    Raises:
        UserError: another process drives the study.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(
                f"another process is running this study (it holds {path}); wait for it or stop it"
            ) from None
        yield


def storage_at(results: Path) -> optuna.storages.RDBStorage:
    """The SQLite storage of all studies of a results folder."""
    results.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return optuna.storages.RDBStorage(
            f"sqlite:///{(results / 'optuna.db').absolute()}", engine_kwargs={"connect_args": {"timeout": 30}}
        )


def meaning(space: Space) -> str:
    """Digest of what a study's values mean: version, parameters, base and objective; not its budget."""
    kept = space.file.model_dump(mode="json", include={"objective", "parameters", "asha"})
    base = space.base.model_dump(mode="json")
    base["data"].pop("root")
    return digest([SETTINGS_VERSION, kept, base])


def open_study(name: str, space: Space, results: Path) -> optuna.Study:
    """The study of that name, made with the space's first points, or continued.

    Trials that a driver left running are marked failed and put in the queue again, first.

    Raises:
        UserError: the study searches something else.
    """
    storage = storage_at(results)
    known = name in optuna.get_all_study_names(storage)
    study = optuna.create_study(study_name=name, storage=storage, direction="maximize", load_if_exists=True)
    # With the same seed again, a continued study would draw what it drew at first.
    study.sampler = make_sampler(space.file.budget.seed + len(study.get_trials(deepcopy=False)))
    if not known or "meaning" not in study.user_attrs:
        for point in space.points():
            study.enqueue_trial(point, skip_if_exists=True)
        study.set_user_attr("published", space.points()[0])
        study.set_user_attr("metric", space.file.objective.metric)
        study.set_user_attr("split", space.base.data.select)
        study.set_user_attr("base", space.base.model_dump(mode="json"))
        study.set_user_attr("final", space.file.final.set)
        study.set_user_attr("meaning", meaning(space))
    elif study.user_attrs["meaning"] != meaning(space):
        raise UserError(
            f"the study {name} in {results}/optuna.db was made by another space, base, objective or version of the "
            f"settings; give this search a name of its own by --study NAME"
        )
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        with contextlib.suppress(Exception):  # finished by its driver in the meantime
            study.tell(trial.number, state=TrialState.FAIL)
            if trial.params:
                study.enqueue_trial(trial.params, user_attrs={"again": trial.number})
    return study


def load_study(name: str, results: Path) -> optuna.Study:
    """A study that exists.

    Raises:
        UserError: it does not; lists those that do.
    """
    storage = storage_at(results)
    names = optuna.get_all_study_names(storage)
    if name not in names:
        raise UserError(f"there is no study {name} in {results}/optuna.db; it has: {', '.join(names) or 'none'}")
    return optuna.load_study(study_name=name, storage=storage)


def make_sampler(seed: int) -> optuna.samplers.BaseSampler:
    """TPE that models parameters together, knows conditional ones, and does not repeat what is running."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(
            seed=seed, multivariate=True, group=True, constant_liar=True, n_startup_trials=6
        )


def values_of(trial: FrozenTrial) -> dict[str, Value]:
    """A trial's parameters, as settings."""
    return {name: decode(value) for name, value in trial.params.items()}


def counted(study: optuna.Study) -> list[FrozenTrial]:
    """Trials that used up budget: in full, stopped early, or failed for a reason of their own."""
    return [
        t
        for t in study.get_trials(deepcopy=False)
        if t.state in COUNTED or (t.state == TrialState.FAIL and "reason" in t.user_attrs)
    ]


def complete(study: optuna.Study) -> list[FrozenTrial]:
    """Trials that ran in full, best first; only they are ranked."""
    done = [t for t in study.get_trials(deepcopy=False) if t.state == TrialState.COMPLETE]
    return sorted(done, key=lambda t: -(t.value or 0.0))


def published(study: optuna.Study) -> FrozenTrial | None:
    """The complete trial of the published setting, if there is one yet."""
    wanted = study.user_attrs["published"]
    return next((t for t in complete(study) if t.params == wanted), None)


class StudySearch(OptunaSearch):
    """OptunaSearch on a study of ours: epochs as steps, early-stopped trials as pruned, failures with their reason.

    Args:
        study: opened by `open_study`.
        space: gives each trial's settings.
        trials: how many more to start.
        deadline: in `time.monotonic`; no trial starts after it.
    """

    def __init__(self, study: optuna.Study, space: Space, trials: int, deadline: float = math.inf) -> None:
        self.searched, self.left, self.deadline = space, trials, deadline
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
        trial.set_user_attr("started", time.time())
        return {"number": trial.number, "changes": json.dumps(chosen)}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        if math.isfinite(result.get("objective", math.nan)):
            with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
                self._ot_trials[trial_id].report(result["objective"], result["epoch"])

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        trial = self._ot_trials[trial_id]
        result = result or {}
        self.on_trial_result(trial_id, result)  # Tune does not tell the result at which it stops a trial by itself
        state = TrialState.PRUNED
        value = None
        if error or result.get("failed"):
            state = TrialState.FAIL
            trial.set_user_attr("reason", result.get("failed") or "the trial's process died; see its log")
        elif result.get("complete"):
            state, value = TrialState.COMPLETE, result["objective"]
            trial.set_user_attr("metrics", json.loads(result["metrics"]))
            trial.set_user_attr("iou", json.loads(result["iou"]))
        trial.set_user_attr("epoch", result.get("epoch", 0))
        trial.set_user_attr("seconds", round(time.time() - trial.user_attrs["started"], 2))
        with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
            self.study.tell(trial, value, state=state)
