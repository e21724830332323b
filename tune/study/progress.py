"""Text on the terminal: each trial as it ends, the table of the best, what was gained."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState
from ray.tune import Callback
from rich.console import Console
from rich.table import Table

from sfc.scoring.names import PARTS
from tune.space.parameter import Value
from tune.space.space_file import Space
from tune.study.study import complete, counted, proxies, published, values_of

SHOWN = 10


def duration(seconds: float) -> str:
    """`45s`, `12m`, `3h05m`."""
    if seconds < 90:
        return f"{seconds:.0f}s"
    minutes = round(seconds / 60)
    return f"{minutes}m" if minutes < 120 else f"{minutes // 60}h{minutes % 60:02d}m"


def shown(value: Value) -> str:
    """A value in a table."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


class Progress(Callback):
    """Prints a line as each trial ends: how it went, the best so far against the published setting, time left.

    Args:
        console: gets the lines.
        study: has the trials.
        budget: trials of the study in all.
    """

    def __init__(self, console: Console, study: optuna.Study, budget: int) -> None:
        self.console, self.study, self.budget = console, study, budget
        self.begin = time.monotonic()
        self.ended = 0
        self.reference: tuple[FrozenTrial, dict[str, Any]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {}  # as in StudySearch

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        changes = json.loads(trial.config["changes"])
        text = "  ".join(f"{name.split('.')[-1]} {shown(value)}" for name, value in changes.items())
        self.console.print(f"[dim]trial {trial.config['number']} starts: {text}[/dim]", soft_wrap=True, highlight=False)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._line(trial.config["number"], trial.last_result or {})

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._line(trial.config["number"], {"failed": "the trial's process died"})

    def _line(self, number: int, result: dict[str, Any]) -> None:
        self.ended += 1
        if result.get("failed"):
            what = f"failed: {result['failed']}"
        elif result.get("complete"):
            what = f"{result['objective']:.4f}"
        else:
            what = f"stopped early at epoch {result.get('epoch', 0)}"
        done = counted(self.study)
        ranked = complete(self.study, done)
        self.reference = self.reference or published(self.study, ranked)
        parts = [f"trial {number}: {what}", f"{min(len(done), self.budget)}/{self.budget} done"]
        if ranked:
            parts.append(f"best {ranked[0].value:.4f} (trial {ranked[0].number})")
        if self.reference is not None:
            parts.append(f"published {self.reference[1]['value']:.4f}")
        left = self.budget - len(done)
        if left > 0:
            pace = (time.monotonic() - self.begin) / self.ended
            parts.append(f"about {duration(left * pace)} left")
        self.console.print(" | ".join(parts), soft_wrap=True, highlight=False)


def _settings(values: dict[str, Value], names: list[str]) -> str:
    return ", ".join(f"{name.split('.')[-1]} {shown(values[name])}" for name in names if name in values)


def show_study(console: Console, study: optuna.Study, space: Space) -> None:
    """The best complete trials and the published setting, those that were stopped early apart, and what the best
    changed and gained."""
    ranked, reference = complete(study), published(study)
    metric, names = space.file.objective.metric, list(space.file.parameters)
    early = [t for t in counted(study) if t.state == TrialState.PRUNED]
    failed = sum(t.state == TrialState.FAIL for t in counted(study))
    table = Table(
        title=f"{study.study_name}: {len(ranked)} trials in full, {len(early)} stopped early, {failed} failed",
        title_justify="left",
        caption=f"{metric}: {_supervision(study)}",
        caption_justify="left",
    )
    for column in ("trial", metric, "tail", "settings"):
        table.add_column(column, justify="left" if column == "settings" else "right")
    for trial in ranked[:SHOWN]:
        tail = trial.user_attrs["metrics"].get(f"{metric}_tail", math.nan)
        table.add_row(str(trial.number), f"{trial.value:.4f}", f"{tail:.4f}", _settings(values_of(trial), names))
    if reference is not None:
        trial, tried = reference
        tail = tried["metrics"].get(f"{metric}_tail", math.nan)
        settings = _settings(space.file.published, names)
        table.add_row(f"{trial.number} (published)", f"{tried['value']:.4f}", f"{tail:.4f}", settings)
    if ranked:
        console.print(table)
    if early:
        stopped = ", ".join(f"{t.number} at epoch {t.user_attrs['epoch']}" for t in early)
        console.print(f"stopped early, not ranked: {stopped}", soft_wrap=True, highlight=False)
    if not ranked or reference is None:
        return
    best, before = ranked[0], reference[1]
    if best.value <= before["value"]:
        console.print("no trial beat the published setting")
        return
    gains = []
    for part in PARTS:
        new, old = (numbers.get(metric + part) for numbers in (best.user_attrs["metrics"], before["metrics"]))
        if new is not None and old is not None:
            gains.append(f"{metric}{part} {old:.4f} -> {new:.4f} ({new - old:+.4f})")
    console.print("against the published setting: " + "; ".join(gains), soft_wrap=True, highlight=False)
    changed = [
        f"{name} {shown(space.file.published.get(name))} -> {shown(value)}"
        for name, value in values_of(best).items()
        if space.file.published.get(name) != value
    ]
    console.print("changed: " + "; ".join(changed), soft_wrap=True, highlight=False)


def _supervision(study: optuna.Study) -> str:
    """Which masks the objective's numbers have seen."""
    return "same masks" if study.user_attrs["split"] else "image-labels"


def show_proxies(console: Console, study: optuna.Study) -> None:
    """How well the objectives that need no mask would have ranked the trials."""
    for name, tau in proxies(study).items():
        value = f"{tau.value:+.2f} [{tau.low:+.2f}, {tau.high:+.2f}]" if math.isfinite(tau.value) else "too few trials"
        text = f"{name} ranks {len(complete(study))} trials as seed/best_miou does: Kendall's tau {value}"
        console.print(text, soft_wrap=True, highlight=False)


def show_edits(console: Console, lines: list[str], trials: int) -> None:
    """Print what was edited in the space file of a study that has so many trials."""
    if lines:
        text = f"the space file was edited; the study goes on, its {trials} trials count:\n  " + "\n  ".join(lines)
        console.print(text, soft_wrap=True, highlight=False, markup=False)


def outlook(values: Sequence[float]) -> str:
    """What the trials so far show about going on, and no more than that.

    Args:
        values: objectives of the trials that ran in full, more is better, in the order in which they ended.
    """
    number = len(values)
    if number < 2:
        return f"{number or 'no'} trial{'s' * (number != 1)} in full: nothing can be said yet of what more would gain"
    best = max(values)
    last, half = values.index(best) + 1, number // 2
    gain = best - max(values[:half])
    return (
        f"best of {number} trials in full: {best:.4f}, reached by number {last}; the last {number - half} "
        f"raised the best so far by {gain:.4f}. That is what was seen: what further trials would gain can't be known "
        "from it"
    )
