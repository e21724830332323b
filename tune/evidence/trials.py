"""A study's trials for the report: how each ended, its numbers and settings, as tables.

A number that an older study did not record is left out.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
from optuna.trial import FrozenTrial, TrialState

from sfc.config import Config
from sfc.results import supervision
from sfc.scoring.names import PARTS, split_of
from tune.evidence.importance import inner_of
from tune.evidence.tables import number
from tune.space.parameter import decode
from tune.study.progress import duration, shown
from tune.study.study import base_of, complete, counted, how_ended, published, values_of


def table(
    rows: Sequence[Mapping[str, str]], masks: Mapping[str, str] | None = None, marked: Sequence[bool] = ()
) -> pd.DataFrame:
    """Cells for the page, an empty one where a row lacks the column.

    Its `attrs` hold `masks`, those that the numbers of a column have seen, and `marked`, whether a row stands out.
    """
    cells = pd.DataFrame(rows, dtype=object).fillna("")
    cells.attrs = {"masks": masks or {}, "marked": [*marked] or [False] * len(rows)}
    return cells


def search_masks(metric: str) -> str:
    """Masks that the search's objective has seen by the end of the search."""
    return "image-labels" if metric.startswith("proxy/") else "same masks"


@dataclass(frozen=True)
class Evidence:
    """A study and its results folder."""

    study: optuna.Study
    results: Path

    @cached_property
    def metric(self) -> str:
        return self.study.user_attrs["metric"]

    @property
    def split(self) -> str:
        """The split on which the objective is measured."""
        return split_of(self.metric, self.base.data)

    @cached_property
    def base(self) -> Config:
        return base_of(self.study)

    @cached_property
    def trials(self) -> list[FrozenTrial]:
        """Trials that used up budget, however they ended."""
        return counted(self.study)

    @cached_property
    def ranked(self) -> list[FrozenTrial]:
        """Trials in full, the best first."""
        return complete(self.study, self.trials)

    @cached_property
    def early(self) -> list[FrozenTrial]:
        return [t for t in self.trials if how_ended(t) == TrialState.PRUNED]

    @cached_property
    def failed(self) -> list[FrozenTrial]:
        return [t for t in self.trials if how_ended(t) == TrialState.FAIL]

    @property
    def best(self) -> FrozenTrial | None:
        return self.ranked[0] if self.ranked else None

    @cached_property
    def reference(self) -> FrozenTrial | None:
        """The published setting, where its classifier's trial ran in full: that trial, or where its inner search
        improved on the published values, a copy of the trial with the published setting's numbers."""
        if (pair := published(self.study, self.ranked)) is None:
            return None
        trial, evaluation = pair
        if evaluation["value"] == trial.value:
            return trial
        outer = {name: decode(value) for name, value in trial.params.items()}
        other = copy(trial)
        other.value = evaluation["value"]
        other.user_attrs = trial.user_attrs | {**evaluation, "settings": outer | evaluation["values"]}
        return other

    @cached_property
    def compared(self) -> dict[str, FrozenTrial]:
        """The published setting and the best trial, without the one that is missing or the same."""
        pairs = {"published": self.reference, "best": self.best if self.best is not self.reference else None}
        return {title: trial for title, trial in pairs.items() if trial is not None}

    @property
    def published_state(self) -> str:
        """Why the published setting has no number."""
        wanted = self.study.user_attrs["published"]
        states = [how_ended(t) for t in self.trials if t.params == wanted]
        words = {TrialState.PRUNED: "was stopped early", TrialState.FAIL: "failed"}
        return next((words[s] for s in states if s in words), "has no trial in full")

    @cached_property
    def inner_names(self) -> list[str]:
        """Parameters of the searches inside trials."""
        return list(dict.fromkeys(n for t in self.ranked for e in inner_of(t) for n in e["values"]))

    @cached_property
    def published_values(self) -> dict[str, Any]:
        inner: dict[str, Any] = next((inner_of(t)[0]["values"] for t in self.ranked if inner_of(t)), {})
        return inner | {name: decode(value) for name, value in self.study.user_attrs["published"].items()}

    def masks_of(self, name: str) -> str:
        """Masks that a trial's number by itself has seen; where a study does not record them, by `supervision`."""
        recorded = (t.user_attrs.get("supervision", {}).get(name) for t in self.ranked)
        split = None if name.startswith("proxy/") else split_of(name, self.base.data)
        return next(filter(None, recorded), supervision(self.base, split, tuned_here="/best_" in name))

    def masks_of_best(self, name: str) -> str:
        """Masks that a number of the best trial has seen: choosing the best by masks has seen them."""
        return self.masks_of(name) if "proxy/" in self.metric + name else "same masks"

    @cached_property
    def measured(self) -> list[str]:
        """Names of the numbers to show, the objective first."""
        names = {name for t in self.ranked for name in numbers_of(t, self.metric)}
        wanted = [self.metric + part for part in PARTS]
        wanted += ["seed/best_miou", "seed/best_miou_tail", "seed/miou", "pseudo/miou"]
        wanted += sorted(name for name in names if name.startswith("proxy/"))
        return [name for name in dict.fromkeys(wanted) if name in names]


def numbers_of(trial: FrozenTrial, metric: str) -> dict[str, float | None]:
    """A complete trial's numbers by name."""
    return trial.user_attrs.get("metrics", {}) | {metric: trial.value}


def _settings(trial: FrozenTrial) -> dict[str, str]:
    return {name: shown(value) for name, value in values_of(trial).items()}


def leaderboard(e: Evidence, trials: Sequence[FrozenTrial]) -> pd.DataFrame:
    """Complete trials: numbers, time, settings."""
    wanted = dict.fromkeys([e.metric, f"{e.metric}_tail", "seed/best_miou", "seed/miou"])
    masks = {name: e.masks_of(name) for name in wanted if name in e.measured}
    rows = []
    for trial in trials:
        values, inner = numbers_of(trial, e.metric), inner_of(trial)
        row = {"trial": f"{trial.number}{' (published)' if trial is e.reference else ''}"}
        row[e.metric] = number(trial.value)
        if e.inner_names:
            row["before its inner search"] = number(inner[0]["value"] if inner else None)
        row |= {name: number(values.get(name)) for name in masks}
        rows.append(row | {"time": duration(trial.user_attrs.get("seconds", 0))} | _settings(trial))
    masks["before its inner search"] = e.masks_of(e.metric)
    return table(rows, masks, [t in (e.best, e.reference) for t in trials])


def gains(e: Evidence) -> pd.DataFrame | None:
    """The best trial's numbers against the published setting's."""
    if e.best is None or e.reference is None or e.best is e.reference:
        return None
    new, old = (numbers_of(t, e.metric) for t in (e.best, e.reference))
    rows = []
    for name in e.measured:
        before, after = old.get(name), new.get(name)
        difference = None if before is None or after is None else after - before
        row = {"number": name, "published": number(before), "best": number(after)}
        rows.append(row | {"difference": number(difference, "+.4f"), "masks it has seen": e.masks_of_best(name)})
    return table(rows)


def changes(e: Evidence) -> pd.DataFrame | None:
    """The best trial's settings against the published ones."""
    if e.best is None:
        return None
    pair = {"published": e.published_values, "best": values_of(e.best)}
    names = sorted(dict.fromkeys([*pair["best"], *pair["published"]]), key=lambda name: name in e.inner_names)
    rows = [
        {"setting": name, "chosen": "inside each trial" if name in e.inner_names else "by the search"}
        | {title: shown(values[name]) if name in values else "not searched" for title, values in pair.items()}
        for name in names
    ]
    return table(rows, marked=[pair["published"].get(name) != pair["best"].get(name) for name in names])


def unranked(e: Evidence, trials: Sequence[FrozenTrial]) -> pd.DataFrame:
    """Trials stopped early or failed: why they failed, how far they came, their last preview."""
    rows = []
    for t in trials:
        row = {"trial": str(t.number)} | ({"reason": t.user_attrs["reason"]} if "reason" in t.user_attrs else {})
        last = max(t.intermediate_values.items(), default=(0, None))[1]
        row |= {"epochs": str(t.user_attrs.get("epoch", 0)), "last preview": number(last)}
        rows.append(row | _settings(t))
    return table(rows, {"last preview": search_masks(e.metric)})


def saved(e: Evidence) -> dict[str, Any]:
    """Epochs that early stopping saved, of how many, and their time at the pace of complete trials."""
    lengths: dict[int, Any] = {
        t.number: values_of(t).get("classifier.epochs", e.base.classifier.epochs) for t in (*e.ranked, *e.early)
    }
    epochs = sum(lengths[t.number] - t.user_attrs.get("epoch", 0) for t in e.early)
    paces = [t.user_attrs["seconds"] / t.user_attrs["epoch"] for t in e.ranked if t.user_attrs.get("epoch")]
    pace = statistics.median(paces) if paces else None
    return {"epochs": epochs, "of": sum(lengths.values()), "pace": pace, "time": pace and duration(epochs * pace)}
