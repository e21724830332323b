"""Ablation plans as data: a YAML file to arms, each a checked configuration, before anything starts."""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Iterable
from typing import Annotated, Any, NamedTuple

from pydantic import Field, model_validator

from sfc.config import Config, Section
from sfc.config.files import EXPERIMENTS, Address, build_config, merge_settings, nested
from sfc.config.values import restrict
from sfc.errors import UserError
from sfc.pipeline import MEASURED, STAGES, Until
from sfc.scoring.names import MEASURES
from tune.space.entries import Entries, read_entries

log = logging.getLogger("sfc")

PLANS = EXPERIMENTS / "ablations"
KINDS = ("leave_one_out", "one_factor", "factorial", "arms")

Settings = dict[str, Any]
Values = Annotated[list[Any], Field(min_length=1)]


class Arm(Section):
    """One row: settings over the base, or over the best trial of the study."""

    tuned: bool = False
    set: Settings = Field(default_factory=dict)


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


Plan = Entries[PlanFile]


class _Row(NamedTuple):
    """An arm before it is a configuration: its settings, and where they stand in the file."""

    name: str
    settings: Settings
    address: Address
    tuned: bool = False


def load_plan(name: str) -> Plan:
    """A plan (a path, or a bare name in experiments/ablations/).

    Raises:
        UserError: every mistake in its entries, with its line; settings are checked by `arm_configs`.
    """
    return read_entries(PlanFile, name, PLANS)


def _shown(setting: str, value: Any, settings: Iterable[str]) -> str:
    """`key = value`, with the sections before the key where several of the settings have it."""
    key = setting.split(".")[-1]
    unique = [s.split(".")[-1] for s in settings].count(key) == 1
    return f"{key if unique else setting} = {value if isinstance(value, str) else json.dumps(value)}"


def _rows(file: PlanFile) -> list[_Row]:
    """The arms of a plan in its order, the reference first."""
    if file.arms:
        rows = [_Row(name, arm.set, ("arms", name, "set"), arm.tuned) for name, arm in file.arms.items()]
        return sorted(rows, key=lambda r: r.name != (file.reference or rows[0].name))
    if file.leave_one_out:
        rows = [_Row(f"without {n}", s, ("leave_one_out", n)) for n, s in file.leave_one_out.items()]
        return [_Row("full", {}, ("leave_one_out",)), *rows]
    if file.one_factor:
        rows = [
            _Row(_shown(setting, value, file.one_factor), {setting: value}, ("one_factor", setting, i))
            for setting, values in file.one_factor.items()
            for i, value in enumerate(values)
        ]
        return [_Row("base", {}, ("one_factor",)), *rows]
    rows = [_Row("base", {}, ("factorial",))]
    for combination in itertools.product(*(file.factorial or {}).values()):
        settings = dict(zip(file.factorial or {}, combination, strict=True))
        rows.append(_Row(", ".join(_shown(s, v, settings) for s, v in settings.items()), settings, ("factorial",)))
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
    file, rows = plan.file, _rows(plan.file)
    reference, swept = rows[0].name, file.one_factor is not None or file.factorial is not None
    seen: dict[str, str] = {}
    for row in rows:
        line = plan.at(*row.address)
        if row.tuned and tuned is None:
            problems.append(f"{line}: the arm {row.name!r} is the best of a search: name it by --study")
            continue
        start = tuned if tuned is not None and (row.tuned or not file.arms) else base
        try:
            config = _changed(start, row, plan)
        except UserError as error:
            problems += str(error).splitlines()
            continue
        same = seen.setdefault(_effective(config, file.until), row.name)
        if row.name in configs:
            problems.append(f"{line}: the arm {row.name!r} stands here twice")
        elif same == row.name:
            configs[row.name] = config
        elif file.leave_one_out and tuned is not None and same == reference:
            log.warning("%s: the best of the study does %s already, so it is no arm", line, row.name)
        elif not (swept and same == reference):  # a sweep passes over the base's own value
            limit = "" if file.until == "segmentation" else f" up to the stage {file.until}"
            problems.append(
                f"{line}: the arm {row.name!r} is the same as {same!r}{limit}; "
                "take it out of the plan, or change another base"
            )
    if not problems and len(configs) < 2:
        problems.append(f"{plan.path}: no arm differs from the reference {reference!r}")
    if problems:
        raise UserError("\n".join(dict.fromkeys(problems)))
    return configs


def _effective(config: Config, until: Until) -> str:
    """The settings that can change a number up to a stage, as JSON. The threshold is not one of them: each run chooses
    its own by the select split's masks, whatever an arm says."""
    stages = [MEASURES[prefix].stage for prefix in MEASURED[until]]
    for stage in stages:  # which grows by the stages before these
        stages += [before for before in STAGES[stage].inputs(config) if before not in stages]
    read = restrict(config, [setting for stage in stages for setting in STAGES[stage].reads(config)])
    return read.model_dump_json(exclude={"pseudo": {"threshold"}})


def _changed(start: Config, row: _Row, plan: Plan) -> Config:
    """The configuration of one arm.

    Raises:
        UserError: its mistakes, each with its place.
    """
    fixed: list[str] = []
    changes: Settings = {}
    places: dict[Address, str] = {}
    for setting, value in row.settings.items():
        line = plan.at(*row.address, setting)
        if setting.partition(".")[0] in ("data", "seed", "selected_on"):
            fixed.append(f"{line}: {setting} can't differ: every arm has the same data and seeds")
        elif setting == "pseudo.threshold":
            fixed.append(f"{line}: {setting} is chosen for each run by the select split's masks")
        else:
            changes[setting], places[tuple(setting.split("."))] = value, line
    try:
        values = merge_settings(start.model_dump(mode="json"), nested(changes))
        config = build_config(values, places, f"{plan.at(*row.address)}: arm {row.name!r}")
    except UserError as error:
        raise UserError("\n".join([*fixed, str(error)])) from None
    if fixed:
        raise UserError("\n".join(fixed))
    return config
