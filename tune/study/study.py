"""The study: Optuna's storage is the authority on what was tried; Tune asks it and reports to it."""

from __future__ import annotations

import contextlib
import json
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState
from pydantic import ValidationError

from sfc.config import SETTINGS_VERSION, Config, plugins
from sfc.config.files import build_config, change_config
from sfc.config.values import differing, flat
from sfc.errors import UserError
from sfc.runtime.store import digest
from tune.evidence.stats import Interval, kendall
from tune.space.parameter import Value, decode
from tune.space.sections import PROXIES, SEED_MIOU, Objective, SpaceFile
from tune.space.space_file import Space
from tune.study.edit import check_choices, differences, edits
from tune.study.names import name_from
from tune.study.storage import STORAGE, storage_at

QUEUED = "queued"
"""User attribute of a trial that did not come from the sampler: the settings with which it was put in the queue."""


def identity(space: Space) -> dict[str, Any]:
    """What makes two searches one study: the objective and the base, by what differs from the defaults, so that a
    setting which is added later changes nothing. The parameters are not in it: they may be edited."""
    base = differing(space.base)
    base.get("data", {}).pop("root", None)
    objective = space.file.objective
    named = {"objective.metric": objective.metric, "classifier.method": space.base.classifier.method}
    sources = {name: plugins.source_digest(path) for name, path in named.items() if plugins.is_path(path)}
    return {"version": SETTINGS_VERSION, "objective": differing(objective), "base": base, "sources": sources}


def default_name(space: Space, stem: str) -> str:
    """The name of a study that the command line does not name."""
    return name_from(stem, digest(identity(space))[:8])


def open_study(name: str, space: Space, results: Path) -> tuple[optuna.Study, list[str]]:
    """The study of that name, made with the space's first points, or continued.

    An edited space continues its study: all trials are measurements of settings over the same base. Trials that a
    driver left running are first marked failed and put in the queue again.

    Returns:
        The study, and a line for each edit of the space.

    Raises:
        UserError: the study has another objective or base, or other choices of a parameter; or see `storage_at`.
    """
    storage, lines, drawn = storage_at(results), [], 0
    if name in optuna.get_all_study_names(storage):
        study = optuna.load_study(study_name=name, storage=storage)
        repair(study)
        drawn = len(study.get_trials(deepcopy=False))
        if "identity" in study.user_attrs or drawn > len(study.get_trials(states=(TrialState.WAITING,))):
            lines = _check(study, space)
    else:
        study = optuna.create_study(study_name=name, storage=storage, direction="maximize")
    point, *others = space.points()
    for start in (point, *others):
        study.enqueue_trial(start, user_attrs={QUEUED: start}, skip_if_exists=True)
    for key, value in {
        "published": point,
        "metric": space.file.objective.metric,
        "split": space.base.selected_on,
        "base": space.base.model_dump(mode="json"),
        "space": space.file.model_dump(mode="json", by_alias=True),
        "identity": identity(space),  # last: without it a driver died while it made the study
    }.items():
        if key not in study.user_attrs or study.user_attrs[key] != value:
            study.set_user_attr(key, value)
    if lines and published(study) is None:  # perhaps its trial did not try the settings of later stages as edited
        queued = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        if all(trial.user_attrs.get(QUEUED) != point for trial in queued):
            study.enqueue_trial(point, user_attrs={QUEUED: point})
    # With the same seed again, a continued study would draw what it drew at first.
    study.sampler = build_sampler(space.file.sampler, space.file.budget.seed + drawn)
    return study, lines


def build_sampler(name: str, seed: int) -> optuna.samplers.BaseSampler:
    """The sampler of both levels of a search, a class of optuna.samplers. TPE and GP are told which settings failed.

    TPE models together the parameters that every trial has in one range, and each other one by itself: those under a
    condition, and those whose range was edited. With Optuna's `group=True` a search would stay in the range that the
    study's first trials had."""
    options: dict[str, Any] = {"seed": seed}
    if name in ("TPESampler", "GPSampler"):
        options |= {"constraints_func": _feasible, "n_startup_trials": 6, "warn_independent_sampling": False}
    if name == "TPESampler":
        options |= {"multivariate": True, "constant_liar": True}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # experimental and, from 4.9 on, deprecated arguments
        sampler: optuna.samplers.BaseSampler = getattr(optuna.samplers, name)(**options)
    return sampler


def _feasible(trial: FrozenTrial) -> tuple[float]:
    """Optuna's constraint, above 0 where it is not met: a trial's settings must not make it fail."""
    return (1.0 if "reason" in trial.user_attrs else 0.0,)


def how_ended(trial: FrozenTrial) -> TrialState:
    """How a trial ended: failed where its own settings were the reason, though Optuna has it as pruned, since samplers
    do not look at trials that failed."""
    return TrialState.FAIL if "reason" in trial.user_attrs else trial.state


def _check(study: optuna.Study, space: Space) -> list[str]:
    """Check that a space continues a study. Returns a line for each edit of the space.

    Raises:
        UserError: as `open_study`.
    """
    kept, now = study.user_attrs.get("identity", {}), identity(space)
    try:  # settings that are newer than the study get their defaults
        base = Config.model_validate_json(json.dumps(study.user_attrs["base"]))
        file = SpaceFile.model_validate_json(json.dumps(study.user_attrs["space"]))
    except (KeyError, ValidationError):
        kept = {}
    if kept.get("version") != now["version"]:
        raise UserError(
            f"the study {study.study_name} was made by an earlier version of this project: give this search a name of "
            "its own by --study NAME"
        )

    def meaning(base: Config, objective: Objective, part: dict[str, Any]) -> dict[str, Any]:
        searched = {f"objective.{name}": value for name, value in flat(objective).items()}
        sources = {f"source of {name}": digest for name, digest in part.get("sources", {}).items()}
        return searched | sources | flat(base) | {"data.root": ""}

    changes = differences(meaning(base, file.objective, kept), meaning(space.base, space.file.objective, now))
    if changes:
        lines = [f"{name} {change}" for name, change in changes.items()]
        raise UserError(
            f"the study {study.study_name} searches something else: {'; '.join(lines[:6])}"
            f"{' ...' if len(lines) > 6 else ''}. Give this search a name of its own by --study NAME"
        )
    check_choices(study, space)
    return edits(file, space.file)


def repair(study: optuna.Study) -> None:
    """Mark what a driver left running as failed, and put it in the queue again; before, so that a driver killed in the
    middle of this loses nothing and repeats nothing."""
    again = {t.user_attrs.get("again") for t in study.get_trials(deepcopy=False)}
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if "outcome" in trial.user_attrs:  # its driver died just before it told Optuna
            state, value = trial.user_attrs["outcome"]
            study.tell(trial.number, value, state=TrialState[state])
            continue
        settings = {**trial.user_attrs.get(QUEUED, {}), **trial.params}
        if settings and trial.number not in again:
            study.enqueue_trial(settings, user_attrs={QUEUED: settings, "again": trial.number})
        with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
            study.tell(trial.number, state=TrialState.FAIL)


def load_study(name: str, results: Path) -> optuna.Study:
    """A study that exists.

    Raises:
        UserError: there is no such study; lists those that there are. Or see `storage_at`.
    """
    if not (results / "optuna.db").is_file() and not os.environ.get(STORAGE):
        raise UserError(f"there is no study {name}: {results} has no optuna.db")
    storage = storage_at(results)
    names = sorted(s.study_name for s in storage.get_all_studies() if "identity" in s.user_attrs)
    if name not in names:
        raise UserError(f"there is no study {name} in {results}/optuna.db; it has: {', '.join(names) or 'none'}")
    return optuna.load_study(study_name=name, storage=storage)


def values_of(trial: FrozenTrial) -> dict[str, Value]:
    """The settings of a trial: of both levels where it is complete."""
    return trial.user_attrs.get("settings") or {name: decode(value) for name, value in trial.params.items()}


def counted(study: optuna.Study) -> list[FrozenTrial]:
    """Trials that used up budget: in full, stopped early, or failed for a reason of their own."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL))
    return [t for t in trials if t.state != TrialState.FAIL or "reason" in t.user_attrs]


def complete(study: optuna.Study, done: list[FrozenTrial] | None = None) -> list[FrozenTrial]:
    """Trials that ran in full, best first; only they are ranked. `done`: `counted(study)`, where it is at hand."""
    trials = counted(study) if done is None else done
    full = [t for t in trials if t.state == TrialState.COMPLETE]
    return sorted(full, key=lambda t: -(t.value or 0.0))


def file_of(study: optuna.Study) -> SpaceFile:
    """The study's space file."""
    return SpaceFile.model_validate_json(json.dumps(study.user_attrs["space"]))


def sweeps(study: optuna.Study) -> bool:
    """Whether each run takes the background threshold that is best on the masks of the select split."""
    return file_of(study).sweeps


def base_of(study: optuna.Study) -> Config:
    """The configuration that the study's trials change."""
    return build_config(study.user_attrs["base"], origin=f"base of the study {study.study_name}")


def best_config(study: optuna.Study) -> Config:
    """Settings of the trial that the confirmation chose, before there is one of the best complete trial, with the
    background threshold that the objective's masks chose.

    Raises:
        UserError: no trial ran in full.
    """
    ranked = complete(study)
    if not ranked:
        raise UserError(f"the study {study.study_name} has no trial that ran in full, so there is no best one")
    best = next((t for t in ranked if t.number == study.user_attrs.get("chosen")), ranked[0])
    threshold = {"pseudo.threshold": best.user_attrs["metrics"]["seed/best_threshold"]} if sweeps(study) else {}
    return change_config(base_of(study), values_of(best) | threshold)


def proxies(ranked: Sequence[FrozenTrial]) -> dict[str, Interval]:
    """How well each objective that needs no mask ranks complete trials against seed mIoU: Kendall's tau. Empty where
    the trials have no seed mIoU."""
    numbers = [t.user_attrs["metrics"] for t in ranked if SEED_MIOU in t.user_attrs.get("metrics", {})]
    return {
        name: kendall([trial[name] for trial in numbers], [trial[SEED_MIOU] for trial in numbers])
        for name in PROXIES
        if numbers and all(name in trial for trial in numbers)
    }


Evaluated = tuple[FrozenTrial, dict[str, Any]]
"""A complete trial, and one of the evaluations inside it: `values`, `value`, `metrics`."""


def published(study: optuna.Study, ranked: list[FrozenTrial] | None = None) -> Evaluated | None:
    """The evaluation that measured the published setting, if there is one yet; `ranked`: `complete(study)`."""
    point, base = study.user_attrs["space"]["published"], flat(base_of(study))
    for trial in complete(study) if ranked is None else ranked:
        for tried in trial.user_attrs.get("inner", ()):
            values = {name: decode(value) for name, value in {**trial.params, **tried["values"]}.items()}
            if tried["value"] is None:
                continue  # it did not come as far as the objective
            if all(values.get(n, base.get(n)) == point.get(n, base.get(n)) for n in {*values, *point}):
                return trial, tried
    return None
