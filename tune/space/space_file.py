"""Search spaces as data: a YAML file to a typed space, checked against Config before anything starts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import optuna
import yaml
from pydantic import BaseModel, ValidationError

from sfc.config import Config, plugins
from sfc.config.files import (
    EXPERIMENTS,
    Address,
    absolute,
    change_config,
    find_file,
    load_config,
    merge,
    nearest,
    read_yaml,
    setting_names,
)
from sfc.errors import UserError
from sfc.scoring.names import split_of
from tune.space.entries import explain_entries
from tune.space.parameter import Parameter, Value, applies, decode, encode
from tune.space.sections import Asha, Budget, Final, Objective, SpaceFile

SPACES = EXPERIMENTS / "spaces"
INNER = ("cam.", "pseudo.")
"""Sections of the stages after the classifier: their settings are searched on a trained classifier's maps."""


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
    def outer(self) -> dict[str, Parameter]:
        """Parameters that the trials search, by name."""
        inner = self.inner
        return {name: parameter for name, parameter in self.file.parameters.items() if name not in inner}

    @property
    def asha(self) -> Asha | None:
        """How training is stopped early; None also where all trials share one classifier."""
        return self.file.asha if not all(name.startswith(INNER) for name in self.file.parameters) else None

    def rungs(self, config: Config) -> list[int]:
        """Epochs at which the trial of that configuration is compared with others."""
        return self.asha.rungs(config.classifier.epochs) if self.asha else []

    def suggest(self, trial: optuna.Trial) -> dict[str, Value]:
        """A trial's values of the outer parameters that apply, asked from Optuna in the file's order."""
        return self._ask(trial, self.outer, {})

    def suggest_inner(self, trial: optuna.Trial, chosen: dict[str, Value]) -> dict[str, Value]:
        """Values of the inner parameters that apply beside the outer ones that were chosen."""
        return self._ask(trial, self.inner, chosen)

    def _ask(self, trial: optuna.Trial, names: Iterable[str], before: dict[str, Value]) -> dict[str, Value]:
        chosen = dict(before)
        for name in names:
            if applies(self.file.parameters[name], chosen):
                chosen[name] = self.file.parameters[name].suggest(name, trial)
        return {name: value for name, value in chosen.items() if name not in before}

    def fits(self, point: Mapping[str, Any]) -> bool:
        """Whether the encoded values of a point lie in the ranges of the outer parameters, those that it has."""
        return all(p.holds(decode(point[name])) for name, p in self.outer.items() if name in point)

    def config(self, chosen: dict[str, Value]) -> Config:
        """The base with a trial's values put over it."""
        return change_config(self.base, chosen)

    def text(self) -> str:
        """The file as YAML."""
        values = self.file.model_dump(mode="json", by_alias=True, exclude_unset=True)
        return yaml.safe_dump(values, sort_keys=False)

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
    """A space file (a path, or a bare name in experiments/spaces/) on its base. The code that the file names as its
    objective may be imported from here on.

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
        raise UserError(explain_entries(error, places, str(path), _entries())) from None
    objective = file.objective
    config = load_config(
        base or _base(file.base, path),
        [*overrides, *([f"data.select={objective.split}"] if objective.split else [])],
    )
    if objective.is_plugin:  # the masks that the function may read
        config = config.model_copy(update={"selected_on": config.data.select})
    elif objective.needs_masks:
        config = config.model_copy(update={"selected_on": split_of(objective.metric, config.data)})
    fixed = {word.partition("=")[0] for word in overrides}
    problems = list(_Checks(file, config, places, path).problems(fixed))
    if problems:
        raise UserError("\n".join(problems))
    return Space(file=file, base=absolute(config))


def _base(name: str, path: Path) -> Path:
    return find_file(name, [path.parent, EXPERIMENTS])


def _entries() -> list[str]:
    """Every entry that a space file may have."""
    return [
        *SpaceFile.model_fields,
        *(field.alias or name for name, field in Parameter.model_fields.items()),
        *(name for section in (Objective, Asha, Budget, Final) for name in section.model_fields),
    ]


class _Checks:
    """Mistakes in a space file that its types alone do not show, each as a line with its place.

    Args:
        file: the space file.
        base: the configuration under it.
        places: `file:line` of each entry.
        path: of the file.
    """

    def __init__(self, file: SpaceFile, base: Config, places: dict[Address, str], path: Path) -> None:
        self.file, self.base, self.places, self.path = file, base, places, path

    def problems(self, fixed: set[str]) -> Iterator[str]:
        """All mistakes; `fixed` has the names of settings that the command line gives a value."""
        yield from self._objective()
        for i, name in enumerate(self.file.parameters):
            yield from self._parameter(name, list(self.file.parameters)[:i], fixed)
        yield from self._point("published", self.file.published, self._at("published"))
        for i, point in enumerate(self.file.start, 1):
            yield from self._point(f"start {i}", point, self._at("start", i - 1))
        for name, value in self.file.final.set.items():
            yield from self._value(name, value, self._at("final", "set", name))

    def _at(self, *address: str | int) -> str:
        return self.places.get(address, str(self.path))

    def _value(
        self, name: str, value: Any, place: str, context: Mapping[str, Any] = MappingProxyType({})
    ) -> Iterator[str]:
        try:
            change_config(self.base, {**context, name: value})
        except UserError as error:
            yield f"{place}: {str(error).split(': ', 1)[1]}"

    def _objective(self) -> Iterator[str]:
        metric = self.file.objective.metric
        if not self.file.objective.is_plugin:
            return
        try:
            plugins.allow(metric)
            if not callable(plugins.load(metric)):
                yield f"{self._at('objective', 'metric')}: {metric} is no function"
        except UserError as error:
            yield f"{self._at('objective', 'metric')}: {error}"

    def _parameter(self, name: str, above: list[str], fixed: set[str]) -> Iterator[str]:
        parameter, place = self.file.parameters[name], self._at("parameters", name)
        contexts = self._methods(parameter) if name.startswith("classifier.options.") else [{}]
        for context in contexts:
            if name not in setting_names(change_config(self.base, context)) or name.startswith("data."):
                of = f" of the method {context['classifier.method']}" if len(contexts) > 1 else ""
                yield f"{place}: unknown parameter {name}{of}{nearest(name)}"
                return
        if name in fixed:
            yield f"{place}: {name} is searched, so it can't be fixed on the command line too"
        for value in parameter.values():
            yield from self._value(name, value, place, contexts[0])
        for other in parameter.when:
            if other not in above:
                yield f"{place}: `when` names {other}, which is not a parameter above it"
            if other.startswith(INNER) and not name.startswith(INNER):
                yield f"{place}: `when` names {other}, which belongs to a later stage and is chosen after {name}"
        if name == "pseudo.threshold" and self.file.objective.metric.startswith("proxy/"):
            metric = self.file.objective.metric
            yield f"{place}: {name} can't be searched by {metric}: maps agree most where all is background"

    def _methods(self, parameter: Parameter) -> list[dict[str, Any]]:
        """Changes of the base's method under which an option is searched; an empty one where it stays."""
        searched = self.file.parameters.get("classifier.method")
        methods = parameter.when.get("classifier.method", searched.values() if searched else None)
        if methods is None:
            return [{}]
        return [{"classifier.method": method} for method in (methods if isinstance(methods, list) else [methods])]

    def _point(self, title: str, point: dict[str, Value], place: str) -> Iterator[str]:
        active: dict[str, Value] = {}
        for name, parameter in self.file.parameters.items():
            if not applies(parameter, active):
                continue
            if name not in point:
                yield f"{place}: {title} lacks a value for {name}"
            elif not parameter.holds(point[name]):
                yield f"{place}: {title} has {name} = {point[name]}, outside {parameter.kind} {parameter.values()}"
            active[name] = point.get(name)
        for name in point:
            if name not in active:
                yield f"{place}: {title} has {name}, which is not searched there"
