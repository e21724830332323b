"""Text on the terminal: each trial as it ends, the table of the best, what was gained."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from rich.table import Table

from sfc.scoring.names import PARTS
from tune.space.parameter import Value
from tune.space.sections import SEED_MIOU
from tune.space.space_file import Space
from tune.study.study import Evaluated, complete, counted, how_ended, proxies, published, values_of

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


class Progress:
    """Prints a line as each trial ends: how it went, the best so far against the published setting, time left until
    the study has `budget` trials in all."""

    def __init__(self, console: Console, study: optuna.Study, budget: int) -> None:
        self.console, self.study, self.budget = console, study, budget
        self.begin = time.monotonic()
        self.over = 0
        self.reference: Evaluated | None = None

    def started(self, number: int, chosen: dict[str, Any]) -> None:
        self.console.out(f"trial {number} starts: {_settings(chosen)}", style="dim", highlight=False)

    def reported(self, number: int, result: dict[str, Any]) -> None:
        """Nothing is printed of a trial that goes on."""

    def ended(self, number: int, result: dict[str, Any]) -> None:
        self.over += 1
        if result.get("failed"):
            what = f"failed: {result['failed']}"
        elif result.get("complete"):
            what = f"{result['objective']:.4f}" + (f" (WARNING: {result['warnings']})" if result["warnings"] else "")
        else:
            what = f"stopped early at {result.get('reached', 'the start')}"
        done = counted(self.study)
        ranked = complete(self.study, done)
        self.reference = self.reference or published(self.study, ranked)
        parts = [f"trial {number}: {what}", f"{min(len(done), self.budget)}/{self.budget} done"]
        if ranked:
            parts.append(f"best {ranked[0].value:.4f} (trial {ranked[0].number})")
        if self.reference is not None:
            parts.append(f"published {self.reference[1]['value']:.4f}")
        if (left := self.budget - len(done)) > 0:
            pace = (time.monotonic() - self.begin) / self.over
            parts.append(f"about {duration(left * pace)} left")
        self.console.out(" | ".join(parts), highlight=False)


def _settings(values: dict[str, Value]) -> str:
    return ", ".join(f"{name.split('.')[-1]} {shown(value)}" for name, value in values.items())


def show_study(console: Console, study: optuna.Study, space: Space, over: bool) -> None:
    """Print what the trials gave: the best complete ones and the published setting, those that were stopped early
    apart, what the best changed and gained, what the objectives without masks are worth. Where none ran in full, the
    reasons; `over`: the time limit ended the search."""
    done = counted(study)
    ranked, metric = complete(study, done), space.file.objective.metric
    goes_on = "the time limit is over; the same command goes on, first with what was stopped by it"
    lines = [goes_on] if over and len(done) < space.file.budget.trials else []
    early = [f"{t.number} at {t.user_attrs['reached']}" for t in done if how_ended(t) == TrialState.PRUNED]
    failed = sum(how_ended(t) == TrialState.FAIL for t in done)
    table = Table(
        title=f"{study.study_name}: {len(ranked)} trials in full, {len(early)} stopped early, {failed} failed",
        title_justify="left",
        caption=f"{metric}: {'same masks' if study.user_attrs['split'] else 'image-labels'}",
        caption_justify="left",
    )
    for column in ("trial", metric, "tail", "settings"):
        table.add_column(column, justify="left" if column == "settings" else "right")

    def row(title: str, value: float | None, metrics: dict[str, float], values: dict[str, Value]) -> None:
        ordered = {name: values[name] for name in space.file.parameters if name in values}
        table.add_row(title, f"{value:.4f}", f"{metrics.get(f'{metric}_tail', math.nan):.4f}", _settings(ordered))

    for trial in ranked[:SHOWN]:
        row(str(trial.number), trial.value, trial.user_attrs["metrics"], values_of(trial))
    if reference := published(study, ranked):
        trial, tried = reference
        row(f"{trial.number} (published)", tried["value"], tried["metrics"], space.file.published)
    if ranked:
        console.print(table)
    if early:
        lines.append(f"stopped early, not ranked: {', '.join(early)}")
    if reference:
        lines += _gains(ranked[0], reference[1], space)
    lines += _proxies(ranked)
    in_time = sorted(ranked, key=lambda t: t.user_attrs["started"] + t.user_attrs["seconds"])
    lines.append(outlook([t.value or 0.0 for t in in_time]))
    if not ranked:
        reasons = {t.user_attrs.get("reason", "stopped early") for t in done} | ({goes_on} if over else set())
        lines += ["no trial ran in full:", *(f"  {reason}" for reason in sorted(reasons))]
    console.out("\n".join(lines), highlight=False)


def _gains(best: FrozenTrial, before: dict[str, Any], space: Space) -> list[str]:
    """What the best trial gained against the published setting's evaluation, and what it changed."""
    metric, point = space.file.objective.metric, space.file.published
    if (best.value or 0.0) <= before["value"]:
        return ["no trial beat the published setting"]
    gains = []
    for name in (metric + part for part in PARTS):
        new, old = (numbers.get(name) for numbers in (best.user_attrs["metrics"], before["metrics"]))
        if new is not None and old is not None:
            gains.append(f"{name} {old:.4f} -> {new:.4f} ({new - old:+.4f})")
    values = values_of(best).items()
    changed = [f"{name} {shown(point.get(name))} -> {shown(v)}" for name, v in values if point.get(name) != v]
    return [f"against the published setting: {'; '.join(gains)}", f"changed: {'; '.join(changed)}"]


def _proxies(ranked: list[FrozenTrial]) -> list[str]:
    """How well the objectives that need no mask would have ranked the complete trials."""
    lines = []
    for name, tau in proxies(ranked).items():
        value = f"{tau.value:+.2f} [{tau.low:+.2f}, {tau.high:+.2f}]" if math.isfinite(tau.value) else "too few trials"
        lines.append(f"{name} ranks {len(ranked)} trials as {SEED_MIOU} does: Kendall's tau {value}")
    return lines


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
