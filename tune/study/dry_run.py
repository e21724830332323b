"""What a search would run and take, without starting it."""

from __future__ import annotations

import contextlib
from pathlib import Path

import optuna
from rich.console import Console
from rich.table import Table

from sfc.config.files import change_config
from sfc.errors import UserError
from sfc.pipeline import Pipeline
from sfc.runtime.engine import available_cpus
from tune.space.parameter import Value
from tune.space.space_file import Space
from tune.study.estimate import Work, estimate, show
from tune.study.objective import everything
from tune.study.progress import shown
from tune.study.study import complete, counted, load_study, values_of

SAMPLES = 100


def samples(space: Space, number: int) -> list[dict[str, Value]]:
    """Settings of both levels, drawn at random.

    Raises:
        UserError: some are not valid together.
    """
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=space.file.budget.seed))
    drawn = []
    for _ in range(number):
        trial = study.ask()
        chosen = space.suggest(trial)
        chosen |= space.suggest_inner(trial, chosen)
        try:
            space.config(chosen)
        except UserError as error:
            raise UserError(f"the space allows settings that are not valid together, {chosen}: {error}") from None
        drawn.append(chosen)
    return drawn


def work(space: Space, left: int, best: list[dict[str, Value]]) -> list[Work]:
    """What `left` more trials and the final would ask for: trials with settings drawn at random, each in full, with the
    settings of later stages that it tries; in the final the best so far, else the first of these."""
    final, inner = space.file.final, space.inner
    drawn = [space.file.published, *samples(space, max(left, final.top) - 1)]
    later = [{n: s[n] for n in inner if n in s} for s in samples(space, space.file.budget.inner)[1:]] if inner else []
    jobs: list[Work] = []
    for chosen in drawn[:left]:
        outer = {name: chosen[name] for name in space.outer if name in chosen}
        for settings in [chosen, *(outer | values for values in later)]:
            jobs.append((space.config(settings), lambda pipeline: everything(pipeline, space.file.objective)))
    for chosen in [*best, *drawn][: final.top]:
        for seed in range(space.base.seed, space.base.seed + final.seeds):
            jobs.append((change_config(space.config(chosen), {**final.set, "seed": seed}), Pipeline.run))
    return jobs


def show_plan(console: Console, space: Space, name: str, pipeline: Pipeline, results: Path) -> None:
    """Print what a search would run, after building 100 sampled configurations, and what it would take.

    Raises:
        UserError: a sampled configuration is invalid.
    """
    samples(space, SAMPLES)
    left, best = space.file.budget.trials, list[dict[str, Value]]()
    with contextlib.suppress(UserError):  # there is no such study yet
        study = load_study(name, results)
        left, best = max(0, left - len(counted(study))), [values_of(trial) for trial in complete(study)]
    base, file = space.base, space.file
    table = Table(title=f"study {name}: what would run", title_justify="left")
    for column in ("parameter", "searched in", "by", "published"):
        table.add_column(column, justify="right" if column == "published" else "left")
    for key, parameter in file.parameters.items():
        by = "each trial, on its maps" if key in space.inner else "trials"
        table.add_row(key, parameter.text(), by, shown(file.published.get(key, "")))
    console.print(table)
    select = pipeline.split(base.data.select)
    inner = f", {file.budget.inner} settings of later stages tried in each" if space.inner else ""
    console.out(
        f"{file.budget.trials} trials of {base.classifier.epochs} epochs on {len(pipeline.train)} images, compared at "
        f"epochs {space.rungs(base) or 'none'}{inner}; objective {file.objective.metric} on {len(select)} images of "
        f"the split {select.name}; the best {file.final.top} x {file.final.seeds} seeds go through all stages, which "
        f"report on the split {base.data.val}\n"
        f"{SAMPLES} sampled configurations are valid; {left} trials are still to run; nothing was started"
    )
    show(console, estimate(work(space, left, best), pipeline.store), available_cpus(), pipeline.store.root)
