"""Ablation plans as data: a YAML file to arms, each a checked configuration, before anything starts."""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator

from sfc.config import Config, Section
from sfc.config.files import (
    EXPERIMENTS,
    Address,
    build_config,
    find_file,
    merge_settings,
    nested,
    read_yaml,
)
from sfc.errors import UserError
from sfc.pipeline import Until
from tune.space.entries import explain_entries

log = logging.getLogger("sfc")

PLANS = EXPERIMENTS / "ablations"
KINDS = ("leave_one_out", "one_factor", "factorial", "arms")
CHOSEN: dict[str, Any] = {"selected_on": True, "pseudo": {"threshold"}}
"""Settings that are chosen for each run by the select split's masks, whatever an arm says."""
WITHOUT_EFFECT: dict[str, dict[str, Any]] = {
    "seed": {
        **CHOSEN,
        "pseudo": {"threshold", "method", "void_unsure", "crf", "walk"},
        "affinity": True,
        "segmentation": True,
        "evaluation": True,
    },
    "pseudo": {**CHOSEN, "segmentation": True, "evaluation": True},
    "segmentation": CHOSEN,
}
"""Settings that change no number up to a stage, by stage."""

Settings = dict[str, Any]
Values = Annotated[list[Any], Field(min_length=1)]


class Arm(Section):
    """One row: settings over the base, or over the best trial of the study."""

    tuned: bool = False
    set: Annotated[Settings, Field(default_factory=dict)]


class PlanFile(Section):
    """A plan file: exactly one of the four kinds."""

    base: str
    until: Until = "segmentation"
    """How far each arm goes."""
    leave_one_out: Annotated[dict[str, Annotated[Settings, Field(min_length=1)]], Field(min_length=1)] | None = None
    """Component and the settings that switch it off."""
    one_factor: Annotated[dict[str, Values], Field(min_length=1)] | None = None
    """Setting and its values, one changed at a time."""
    factorial: Annotated[dict[str, Values], Field(min_length=1)] | None = None
    """Settings and their values, every combination."""
    arms: Annotated[dict[str, Arm], Field(min_length=1)] | None = None
    reference: str | None = None
    """The arm that the others are compared with, of `arms`; None: the first."""

    @model_validator(mode="after")
    def _one_kind(self) -> PlanFile:
        kinds = [kind for kind in KINDS if getattr(self, kind) is not None]
        if len(kinds) != 1:
            raise ValueError(f"needs exactly one of {', '.join(KINDS)}; has {', '.join(kinds) or 'none'}")
        if self.reference is not None and self.reference not in (self.arms or {}):
            hint = f"it has {', '.join(self.arms)}" if self.arms else "only a plan with `arms` names it"
            raise ValueError(f"reference: there is no arm {self.reference}; {hint}")
        return self


@dataclass(frozen=True)
class Plan:
    """A plan file that was read."""

    file: PlanFile
    path: Path
    places: dict[Address, str]
    """`file:line` of each entry."""

    def at(self, *address: str | int) -> str:
        """`file:line` of an entry, or of the nearest one above it."""
        above = (address[:n] for n in range(len(address), 0, -1))
        return next((self.places[part] for part in above if part in self.places), str(self.path))


@dataclass(frozen=True)
class _Row:
    """An arm before it is a configuration: its settings, and `file:line` of the arm and of each setting."""

    name: str
    settings: Settings
    line: str
    lines: dict[str, str]
    tuned: bool = False


def load_plan(name: str) -> Plan:
    """A plan (a path, or a bare name in experiments/ablations/).

    Raises:
        UserError: every mistake in its entries, with its line; settings are checked by `arm_configs`.
    """
    path = find_file(name, [PLANS])
    values, places = read_yaml(path)
    try:
        return Plan(PlanFile.model_validate_json(json.dumps(values)), path, places)
    except ValidationError as error:
        names = [*PlanFile.model_fields, *Arm.model_fields]
        raise UserError(explain_entries(error, places, str(path), names)) from None


def _shown(setting: str, value: Any, settings: Iterable[str]) -> str:
    """`key = value`, with the sections before the key where several of the settings have it."""
    key = setting.split(".")[-1]
    unique = [s.split(".")[-1] for s in settings].count(key) == 1
    return f"{key if unique else setting} = {value if isinstance(value, str) else json.dumps(value)}"


def _rows(plan: Plan) -> list[_Row]:
    """The arms of a plan in its order, the reference first."""
    file = plan.file

    def row(name: str, settings: Settings, *address: str | int, tuned: bool = False) -> _Row:
        return _Row(name, settings, plan.at(*address), {s: plan.at(*address, s) for s in settings}, tuned)

    if file.arms:
        rows = [row(name, arm.set, "arms", name, "set", tuned=arm.tuned) for name, arm in file.arms.items()]
        return sorted(rows, key=lambda r: r.name != (file.reference or rows[0].name))
    if file.leave_one_out:
        parts = file.leave_one_out.items()
        return [row("full", {}, "leave_one_out")] + [row(f"without {n}", s, "leave_one_out", n) for n, s in parts]
    if file.one_factor:
        rows = [row("base", {}, "one_factor")]
        for setting, values in file.one_factor.items():
            names = [_shown(setting, value, file.one_factor) for value in values]
            pairs = enumerate(zip(names, values, strict=True))
            rows += [row(name, {setting: value}, "one_factor", setting, i) for i, (name, value) in pairs]
        return rows
    rows = [row("base", {}, "factorial")]
    for combination in itertools.product(*(file.factorial or {}).values()):
        settings = dict(zip(file.factorial or {}, combination, strict=True))
        rows.append(row(", ".join(_shown(s, v, settings) for s, v in settings.items()), settings, "factorial"))
    return rows


def arm_configs(plan: Plan, base: Config, tuned: Config | None = None) -> dict[str, Config]:
    """The configuration of each arm by name, the reference first.

    Args:
        plan: from `load_plan`.
        base: what arms change.
        tuned: the best of a study: the base of plans without `arms`, and of arms that are `tuned`.

    Raises:
        UserError: every mistake: unknown or wrong settings, an arm that is the same as another, a study is missing.
    """
    problems: list[str] = []
    configs: dict[str, Config] = {}
    reference, *others = _rows(plan)
    swept = plan.file.one_factor is not None or plan.file.factorial is not None
    seen: dict[str, str] = {}
    for row in (reference, *others):
        if row.tuned and tuned is None:
            problems.append(f"{row.line}: the arm {row.name!r} is the best of a search: name it by --study")
            continue
        start = tuned if tuned is not None and (row.tuned or not plan.file.arms) else base
        try:
            config = _changed(start, row)
        except UserError as error:
            problems += str(error).splitlines()
            continue
        content = config.model_dump_json(exclude=WITHOUT_EFFECT[plan.file.until])
        same = seen.setdefault(content, row.name)
        if row.name in configs:
            problems.append(f"{row.line}: the arm {row.name!r} stands here twice")
        elif same == row.name:
            configs[row.name] = config
        elif plan.file.leave_one_out and tuned is not None and same == reference.name:
            log.warning("%s: the best of the study does %s already, so it is no arm", row.line, row.name)
        elif not (swept and same == reference.name):  # a sweep passes over the base's own value
            limit = "" if plan.file.until == "segmentation" else f" up to the stage {plan.file.until}"
            problems.append(
                f"{row.line}: the arm {row.name!r} is the same as {same!r}{limit}; "
                "take it out of the plan, or change another base"
            )
    if not problems and len(configs) < 2:
        problems.append(f"{plan.path}: no arm differs from the reference {reference.name!r}")
    if problems:
        raise UserError("\n".join(dict.fromkeys(problems)))
    return configs


def _changed(start: Config, row: _Row) -> Config:
    """The configuration of one arm.

    Raises:
        UserError: its mistakes, each with its place.
    """
    changes: dict[str, Any] = {}
    places: dict[Address, str] = {}
    fixed = []
    for setting, value in row.settings.items():
        section = setting.partition(".")[0]
        if section in ("data", "seed", "selected_on"):
            fixed.append(f"{row.lines[setting]}: {setting} can't differ: every arm has the same data and seeds")
            continue
        if setting == "pseudo.threshold":
            fixed.append(f"{row.lines[setting]}: {setting} is chosen for each run by the select split's masks")
            continue
        places[tuple(setting.split("."))] = row.lines[setting]
        changes[setting] = value
    try:
        values = merge_settings(start.model_dump(mode="json"), nested(changes))
        config = build_config(values, places, f"{row.line}: arm {row.name!r}")
    except UserError as error:
        raise UserError("\n".join([*fixed, str(error)])) from None
    if fixed:
        raise UserError("\n".join(fixed))
    return config
