"""Search spaces as data: a YAML file to a typed space, checked against Config before anything starts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
import yaml
from pydantic import BaseModel

from sfc.config import Config, plugins
from sfc.config.files import EXPERIMENTS, absolute, change_config, find_file, load_config, nearest, setting_names
from sfc.errors import UserError
from sfc.scoring.names import prefix_of, split_of
from tune.space.entries import Entries, read_entries
from tune.space.parameter import Parameter, Value, decode, encode
from tune.space.sections import PLAIN_CAM, PUBLISHED, SEED_MIOU, Asha, SpaceFile

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
        after = [name for name in self.file.parameters if name.startswith(INNER)]
        return after if self.file.budget.inner and len(after) < len(self.file.parameters) else []

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

    @property
    def stages(self) -> tuple[str, ...]:
        """What a trial with a trained classifier is compared with others by before the objective is measured: cheaper
        numbers, of which only the better go on."""
        later = {"pseudo": (SEED_MIOU,), "segmentation": (SEED_MIOU, "pseudo/miou")}
        return later.get(prefix_of(self.file.objective.metric), ())

    def references(self) -> dict[str, Config]:
        """What the chosen setting is compared with, by name: the published setting, plain CAM, and the file's own."""
        plain = {"classifier.method": "cam", "classifier.bank_images": 0}
        own = {PUBLISHED: self.file.published, PLAIN_CAM: plain, **self.file.compare.references}
        configs = {name: self.config(values) for name, values in own.items()}
        return {n: c for i, (n, c) in enumerate(configs.items()) if c not in list(configs.values())[:i]}

    def suggest(self, trial: optuna.Trial) -> dict[str, Value]:
        """A trial's values of the outer parameters that apply, asked from Optuna in the file's order."""
        return self._suggest(trial, self.outer, {})

    def suggest_inner(self, trial: optuna.Trial, chosen: dict[str, Value]) -> dict[str, Value]:
        """Values of the inner parameters that apply beside the outer ones that were chosen."""
        return self._suggest(trial, self.inner, chosen)

    def _suggest(self, trial: optuna.Trial, names: Iterable[str], chosen: dict[str, Value]) -> dict[str, Value]:
        values: dict[str, Value] = {}
        for name in names:
            if self.file.parameters[name].applies(chosen | values):
                values[name] = self.file.parameters[name].suggest(name, trial)
        return values

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
        return _distinct({k: encode(v) for k, v in p.items() if k not in inner} for p in self._points())

    def inner_points(self, chosen: dict[str, Value]) -> list[dict[str, Value]]:
        """Inner settings that every trial tries first: the published ones, then those of the start points."""
        parameters = {name: self.file.parameters[name] for name in self.inner}
        return _distinct(
            {k: encode(point[k]) for k, p in parameters.items() if k in point and p.applies(point | chosen)}
            for point in self._points()
        )

    def _points(self) -> list[dict[str, Value]]:
        return [self.file.published, *self.file.start]


def _distinct(points: Iterable[dict[str, Value]]) -> list[dict[str, Value]]:
    points = list(points)
    return [point for i, point in enumerate(points) if point not in points[:i]]


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
    entries = read_entries(SpaceFile, name, SPACES, {} if trials is None else {"budget": {"trials": trials}})
    file, objective = entries.file, entries.file.objective
    split = [f"data.select={objective.split}"] if objective.split else []
    config = load_config(base or find_file(file.base, [entries.path.parent, EXPERIMENTS]), [*overrides, *split])
    if objective.is_plugin or objective.needs_masks:  # a function of the user's own may read the select split's
        config = config.model_copy(update={"selected_on": split_of(objective.metric, config.data)})
    problems = list(_Checks(entries, config).problems({word.partition("=")[0] for word in overrides}))
    if problems:
        raise UserError("\n".join(problems))
    return Space(file=file, base=absolute(config))


@dataclass(frozen=True)
class _Checks:
    """Mistakes in a space file that its types alone do not show, each as a line with its place."""

    entries: Entries[SpaceFile]
    base: Config

    def problems(self, fixed: set[str]) -> Iterator[str]:
        """All mistakes; `fixed` has the names of settings that the command line gives a value."""
        file, at = self.entries.file, self.entries.at
        if file.objective.is_plugin:
            try:
                plugins.allow(file.objective.metric)
                if not callable(plugins.load(file.objective.metric)):
                    yield f"{at('objective', 'metric')}: {file.objective.metric} is no function"
            except UserError as error:
                yield f"{at('objective', 'metric')}: {error}"
        for i, name in enumerate(file.parameters):
            yield from self._parameter(name, list(file.parameters)[:i], fixed)
        yield from self._point("published", file.published, at("published"))
        for i, point in enumerate(file.start):
            yield from self._point(f"start {i + 1}", point, at("start", i))
        for name, value in file.compare.set.items():
            yield from self._change({name: value}, at("compare", "set", name))
        for arm, values in file.compare.references.items():
            yield from self._change(values, at("compare", "references", arm))

    def _change(self, changes: dict[str, Any], place: str) -> Iterator[str]:
        try:
            change_config(self.base, changes)
        except UserError as error:
            yield f"{place}: {str(error).split(': ', 1)[1]}"

    def _parameter(self, name: str, above: list[str], fixed: set[str]) -> Iterator[str]:
        file, place = self.entries.file, self.entries.at("parameters", name)
        parameter, metric = file.parameters[name], file.objective.metric
        contexts = self._methods(parameter) if name.startswith("classifier.options.") else [{}]
        for context in contexts:
            if name not in setting_names(change_config(self.base, context)) or name.startswith("data."):
                of = f" of the method {context['classifier.method']}" if len(contexts) > 1 else ""
                yield f"{place}: unknown parameter {name}{of}{nearest(name)}"
                return
        if name in fixed:
            yield f"{place}: {name} is searched, so it can't be fixed on the command line too"
        for value in parameter.values():
            yield from self._change({**contexts[0], name: value}, place)
        for other in parameter.when:
            if other not in above:
                yield f"{place}: `when` names {other}, which is not a parameter above it"
            if other.startswith(INNER) and not name.startswith(INNER):
                yield f"{place}: `when` names {other}, which belongs to a later stage and is chosen after {name}"
        if name == "pseudo.threshold" and metric.startswith("proxy/"):
            yield f"{place}: {name} can't be searched by {metric}: maps agree most where all is background"

    def _methods(self, parameter: Parameter) -> list[dict[str, Any]]:
        """Changes of the base's method under which an option is searched; an empty one where it stays."""
        searched = self.entries.file.parameters.get("classifier.method")
        methods = parameter.when.get("classifier.method", searched.values() if searched else None)
        if methods is None:
            return [{}]
        return [{"classifier.method": method} for method in (methods if isinstance(methods, list) else [methods])]

    def _point(self, title: str, point: dict[str, Value], place: str) -> Iterator[str]:
        active: dict[str, Value] = {}
        for name, parameter in self.entries.file.parameters.items():
            if not parameter.applies(active):
                continue
            if name not in point:
                yield f"{place}: {title} lacks a value for {name}"
            elif not parameter.holds(point[name]):
                yield f"{place}: {title} has {name} = {point[name]}, outside {parameter.range_text()}"
            active[name] = point.get(name)
        for name in point:
            if name not in active:
                yield f"{place}: {title} has {name}, which is not searched there"
