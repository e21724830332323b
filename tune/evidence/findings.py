"""What a study says, as tables for the report. Whatever an older study lacks is left out."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import optuna
from optuna.trial import FrozenTrial, TrialState

from sfc.config import Config
from sfc.pipeline import supervision
from tune.evidence.importance import inner_of, settings_of
from tune.evidence.stats import Interval, kendall
from tune.space.parameter import decode
from tune.study.progress import duration, shown
from tune.study.study import complete, counted, name_of, published

PARTS = ("", "_head", "_middle", "_tail")
STAGES = {
    "seed/miou": "seeds, select",
    "seed_val/miou": "seeds, val",
    "pseudo/miou": "pseudo-labels, train",
    "val/miou": "segmentation, val",
    "val/miou_tail": "its tail classes",
}


class Column(NamedTuple):
    """Head of a column."""

    title: str
    seen: str = ""
    """Which masks its numbers have seen."""
    text: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of cells; those in `marked` stand out."""

    head: list[Column]
    rows: list[list[str]]
    marked: tuple[int, ...] = ()


def number(value: float | None, sign: str = "") -> str:
    """Four digits; a dash for what was not measured."""
    return "–" if value is None or not math.isfinite(value) else f"{value:{sign}.4f}"


def spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation of what was measured."""
    known = [v for v in values if math.isfinite(v)]
    if len(known) < 2:
        return number(known[0] if known else None)
    return f"{statistics.mean(known):.4f} ± {statistics.stdev(known):.4f}"


@dataclass(frozen=True)
class Evidence:
    """A study, read."""

    study: optuna.Study
    results: Path

    @cached_property
    def metric(self) -> str:
        return self.study.user_attrs["metric"]

    @property
    def split(self) -> str:
        """Where the objective is measured."""
        return self.base.data.train if self.metric.startswith("pseudo/") else self.base.data.select

    @cached_property
    def base(self) -> Config:
        return Config.model_validate_json(json.dumps(self.study.user_attrs["base"]))

    @cached_property
    def ranked(self) -> list[FrozenTrial]:
        """Trials in full, the best first."""
        return complete(self.study)

    @cached_property
    def trials(self) -> list[FrozenTrial]:
        """All that used up budget."""
        return counted(self.study)

    @cached_property
    def early(self) -> list[FrozenTrial]:
        return [t for t in self.trials if t.state == TrialState.PRUNED]

    @cached_property
    def failed(self) -> list[FrozenTrial]:
        return [t for t in self.trials if t.state == TrialState.FAIL]

    @property
    def best(self) -> FrozenTrial | None:
        return self.ranked[0] if self.ranked else None

    @cached_property
    def reference(self) -> FrozenTrial | None:
        """The published setting, where its classifier's trial ran in full: that trial, or where its inner search found
        something better, a copy of it with the published setting's numbers."""
        found = published(self.study)
        if found is None:
            return None
        trial, tried = found
        [ranked] = [t for t in self.ranked if t.number == trial.number]
        if tried["value"] == trial.value:
            return ranked
        outer = {name: decode(value) for name, value in trial.params.items()}
        other = copy(ranked)
        other.value = tried["value"]
        other.user_attrs = ranked.user_attrs | {**tried, "settings": outer | tried["values"]}
        return other

    @property
    def published_state(self) -> str:
        """Why the published setting has no number."""
        wanted = self.study.user_attrs["published"]
        states = [t.state for t in self.trials if t.params == wanted]
        words = {TrialState.PRUNED: "was stopped early", TrialState.FAIL: "failed"}
        return next((words[s] for s in states if s in words), "has no trial in full")

    @cached_property
    def inner_names(self) -> list[str]:
        """Parameters of the searches inside trials."""
        return list(dict.fromkeys(n for t in self.ranked for e in inner_of(t) for n in e["values"]))

    @cached_property
    def published_values(self) -> dict[str, Any]:
        inner = next((inner_of(t)[0]["values"] for t in self.ranked if inner_of(t)), {})
        return inner | {name: decode(value) for name, value in self.study.user_attrs["published"].items()}

    def seen(self, name: str) -> str:
        """Which masks a trial's number by itself has seen; where a study does not say, by the rule of `Pipeline`."""
        found = (t.user_attrs.get("supervision", {}).get(name) for t in self.ranked)
        data = self.base.data
        split = data.train if name.startswith("pseudo/") else data.select
        ours = supervision(self.base, split, tuned_here="/best_" in name)
        return next(filter(None, found), ours)

    def seen_of_best(self, name: str) -> str:
        """As `seen`, of the best trial: whoever chooses by masks has seen them."""
        return self.seen(name) if "proxy/" in self.metric + name else "same masks"

    @cached_property
    def measured(self) -> list[str]:
        """Numbers to show, the objective first."""
        known = {name for t in self.ranked for name in numbers_of(t, self.metric)}
        proxies = sorted(name for name in known if name.startswith("proxy/"))
        wanted = [self.metric + part for part in PARTS]
        wanted += ["seed/best_miou", "seed/best_miou_tail", "seed/miou", "pseudo/miou", *proxies]
        return [name for name in dict.fromkeys(wanted) if name in known]


def judged(e: Evidence) -> list[str]:
    """Numbers of the leaderboard: the objective, its tail, seed mIoU."""
    wanted = dict.fromkeys([e.metric, f"{e.metric}_tail", "seed/best_miou", "seed/miou"])
    return [name for name in wanted if name in e.measured]


def numbers_of(trial: FrozenTrial, metric: str) -> dict[str, float | None]:
    """A complete trial's numbers by name."""
    return trial.user_attrs.get("metrics", {}) | {metric: trial.value}


def parameters(e: Evidence, trials: Iterable[FrozenTrial]) -> list[str]:
    """What any of these trials has, the inner parameters last."""
    found = dict.fromkeys(name for t in trials for name in settings_of(t))
    return sorted(found, key=lambda name: name in e.inner_names)


def leaderboard(e: Evidence, trials: Sequence[FrozenTrial]) -> Table:
    """Complete trials: numbers, time, settings."""
    names = parameters(e, e.ranked)
    head = [Column("trial", text=True), *(Column(name, e.seen(name)) for name in judged(e))]
    if e.inner_names:
        head.insert(2, Column("before its inner search", e.seen(e.metric)))
    rows = []
    for trial in trials:
        values, settings = numbers_of(trial, e.metric), settings_of(trial)
        row = [f"{trial.number}{' (published)' if trial is e.reference else ''}"]
        row += [number(values.get(name)) for name in judged(e)]
        if e.inner_names:
            row.insert(2, number(inner_of(trial)[0]["value"] if inner_of(trial) else None))
        row.append(duration(trial.user_attrs.get("seconds", 0)))
        rows.append(row + [shown(settings[name]) if name in settings else "" for name in names])
    marked = tuple(i for i, t in enumerate(trials) if t in (e.best, e.reference))
    return Table([*head, Column("time"), *map(Column, names)], rows, marked)


def gains(e: Evidence) -> Table | None:
    """The best trial's numbers against the published setting's."""
    if e.best is None or e.reference is None or e.best is e.reference:
        return None
    new, old = (numbers_of(t, e.metric) for t in (e.best, e.reference))
    rows = []
    for name in e.measured:
        before, after = old.get(name), new.get(name)
        difference = None if before is None or after is None else after - before
        rows.append([name, number(before), number(after), number(difference, "+"), e.seen_of_best(name)])
    columns = [Column("number", text=True), Column("published"), Column("best"), Column("difference")]
    return Table([*columns, Column("masks it has seen", text=True)], rows)


def changes(e: Evidence) -> Table | None:
    """The best trial's settings against the published ones."""
    if e.best is None:
        return None
    old, new = e.published_values, settings_of(e.best)
    names = sorted({**new, **old}, key=lambda name: name in e.inner_names)
    rows = []
    for name in names:
        values = [shown(v[name]) if name in v else "not searched" for v in (old, new)]
        rows.append([name, "inside each trial" if name in e.inner_names else "by the search", *values])
    marked = tuple(i for i, name in enumerate(names) if old.get(name) != new.get(name))
    columns = [Column("setting", text=True), Column("chosen", text=True), Column("published"), Column("best")]
    return Table(columns, rows, marked)


def unranked(e: Evidence, trials: Sequence[FrozenTrial]) -> Table:
    """Trials stopped early or failed: how far they came, their last preview, why they failed."""
    names = parameters(e, trials)
    rows = []
    for t in trials:
        last = t.intermediate_values[max(t.intermediate_values)] if t.intermediate_values else None
        settings = settings_of(t)
        row = [str(t.number), t.user_attrs.get("reason", ""), str(t.user_attrs.get("epoch", 0)), number(last)]
        rows.append(row + [shown(settings[name]) if name in settings else "" for name in names])
    seen = "image-labels" if e.metric.startswith("proxy/") else "same masks"
    columns = [Column("trial", text=True), Column("reason", text=True), Column("epochs"), Column("last preview", seen)]
    if not any(row[1] for row in rows):
        del columns[1]
        rows = [[row[0], *row[2:]] for row in rows]
    return Table([*columns, *map(Column, names)], rows)


def saved(e: Evidence) -> dict[str, Any]:
    """What early stopping saved: epochs not trained, of how many, and their time at the pace of complete trials."""

    def full(trial: FrozenTrial) -> int:
        return int(settings_of(trial).get("classifier.epochs", e.base.classifier.epochs))

    epochs = sum(full(t) - t.user_attrs.get("epoch", 0) for t in e.early)
    asked = sum(full(t) for t in (*e.ranked, *e.early))
    paces = [t.user_attrs["seconds"] / t.user_attrs["epoch"] for t in e.ranked if t.user_attrs.get("epoch")]
    return {
        "epochs": epochs,
        "of": asked,
        "share": epochs / asked if asked else 0.0,
        "pace": statistics.median(paces) if paces else None,
        "time": duration(epochs * statistics.median(paces)) if paces else None,
    }


def mask_free(e: Evidence) -> tuple[str, dict[str, tuple[list[float], list[float], Interval]]]:
    """How each mask-free objective ranks the complete trials against seed mIoU.

    Returns:
        The seed mIoU's name, and by objective its values, the seed mIoU of the same trials, and Kendall's tau.
    """
    target = next((name for name in ("seed/best_miou", "seed/miou") if name in e.measured), "")
    found = {}
    for name in (name for name in e.measured if name.startswith("proxy/") and target):
        pairs = [(v.get(name), v.get(target)) for v in (numbers_of(t, e.metric) for t in e.ranked)]
        known = [(x, y) for x, y in pairs if x is not None and y is not None and math.isfinite(x) and math.isfinite(y)]
        if known:
            x, y = map(list, zip(*known, strict=True))
            found[name] = (x, y, kendall(x, y))
    return target, found


def finals(e: Evidence) -> dict[str, Any] | None:
    """finals.json of the study's final runs.

    Returns:
        `metric`, `trials` with at least one run that gave numbers, and the number of the `chosen`; None where none did.
    """
    file = e.results / "final" / name_of(e.study) / "finals.json"
    if not file.is_file():
        return None
    found = json.loads(file.read_text(encoding="utf-8"))
    trials = [t | {"runs": [run for run in t["runs"] if run.get("metrics")]} for t in found["trials"]]
    trials = [t for t in trials if t["runs"]]
    return found | {"trials": trials} if trials else None


def chosen_of(found: dict[str, Any]) -> dict[str, Any]:
    """The trial that the final runs chose; the search's best while they have not."""
    return next((t for t in found["trials"] if t["trial"] == found.get("chosen")), found["trials"][0])


def run_values(trial: dict[str, Any], name: str) -> list[float]:
    """One number of a final trial's runs; NaN where it is missing."""
    values = (run["metrics"].get(name) for run in trial["runs"])
    return [math.nan if value is None else value for value in values]


def finals_table(found: dict[str, Any]) -> Table:
    """A row a trial: the search's number, and each stage's over the seeds."""
    runs = [run for trial in found["trials"] for run in trial["runs"]]
    names = [name for name in STAGES if any(name in run["metrics"] for run in runs)]
    seen = {name: next(r["supervision"].get(name, "") for r in runs if name in r["metrics"]) for name in names}
    rows = [
        [str(t["trial"]), str(len(t["runs"])), number(t["value"]), *(spread(run_values(t, name)) for name in names)]
        for t in found["trials"]
    ]
    head = [Column("trial", text=True), Column("seeds"), Column(f"search: {found['metric']}", "same masks")]
    head[2] = head[2]._replace(seen="image-labels") if found["metric"].startswith("proxy/") else head[2]
    marked = tuple(i for i, t in enumerate(found["trials"]) if t is chosen_of(found))
    return Table([*head, *(Column(STAGES[name], seen[name]) for name in names)], rows, marked)


def ranking_held(found: dict[str, Any]) -> Interval:
    """Kendall's tau between the search's number and the final mIoU (mean over seeds) of the trials taken through."""
    values = [float(t["value"]) for t in found["trials"]]
    means = [statistics.mean(run_values(t, "val/miou")) for t in found["trials"]]
    return kendall(values, means) if all(map(math.isfinite, means)) else Interval(math.nan, math.nan, math.nan)
