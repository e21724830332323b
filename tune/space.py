"""Search spaces as data: a YAML file to a typed space, checked against Config before anything starts."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import optuna
from pydantic import BaseModel, Field, ValidationError, model_validator

from sfc.config import Config, Count, Section
from sfc.errors import UserError
from sfc.settings import (
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

SPACES = EXPERIMENTS / "spaces"
Value = float | int | str | bool | None | list[Any]


class Parameter(Section):
    """One searched setting: exactly one of the four kinds, and when it applies."""

    uniform: tuple[float, float] | None = None
    log_uniform: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] | None = None
    integer: tuple[int, int] | None = Field(None, alias="int")
    choice: Annotated[tuple[Any, ...], Field(min_length=1)] | None = None
    when: Annotated[dict[str, Any], Field(default_factory=dict)]
    """Other parameters and the value (or the list of values) at which this one is searched."""

    def given(self) -> dict[str, tuple[Any, ...]]:
        """The kinds that the file names, with their range or choices."""
        kinds = {"uniform": self.uniform, "log_uniform": self.log_uniform, "int": self.integer, "choice": self.choice}
        return {kind: values for kind, values in kinds.items() if values is not None}

    @property
    def kind(self) -> str:
        return next(iter(self.given()))

    @model_validator(mode="after")
    def _one_kind(self) -> Parameter:
        given = self.given()
        if len(given) != 1:
            raise ValueError(f"needs exactly one of uniform, log_uniform, int, choice; has {list(given) or 'none'}")
        if self.choice is None and self.values()[0] >= self.values()[1]:
            raise ValueError(f"an empty range, {self.values()}: the low end must be below the high end")
        return self

    def values(self) -> list[Value]:
        """Choices, or both ends of the range."""
        return list(self.given()[self.kind])

    def holds(self, value: Value) -> bool:
        """Whether a value lies in the range or among the choices."""
        if self.choice is not None:
            return value in self.choice
        low, high = self.values()
        return isinstance(value, int | float) and low <= value <= high

    def suggest(self, name: str, trial: optuna.Trial) -> Value:
        """Ask Optuna for a value."""
        if self.choice is not None:
            return decode(trial.suggest_categorical(name, [encode(v) for v in self.choice]))
        low, high = self.values()
        if self.integer is not None:
            return trial.suggest_int(name, low, high)
        return trial.suggest_float(name, low, high, log=self.log_uniform is not None)


def encode(value: Value) -> str | int | float | bool | None:
    """A choice as Optuna can store it: lists become JSON."""
    return json.dumps(value) if isinstance(value, list | tuple) else value


def decode(value: Any) -> Value:
    """The inverse of `encode`."""
    return json.loads(value) if isinstance(value, str) and value.startswith("[") else value


class Objective(Section):
    """What a trial is judged by."""

    metric: str = "seed/best_miou"
    split: str | None = None
    """Split whose masks choose, put in data.select; None: the base's."""


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
    time: str | None = None
    """Such as 90s, 20m or 3h: no trial starts after it, for one run of the command."""
    seed: int = 0
    """Of the sampler."""

    @model_validator(mode="after")
    def _time(self) -> Budget:
        if self.time is not None:
            seconds(self.time)
        return self


class Final(Section):
    """What the final run does beside the best configuration."""

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
    """With the command line's settings in it and data.select from the objective."""

    def suggest(self, trial: optuna.Trial) -> dict[str, Value]:
        """Values of all parameters that apply, asked from Optuna in the file's order."""
        chosen: dict[str, Value] = {}
        for name, parameter in self.file.parameters.items():
            if applies(parameter, chosen):
                chosen[name] = parameter.suggest(name, trial)
        return chosen

    def config(self, chosen: dict[str, Value]) -> Config:
        """The base with a trial's values put over it."""
        return change_config(self.base, chosen)

    def points(self) -> list[dict[str, Value]]:
        """Settings to try first, encoded for Optuna: the published ones, then the start points."""
        return [{name: encode(v) for name, v in point.items()} for point in (self.file.published, *self.file.start)]


def applies(parameter: Parameter, chosen: dict[str, Value]) -> bool:
    """Whether the conditions of a parameter hold for the values chosen so far."""
    return all(
        other in chosen and chosen[other] in (wanted if isinstance(wanted, list) else [wanted])
        for other, wanted in parameter.when.items()
    )


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
    if not file.objective.metric.startswith(("seed/", "pseudo/")):
        found.append(
            f"{at('objective', 'metric')}: {file.objective.metric} can't be an objective. Known: seed/best_miou, "
            "seed/miou, pseudo/miou, and the parts of each by class frequency (_head, _middle, _tail)"
        )
    return found
