"""An edited space file on a study that exists: what changed, and which trials still fit."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from sfc.config import Config
from sfc.config.files import change_config
from tune.space.parameter import Value, applies, decode, encode
from tune.space.space_file import INNER, Space, SpaceFile


@dataclass
class Edit:
    """What an edited space file means for a study."""

    changes: list[str]
    """A line each."""
    later: bool
    """The settings of the stages after the classifier are searched differently."""
    kept: list[int] = field(default_factory=list)
    """Numbers of the trials that still count."""
    unfit: dict[int, str] = field(default_factory=dict)
    """Numbers of those that do not, and why."""
    again: list[dict[str, Any]] = field(default_factory=list)
    """Outer settings that go into the queue: queued before, or trained already and to be searched again on their
    maps."""


def edited(before: dict[str, Any], space: Space) -> Edit | None:
    """What changed between the space that a study keeps and the one that is given; None: nothing that matters."""
    old = SpaceFile.model_validate_json(json.dumps(before))
    new = space.file
    changes = []
    for name in dict.fromkeys([*old.parameters, *new.parameters]):
        was, now = (file.parameters.get(name) for file in (old, new))
        if was != now:
            texts = [p.text() if p else "not searched" for p in (was, now)]
            changes.append(f"{name}: {texts[0]} -> {texts[1]}")
    for name in dict.fromkeys([*old.published, *new.published]):
        pair = [file.published.get(name, "not given") for file in (old, new)]
        if pair[0] != pair[1]:
            changes.append(f"published {name}: {pair[0]} -> {pair[1]}")
    inner = [space.model_copy(update={"file": file}).inner for file in (old, new)]
    if inner[0] != inner[1] and not changes:
        changes.append(f"budget.inner: {old.budget.inner} -> {new.budget.inner}")
    if not changes:
        return None
    later = [
        {name: (file.parameters[name], file.published.get(name)) for name in names}
        for file, names in zip((old, new), inner, strict=True)
    ]
    return Edit(changes, later[0] != later[1])


def fit(trial: FrozenTrial, study: optuna.Study, space: Space, edit: Edit) -> FrozenTrial:
    """A trial of the study as it goes into the edited one, noted in `edit`.

    A trial fits if its whole configuration is one that the edited space can give: so a setting that is searched now and
    was fixed before has the value that it had. One that does not fit goes over without parameters, as failed.

    Returns:
        To be added to a study.
    """
    kept = {"user_attrs": trial.user_attrs, "intermediate_values": trial.intermediate_values}
    if not trial.state.is_finished() or trial.state == TrialState.FAIL:
        queued = trial.system_attrs.get("fixed_params", {})
        if trial.state == TrialState.WAITING and queued:
            edit.again.append(queued)
        if "reason" in trial.user_attrs:
            edit.kept.append(trial.number)
        return create_trial(state=TrialState.FAIL, user_attrs=trial.user_attrs)
    values = trial.user_attrs.get("settings") or {n: decode(v) for n, v in trial.params.items()}
    old = change_config(Config.model_validate_json(json.dumps(study.user_attrs["base"])), values)
    chosen, reason = _chosen(old, space)
    if reason is None and edit.later and trial.state == TrialState.COMPLETE:
        reason = "its later stages are searched again on its maps"
        edit.again.append({n: encode(v) for n, v in chosen.items()})
    if reason is not None:
        edit.unfit[trial.number] = reason
        return create_trial(state=TrialState.FAIL, user_attrs=trial.user_attrs | {"unfit": reason})
    edit.kept.append(trial.number)
    encoded = {n: encode(v) for n, v in chosen.items()}
    fixed = optuna.trial.FixedTrial(encoded)
    space.suggest(fixed)
    return create_trial(state=trial.state, value=trial.value, params=encoded, distributions=fixed.distributions, **kept)


def _chosen(config: Config, space: Space) -> tuple[dict[str, Value], str | None]:
    """The outer settings with which the space gives a configuration, and why it can't."""
    settings = config.model_dump(mode="json")
    chosen: dict[str, Value] = {}
    for name, parameter in space.file.parameters.items():
        if name in space.inner or not applies(parameter, chosen):
            continue
        value: Any = settings
        for part in name.split("."):
            value = value[part]
        if not parameter.holds(value):
            return chosen, f"{name} = {value} lies outside {parameter.text()}"
        chosen[name] = value
    given = space.config(chosen).model_dump(mode="json")
    skipped = {prefix.rstrip(".") for prefix in INNER} if space.inner else set()
    for section, entries in settings.items():
        if section in skipped or section == "data" or entries == given[section]:
            continue
        if not isinstance(entries, dict):
            return chosen, f"{section} = {entries}, and the space has {given[section]}"
        name = next(n for n, v in entries.items() if v != given[section][n])
        return chosen, f"{section}.{name} = {entries[name]}, and the space has {given[section][name]}"
    return chosen, None
