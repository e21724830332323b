"""The comparison at the end of a search: the chosen setting and the references through all stages, with the same seeds,
and what is kept."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial
from rich.console import Console

from sfc.config.files import build_config, change_config, dump_config
from sfc.errors import Diverged
from sfc.pipeline import Pipeline
from sfc.runtime.engine import LocalEngine
from sfc.runtime.store import digest, write_atomic
from sfc.runtime.stores import open_store
from sfc.runtime.training import read_history
from sfc.stages.spec import LABELS, PREDICTIONS
from tune.cluster.configurations import Goal, Run
from tune.evidence.tables import Numbers, mean, ran
from tune.evidence.verdict import Verdict, verdict
from tune.runs.ablation import write_tables
from tune.runs.arms import Arms, new_numbers, run_arms, with_overrides
from tune.runs.confirm import Place
from tune.space.sections import CHOSEN, UPPER_BOUND
from tune.space.space_file import Space
from tune.study.names import COMPARISON
from tune.study.study import base_of, file_of, values_of
from tune.tracking.trial_log import FIGURE_IMAGES


def arms_of(place: Place, trial: FrozenTrial, overrides: Sequence[str] = ()) -> Arms:
    """The arms of a study's comparison, without numbers: the references, the chosen setting (unless it is one of them),
    and the true masks as labels where the training images have any.

    Raises:
        UserError: an override is wrong, or the data can't be opened.
    """
    study, file, base = place.study, file_of(place.study), base_of(place.study)
    configs = Space(file=file, base=base).references()
    chosen = change_config(base, values_of(trial))
    name = next((name for name, config in configs.items() if config == chosen), CHOSEN)
    configs[name] = chosen
    configs = {k: with_overrides(change_config(c, file.compare.set), overrides) for k, c in configs.items()}
    pipeline = Pipeline(base, open_store(place.cluster.store), None)
    if file.compare.upper_bound and pipeline.train.has_masks:
        configs[UPPER_BOUND] = change_config(configs[name], {"pseudo.method": "masks"})
    objective, first = file.objective, base.seed + 1 + max([step.seeds for step in file.confirm], default=0)
    goals = {arm: Goal(sweep=objective.needs_masks, metric=objective.metric) for arm in configs}
    goals[name] = Goal(sweep=file.sweeps, metric=objective.metric)
    goals[UPPER_BOUND] = Goal(sweep=False)
    seeds = range(first, first + file.compare.seeds)
    numbers = new_numbers(study.study_name, configs, seeds, pipeline) | {"metric": objective.metric}
    numbers |= {"chosen": name, "trial": trial.number, "command": study.user_attrs.get("command", "")}
    key = f"{study.study_name}/comparison{'/' + digest(list(overrides))[:8] if overrides else ''}"
    return Arms(key, "comparison", configs, goals, numbers, place.folder / COMPARISON, "val/miou")


def compare(place: Place, trial: FrozenTrial, console: Console, overrides: Sequence[str] = ()) -> Numbers:
    """Run the comparison (what the store has is not done again), and write it, the configuration that is kept, its
    numbers and figures into the study's folder, and the verdicts to the search's MLflow run.

    Returns:
        The numbers: `chosen`, an arm; `kept`, another arm where that is better by the objective; the runs.

    Raises:
        UserError: as `arms_of`.
        Diverged: no run gave numbers; says why.
    """
    arms = arms_of(place, trial, overrides)
    numbers, chosen, metric = arms.numbers, arms.numbers["chosen"], arms.numbers["metric"]
    place.folder.mkdir(parents=True, exist_ok=True)
    text = f"comparison: {', '.join(arms.configs)}; {len(numbers['seeds'])} seeds each, through all stages"
    console.print(text, highlight=False, markup=False)
    with place.section("comparison") as parent:
        numbers["whole"] = run_arms(arms, place.cluster, place.tracker, parent, console, place.deadline)
        means = {arm: mean(numbers, arm, metric) for arm in arms.configs if arm != UPPER_BOUND and ran(numbers, arm)}
        if not means:
            raise Diverged(
                "no run of the comparison gave numbers:\n" + "\n".join(map(": ".join, arms.failed().items()))
            )
        best = max(
            means, key=lambda arm: (means[arm], arm == chosen) if math.isfinite(means[arm]) else (-math.inf, False)
        )
        numbers["kept"] = best
        write_atomic(arms.file, json.dumps(numbers, indent=1))
        write_tables(place.folder, numbers)
        kept = next(iter(ran(numbers, best).values()))
        store = open_store(place.cluster.store)
        config = build_config(kept["config"])
        _write_kept(place.folder, best, kept, Pipeline(config, store, LocalEngine(1)))
        place.tracker.files(parent, place.folder)
    if not overrides:  # with overrides it is not the search's best
        values = values_of(trial) if best == chosen else numbers["arms"][best]["changes"]
        place.tracker.best(place.parent, f"{trial.number}" if best == CHOSEN else best, values, kept)
        place.tracker.log(place.parent, **_logged(verdicts(numbers)))
    return numbers


def verdicts(numbers: Numbers) -> list[Verdict]:
    """The chosen setting against each reference."""
    chosen = numbers["chosen"]
    return [verdict(numbers, chosen, arm) for arm in numbers["arms"] if arm not in (chosen, UPPER_BOUND)]


def _logged(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Verdicts as metrics and tags of MLflow."""
    metrics, tags = {}, {}
    for each in verdicts:
        name = re.sub(r"[^\w./ -]", "_", each.reference)  # what MLflow allows
        tags[f"sfc.verdict.{name}"] = each.sentence
        for number, d in each.rows.items():
            for end, value in (("", d.seeds.value), ("_low", d.seeds.low), ("_high", d.seeds.high)):
                metrics[f"against {name}/{number.replace('/', '_')}{end}"] = value
    return {"metrics": metrics, "tags": tags}


def _write_kept(folder: Path, arm: str, run: Run, pipeline: Pipeline) -> None:
    """Write best.yaml, metrics.json and figures of the run that is kept, unless they are there."""
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    comment = re.sub(r"\s", " ", arm)
    write_atomic(folder / "best.yaml", f"# {comment}\n{dump_config(pipeline.config)}")
    metrics, text = folder / "metrics.json", json.dumps(run, indent=1)
    if not metrics.is_file() or metrics.read_text(encoding="utf-8") != text:
        _draw(folder / "figures", pipeline, run["iou"])
        write_atomic(metrics, text)  # last: the figures are there


def _draw(folder: Path, pipeline: Pipeline, iou: dict[str, list[float | None]]) -> None:
    """Draw maps and labels of images of train and val, IoU by class, and the losses of both trainings."""
    from sfc import plots  # late: matplotlib takes a second

    config, data = pipeline.config, pipeline.data
    predictions = {
        config.data.train: {"pseudo-label": pipeline.output("labels") / LABELS},
        config.data.val: {"prediction": pipeline.output("evaluation", config.data.val) / PREDICTIONS},
    }
    for split, folders in predictions.items():
        names = pipeline.split(split).ids[:FIGURE_IMAGES]
        maps = pipeline.output("maps", split)
        plots.maps_grid(folder / f"maps_{split}.png", data, names, {"": (maps, config.pseudo)}, folders)
    bars = {name: [math.nan if value is None else value for value in values] for name, values in iou.items()}
    plots.class_bars(folder / "classes.png", bars, data.classes, pipeline.train.labels.sum(0).tolist())
    for stage in ("classifier", "segmentation"):
        plots.curves(folder / f"losses_{stage}.png", read_history(pipeline.output(stage)))


def show_comparison(console: Console, numbers: Numbers, folder: Path) -> None:
    """Print the answer of a search: a verdict for each reference, and what is kept."""
    from tune.evidence.verdict import bound_line

    chosen, kept, metric = numbers["chosen"], numbers["kept"], numbers["metric"]
    failed = [run for entry in numbers["arms"].values() for run in entry["runs"] if "failed" in run]
    lines = [f"{len(failed)} runs failed, and are in no number"] * bool(failed)
    lines.append(f"settings, numbers, tables, figures: {folder}")
    lines.append(f"chosen: trial {numbers['trial']}" + (f", which is the {chosen} setting" if chosen != CHOSEN else ""))
    for each in verdicts(numbers):
        lines += each.lines()
    if bound := bound_line(numbers):
        lines.append(bound)
    if kept != chosen:
        lines.append(f"kept is {kept}, not what was chosen: its {metric} over the seeds of the comparison is higher")
    console.print("\n".join(lines), soft_wrap=True, highlight=False, markup=False)
