"""What a person sees of a search: its plan, each trial as it ends, the table of the best."""

from __future__ import annotations

import json
import math
import time
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState
from ray.tune import Callback
from rich.console import Console
from rich.table import Table

from sfc.errors import UserError
from sfc.pipeline import Pipeline
from tune.space import Space, Value
from tune.study import StudySearch, complete, counted, published, values_of

SAMPLES = 100
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
        console: where to.
        search: has the study.
        space: has the budget.
        at_once: trials that run at the same time.
    """

    def __init__(self, console: Console, search: StudySearch, space: Space, at_once: int) -> None:
        self.console, self.search, self.space, self.at_once = console, search, space, at_once
        self.begin = time.monotonic()
        self.ended = 0

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
        study, budget = self.search.study, self.space.file.budget.trials
        ranked, reference = complete(study), published(study)
        parts = [f"trial {number}: {what}", f"{min(len(counted(study)), budget)}/{budget} done"]
        if ranked:
            parts.append(f"best {ranked[0].value:.4f} (trial {ranked[0].number})")
        if reference is not None:
            parts.append(f"published {reference.value:.4f}")
        left = budget - len(counted(study))
        if left > 0:
            pace = (time.monotonic() - self.begin) / self.ended
            parts.append(f"about {duration(left * pace)} left")
        self.console.print(" | ".join(parts), soft_wrap=True, highlight=False)


def _state(trial: FrozenTrial) -> str:
    epochs = trial.user_attrs.get("epoch", 0)
    if trial.state == TrialState.COMPLETE:
        return f"{epochs} epochs"
    if trial.state == TrialState.PRUNED:
        return f"stopped at {epochs}"
    return "failed"


def show_study(console: Console, study: optuna.Study, space: Space) -> None:
    """The best complete trials, the published one among them, and what the best changed and gained."""
    ranked, reference = complete(study), published(study)
    metric, names = space.file.objective.metric, list(space.file.parameters)
    others = counted(study)
    early = sum(t.state == TrialState.PRUNED for t in others)
    failed = sum(t.state == TrialState.FAIL for t in others)
    table = Table(
        title=f"{study.study_name}: {len(ranked)} trials in full, {early} stopped early, {failed} failed",
        title_justify="left",
    )
    for column in ("trial", metric, "tail", "settings"):
        table.add_column(column, justify="left" if column == "settings" else "right")
    listed = ranked[:SHOWN]
    if reference is not None and reference not in listed:
        listed.append(reference)
    for trial in listed:
        values = values_of(trial)
        tail = trial.user_attrs["metrics"].get(f"{metric}_tail", math.nan)
        mark = " (published)" if trial is reference else ""
        settings = ", ".join(f"{name.split('.')[-1]} {shown(values[name])}" for name in names if name in values)
        table.add_row(f"{trial.number}{mark}", f"{trial.value:.4f}", f"{tail:.4f}", settings)
    if listed:
        console.print(table)
    if not ranked or reference is None:
        return
    best, before = ranked[0], values_of(reference)
    if best is reference:
        console.print("no trial beat the published setting")
        return
    gains = []
    for part in ("", "_head", "_middle", "_tail"):
        new, old = (t.user_attrs["metrics"].get(metric + part) for t in (best, reference))
        if new is not None and old is not None:
            gains.append(f"{metric}{part} {old:.4f} -> {new:.4f} ({new - old:+.4f})")
    console.print("against the published setting: " + "; ".join(gains), soft_wrap=True, highlight=False)
    changed = [
        f"{name} {shown(before.get(name))} -> {shown(value)}"
        for name, value in values_of(best).items()
        if before.get(name) != value
    ]
    console.print("changed: " + "; ".join(changed), soft_wrap=True, highlight=False)


def show_plan(console: Console, space: Space, name: str, pipeline: Pipeline) -> None:
    """What a search would run, after building 100 sampled configurations.

    Raises:
        UserError: a sampled configuration is invalid.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=space.file.budget.seed))
    for _ in range(SAMPLES):
        chosen = space.suggest(study.ask())
        try:
            space.config(chosen)
        except UserError as error:
            raise UserError(f"the space allows settings that are not valid together, {chosen}: {error}") from None
    base, file = space.base, space.file
    table = Table(title=f"study {name}: what would run", title_justify="left")
    table.add_column("parameter")
    table.add_column("searched in")
    table.add_column("published", justify="right")
    for key, parameter in file.parameters.items():
        when = f", when {parameter.when}" if parameter.when else ""
        table.add_row(key, f"{parameter.kind} {parameter.values()}{when}", shown(file.published.get(key, "")))
    console.print(table)
    rungs = file.asha.rungs(base.classifier.epochs) if file.asha else []
    train, select = pipeline.train, pipeline.split(base.data.select)
    console.print(
        f"{file.budget.trials} trials of {base.classifier.epochs} epochs on {len(train)} images, compared at epochs "
        f"{rungs or 'none'}; objective {file.objective.metric} on {len(select)} images of the split {select.name}; "
        f"the final goes through all stages and reports on the split {base.data.val}",
        soft_wrap=True,
    )
    console.print(f"{SAMPLES} sampled configurations are valid; nothing was started")
