"""The study: Optuna's storage is the authority on what was tried; Tune asks it and tells it."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from sfc.config import SETTINGS_VERSION
from sfc.errors import UserError
from sfc.runtime.store import digest
from tune.evidence.stats import Interval, kendall
from tune.space.parameter import Value, decode
from tune.space.space_file import PROXIES, Space
from tune.study.edit import Edit, edited, fit
from tune.study.names import name_from
from tune.study.sampler import make_sampler
from tune.study.storage import STORAGE, storage_at

COUNTED = (TrialState.COMPLETE, TrialState.PRUNED)
GENERATION = re.compile(r"(?P<name>.*)@(?P<number>\d+)")
"""A study whose space was edited goes on under its name with @2, @3, ...; people see the name alone."""


def identity(space: Space) -> dict[str, Any]:
    """What makes two searches one study: the objective and the base; not the parameters, which may be edited."""
    base = space.base.model_dump(mode="json")
    base["data"].pop("root")
    return {"version": SETTINGS_VERSION, "objective": space.file.objective.model_dump(mode="json"), "base": base}


def default_name(space: Space, stem: str) -> str:
    """A study's name where none is given."""
    return name_from(stem, digest(identity(space))[:8])


def _generations(storage: optuna.storages.BaseStorage) -> dict[str, str]:
    """Each study's name as people see it -> the name of its latest finished generation in the storage."""
    latest: dict[str, tuple[int, str]] = {}
    for study in storage.get_all_studies():
        match = GENERATION.fullmatch(study.study_name)
        name, number = (match["name"], int(match["number"])) if match else (study.study_name, 1)
        if "identity" in study.user_attrs and number > latest.get(name, (0, ""))[0]:
            latest[name] = (number, study.study_name)
    return {name: full for name, (_, full) in sorted(latest.items())}


def name_of(study: optuna.Study) -> str:
    """The study's name as people see it."""
    match = GENERATION.fullmatch(study.study_name)
    return match["name"] if match else study.study_name


def open_study(name: str, space: Space, results: Path) -> tuple[optuna.Study, Edit | None]:
    """The study of that name, made with the space's first points, or continued.

    Trials that a driver left running are marked failed and put in the queue again, first. Where the space's parameters
    were edited, the trials that still fit go into a new generation of the study, under their numbers.

    Returns:
        The study, and what was edited, if something was.

    Raises:
        UserError: the study is of another objective or base; or see `storage_at`.
    """
    if GENERATION.fullmatch(name):
        raise UserError(f"--study {name}: @ and a number at the end mark edited spaces; take another name")
    storage = storage_at(results)
    known = _generations(storage).get(name)
    if known is None:
        study = _create(name, storage, space)
        return study, None
    study = optuna.load_study(study_name=known, storage=storage)
    if study.user_attrs["identity"] != identity(space):
        raise UserError(_other_study(name, study.user_attrs["identity"], identity(space)))
    repair(study)
    edit = edited(study.user_attrs["space"], space)
    if edit is None:
        study.set_user_attr("final", space.file.final.model_dump(mode="json"))
    else:
        match = GENERATION.fullmatch(known)
        study = _create(f"{name}@{int(match['number']) + 1 if match else 2}", storage, space, study, edit)
    # With the same seed again, a continued study would draw what it drew at first.
    study.sampler = make_sampler(space.file.budget.seed + len(study.get_trials(deepcopy=False)))
    return study, edit


def _create(
    full_name: str,
    storage: optuna.storages.BaseStorage,
    space: Space,
    before: optuna.Study | None = None,
    edit: Edit | None = None,
) -> optuna.Study:
    """A new study, with the trials of an earlier generation; `identity` is its last mark, without it it is none."""
    if full_name in optuna.get_all_study_names(storage):
        study = optuna.load_study(study_name=full_name, storage=storage)
        if study.trials and "making" not in study.user_attrs:
            raise UserError(
                f"the study {full_name} was made by an earlier version of this project: give this search a name of its "
                "own by --study NAME"
            )
        optuna.delete_study(study_name=full_name, storage=storage)  # a driver died while it made it
    study = optuna.create_study(study_name=full_name, storage=storage, direction="maximize")
    study.set_user_attr("making", True)
    study.sampler = make_sampler(space.file.budget.seed)
    if before is not None and edit is not None:
        for trial in before.get_trials(deepcopy=False):
            study.add_trial(fit(trial, before, space, edit))
    for point in space.points():
        study.enqueue_trial(point, skip_if_exists=True)
    for settings in edit.again if edit else ():
        study.enqueue_trial(settings, skip_if_exists=True)
    for key, value in {
        "published": space.points()[0],
        "metric": space.file.objective.metric,
        "split": space.base.selected_on,
        "base": space.base.model_dump(mode="json"),
        "final": space.file.final.model_dump(mode="json"),
        "space": space.file.model_dump(mode="json", by_alias=True, exclude_none=True),
        "identity": identity(space),
    }.items():
        study.set_user_attr(key, value)
    return study


def _other_study(name: str, before: dict[str, Any], now: dict[str, Any]) -> str:
    """Why a study can't be continued."""
    differing = []
    for part in ("version", "objective"):
        if before[part] != now[part]:
            differing.append(f"{part} {before[part]} -> {now[part]}")
    for section, values in now["base"].items():
        old = before["base"].get(section)
        if isinstance(values, dict) and isinstance(old, dict):
            differing += [f"{section}.{k} {old.get(k)} -> {v}" for k, v in values.items() if old.get(k) != v]
        elif old != values:
            differing.append(f"{section} {old} -> {values}")
    return (
        f"the study {name} searches something else: {'; '.join(differing[:6])}{' ...' if len(differing) > 6 else ''}. "
        "Give this search a name of its own by --study NAME"
    )


def repair(study: optuna.Study) -> None:
    """Mark what a driver left running as failed, and put it in the queue again. Killed in the middle of this, it is
    done once all the same: a trial is in the queue before it is marked."""
    again = {t.user_attrs.get("again") for t in study.get_trials(deepcopy=False)}
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if "outcome" in trial.user_attrs:  # its driver had all but told it
            state, value = trial.user_attrs["outcome"]
            study.tell(trial.number, value, state=TrialState[state])
            continue
        settings = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
        if settings and trial.number not in again:
            study.enqueue_trial(settings, user_attrs={"again": trial.number})
        with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
            study.tell(trial.number, state=TrialState.FAIL)


def load_study(name: str, results: Path) -> optuna.Study:
    """A study that exists.

    Raises:
        UserError: it does not; lists those that do. Or see `storage_at`.
    """
    if not (results / "optuna.db").is_file() and not os.environ.get(STORAGE):
        raise UserError(f"there is no study {name}: {results} has no optuna.db")
    storage = storage_at(results)
    names = _generations(storage)
    if name not in names:
        raise UserError(f"there is no study {name} in {results}/optuna.db; it has: {', '.join(names) or 'none'}")
    return optuna.load_study(study_name=names[name], storage=storage)


def values_of(trial: FrozenTrial) -> dict[str, Value]:
    """The settings of a trial: of both levels where it is complete."""
    return trial.user_attrs.get("settings") or {name: decode(value) for name, value in trial.params.items()}


def counted(study: optuna.Study) -> list[FrozenTrial]:
    """Trials that used up budget: in full, stopped early, or failed for a reason of their own."""
    return [
        t
        for t in study.get_trials(deepcopy=False)
        if t.state in COUNTED or (t.state == TrialState.FAIL and "reason" in t.user_attrs)
    ]


def complete(study: optuna.Study, done: list[FrozenTrial] | None = None) -> list[FrozenTrial]:
    """Trials that ran in full, best first; only they are ranked.

    Args:
        done: `counted(study)`, where it is at hand.
    """
    trials = counted(study) if done is None else done
    full = [t for t in trials if t.state == TrialState.COMPLETE]
    return sorted(full, key=lambda t: -(t.value or 0.0))


def in_time(trials: list[FrozenTrial]) -> list[FrozenTrial]:
    """In the order in which they ended."""
    return sorted(trials, key=lambda t: t.user_attrs["started"] + t.user_attrs["seconds"])


def proxies(study: optuna.Study) -> dict[str, Interval]:
    """For each objective that needs no mask, how well it ranks the complete trials against seed mIoU: Kendall's tau.
    Empty where the trials have no seed mIoU."""
    wanted = "seed/best_miou"
    found = [t.user_attrs["metrics"] for t in complete(study) if wanted in t.user_attrs.get("metrics", {})]
    return {
        name: kendall([numbers[name] for numbers in found], [numbers[wanted] for numbers in found])
        for name in PROXIES
        if found and all(name in numbers for numbers in found)
    }


def published(study: optuna.Study, ranked: list[FrozenTrial] | None = None) -> tuple[FrozenTrial, dict] | None:
    """The complete trial with the published outer settings, and of its inner trials the one with the published
    settings of the later stages: `values`, `value`, `metrics`. None if there is none yet.

    Args:
        ranked: `complete(study)`, where it is at hand.
    """
    wanted = study.user_attrs["published"]
    trial = next((t for t in (complete(study) if ranked is None else ranked) if t.params == wanted), None)
    return (trial, trial.user_attrs["inner"][0]) if trial else None
