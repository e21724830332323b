"""Search spaces as data: a YAML file to a typed space, checked against Config before anything starts."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import optuna
import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from sfc.config import Config, Count, Section
from sfc.config.files import (
    EXPERIMENTS,
    Address,
    absolute,
    change_config,
    explain,
    field_at,
    find_file,
    load_config,
    merge,
    nearest,
    read_yaml,
    setting_names,
)
from sfc.errors import UserError
from tune.space.parameter import Parameter, Value, applies, encode

SPACES = EXPERIMENTS / "spaces"
INNER = ("cam.", "pseudo.")
"""Sections of the stages after the classifier: their settings are searched on a trained classifier's maps."""
METRICS = ("seed/best_miou", "seed/miou", "pseudo/miou")
PROXIES = ("proxy/map_agreement", "proxy/crf_agreement", "proxy/classification_map")
"""Objectives that need no mask."""
PARTS = ("_head", "_middle", "_tail")


class Objective(Section):
    """What a trial is judged by."""

    metric: str = "seed/best_miou"
    """One of METRICS, or a part of one by class frequency; or one of PROXIES, which need no mask."""
    split: str | None = None
    """Split whose images choose, put in data.select; None: the base's."""

    @property
    def needs_masks(self) -> bool:
        return self.metric not in PROXIES

    @model_validator(mode="after")
    def _known(self) -> Objective:
        known = [*(m + part for m in METRICS for part in ("", *PARTS)), *PROXIES]
        if self.metric not in known:
            raise ValueError(f"metric: {self.metric} can't be an objective. Known: {', '.join(known)}")
        return self


class Asha(Section):
    """Early stopping by asynchronous successive halving, by epoch."""

    grace: Count = 1
    reduction: Annotated[int, Field(ge=2)] = 2

    def rungs(self, epochs: int) -> list[int]:
        """Epochs at which trials are compared, below `epochs`."""
        rungs, epoch = [], self.grace
        while epoch < epochs:
            rungs.append(epoch)
            epoch *= self.reduction
        return rungs


class Budget(Section):
    """When a search ends."""

    trials: Count = 20
    """In all, those of earlier runs of the same study included."""
    inner: Annotated[int, Field(ge=0)] = 10
    """Settings of the stages after the classifier that each trial tries on its own maps; 0: they are searched together
    with those of the classifier, one training for each."""
    time: str | None = None
    """Such as 90s, 20m or 3h, for one run of the command: trials that run then are stopped, and come first next."""
    seed: int = 0
    """Of the sampler."""

    @model_validator(mode="after")
    def _time(self) -> Budget:
        if self.time is not None:
            seconds(self.time)
        return self


class Final(Section):
    """What goes through all stages in the end: the best `top` trials, each with `seeds` seeds."""

    top: Count = 4
    seeds: Count = 1
    """The base's and those after it. The trial with the best mean objective over them is the one that is kept."""
    set: Annotated[dict[str, Any], Field(default_factory=dict)]
    """Settings of the final run alone, such as longer training."""


class SpaceFile(Section):
    """A space file."""

    base: str
    objective: Objective = Objective()
    parameters: Annotated[dict[str, Parameter], Field(min_length=1)]
    published: dict[str, Any]
    start: tuple[dict[str, Any], ...] = ()
    asha: Asha | None = Asha()
    budget: Budget = Budget()
    final: Final = Final()


def seconds(text: str) -> float:
    """`90s`, `20m`, `3h` in seconds.

    Raises:
        ValueError: it is not of that form.
    """
    match = re.fullmatch(r"([0-9.]+)\s*([smh])", text.strip())
    if not match:
        raise ValueError(f"time: {text!r} is not of the form 90s, 20m or 3h")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]]


class Space(BaseModel):
    """A checked space on its base configuration."""

    model_config = {"frozen": True}

    file: SpaceFile
    base: Config
    """With the command line's settings in it, data.select from the objective, and selected_on: the split whose masks
    choose, if masks do."""

    @property
    def inner(self) -> list[str]:
        """Parameters that each trial searches by itself, on its maps: those of the stages after the classifier, where
        there are others too. Where there are no others, one classifier serves all trials, from the store."""
        names = list(self.file.parameters)
        after = [name for name in names if name.startswith(INNER)]
        return after if self.file.budget.inner and len(after) < len(names) else []

    @property
    def asha(self) -> Asha | None:
        """How training is stopped early; None also where all trials share one classifier."""
        return self.file.asha if not all(name.startswith(INNER) for name in self.file.parameters) else None

    def rungs(self, config: Config) -> list[int]:
        """Epochs at which the trial of that configuration is compared with others."""
        return self.asha.rungs(config.classifier.epochs) if self.asha else []

    def suggest(self, trial: optuna.Trial) -> dict[str, Value]:
        """A trial's values of the outer parameters that apply, asked from Optuna in the file's order."""
        inner = self.inner
        return self._ask(trial, [name for name in self.file.parameters if name not in inner], {})

    def suggest_inner(self, trial: optuna.Trial, chosen: dict[str, Value]) -> dict[str, Value]:
        """Values of the inner parameters that apply beside the outer ones that were chosen."""
        return self._ask(trial, self.inner, chosen)

    def _ask(self, trial: optuna.Trial, names: list[str], before: dict[str, Value]) -> dict[str, Value]:
        chosen = dict(before)
        for name in names:
            if applies(self.file.parameters[name], chosen):
                chosen[name] = self.file.parameters[name].suggest(name, trial)
        return {name: value for name, value in chosen.items() if name not in before}

    def config(self, chosen: dict[str, Value]) -> Config:
        """The base with a trial's values put over it."""
        return change_config(self.base, chosen)

    def text(self) -> str:
        """The file as YAML."""
        return yaml.safe_dump(self.file.model_dump(mode="json", by_alias=True, exclude_none=True), sort_keys=False)

    def points(self) -> list[dict[str, Value]]:
        """Outer settings to try first, encoded for Optuna: the published ones, then the start points."""
        inner = self.inner
        points = [{k: encode(v) for k, v in p.items() if k not in inner} for p in self._all_points()]
        return [point for i, point in enumerate(points) if point not in points[:i]]

    def inner_points(self, chosen: dict[str, Value]) -> list[dict[str, Value]]:
        """Inner settings that every trial tries first: the published ones, then those of the start points."""
        points = []
        for point in self._all_points():
            values = {
                name: encode(point[name])
                for name in self.inner
                if name in point and applies(self.file.parameters[name], {**point, **chosen})
            }
            if values not in points:
                points.append(values)
        return points

    def _all_points(self) -> tuple[dict[str, Value], ...]:
        return (self.file.published, *self.file.start)


def load_space(name: str, base: str | None = None, overrides: Sequence[str] = (), trials: int | None = None) -> Space:
    """A space file (a path, or a bare name in experiments/spaces/) on its base.

    Args:
        name: the file.
        base: another base than the file's.
        overrides: `section.key=value` words, put over the base.
        trials: another budget than the file's.

    Raises:
        UserError: every mistake in the file, with its line.
    """
    path = find_file(name, [SPACES])
    values, places = read_yaml(path)
    if trials is not None:
        values = merge(values, {"budget": {"trials": trials}})
    try:
        file = SpaceFile.model_validate_json(json.dumps(values))
    except ValidationError as error:
        raise UserError(_explain(error, places, path)) from None
    config = load_config(
        base or _base(file.base, path),
        [*overrides, *([f"data.select={file.objective.split}"] if file.objective.split else [])],
    )
    chooser = config.data.train if file.objective.metric.startswith("pseudo/") else config.data.select
    if file.objective.needs_masks:
        config = config.model_copy(update={"selected_on": chooser})
    problems = _problems(file, config, places, path, overrides)
    if problems:
        raise UserError("\n".join(problems))
    return Space(file=file, base=absolute(config))


def _base(name: str, path: Path) -> Path:
    return find_file(name, [path.parent, EXPERIMENTS])


def _explain(error: ValidationError, places: dict[Address, str], path: Path) -> str:
    """As `settings.explain`; an unknown entry is one of the space file, not a setting."""
    known = [
        *SpaceFile.model_fields,
        *(field.alias or name for name, field in Parameter.model_fields.items()),
        *(name for section in (Objective, Asha, Budget, Final) for name in section.model_fields),
    ]
    lines = []
    for line in explain(error, places, str(path)).splitlines():
        place, unknown, rest = line.partition(": unknown setting ")
        if unknown:
            entry = rest.partition(";")[0]
            close = difflib.get_close_matches(entry.split(".")[-1], known, n=1)
            line = f"{place}: unknown entry {entry}; " + (
                f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"
            )
        lines.append(line)
    return "\n".join(lines)


def _problems(
    file: SpaceFile, base: Config, places: dict[Address, str], path: Path, overrides: Sequence[str]
) -> list[str]:
    """What the types alone do not show."""
    found = []
    known = setting_names()

    def at(*address: str | int) -> str:
        return places.get(address, str(path))

    fixed = {word.partition("=")[0] for word in overrides}
    seen: list[str] = []
    for name, parameter in file.parameters.items():
        place = at("parameters", name)
        if name not in known or field_at(name.split(".")) is None or name.startswith("data."):
            found.append(f"{place}: unknown parameter {name}{nearest(name)}")
            continue
        if name in fixed:
            found.append(f"{place}: {name} is searched, so it can't be fixed on the command line too")
        for value in parameter.values():
            try:
                change_config(base, {name: value})
            except UserError as error:
                found.append(f"{place}: {str(error).split(': ', 1)[1]}")
        found += [
            f"{place}: `when` names {other}, which is not a parameter above it"
            for other in parameter.when
            if other not in seen
        ]
        if not name.startswith(INNER):
            found += [
                f"{place}: `when` names {other}, which belongs to a later stage and is chosen after {name}"
                for other in parameter.when
                if other.startswith(INNER)
            ]
        if name == "pseudo.threshold" and not file.objective.needs_masks:
            found.append(
                f"{place}: {name} can't be searched by {file.objective.metric}: maps agree most where all is background"
            )
        seen.append(name)
    for what, point in [("published", file.published), *((f"start {i}", p) for i, p in enumerate(file.start, 1))]:
        place = at("published") if what == "published" else at("start", int(what.split()[1]) - 1)
        active: dict[str, Value] = {}
        for name, parameter in file.parameters.items():
            if not applies(parameter, active):
                continue
            if name not in point:
                found.append(f"{place}: {what} lacks a value for {name}")
            elif not parameter.holds(point[name]):
                found.append(
                    f"{place}: {what} has {name} = {point[name]}, outside {parameter.kind} {parameter.values()}"
                )
            active[name] = point.get(name)
        found += [f"{place}: {what} has {name}, which is not searched there" for name in point if name not in active]
    for name, value in file.final.set.items():
        try:
            change_config(base, {name: value})
        except UserError as error:
            found.append(f"{at('final', 'set', name)}: {str(error).split(': ', 1)[1]}")
    return found
