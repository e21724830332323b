"""The final runs of a study: its best trials through every stage with several seeds, and which trial they choose."""

from __future__ import annotations

import itertools
import json
import logging
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial
from rich.console import Console

from sfc.config import Config
from sfc.config.files import apply_overrides, build_config, change_config, dump_config
from sfc.errors import Diverged
from sfc.pipeline import Pipeline
from sfc.runtime.engine import LocalEngine
from sfc.runtime.store import digest, write_atomic
from sfc.runtime.stores import open_store
from sfc.runtime.training import read_history
from sfc.stages.spec import LABELS, PREDICTIONS
from tune.cluster.configurations import Goal, Run, run_all
from tune.evidence.stats import kendall
from tune.options import ClusterOptions
from tune.study.names import FINALS
from tune.study.study import base_of, best_config, complete, sweeps, values_of
from tune.tracking.tracker import Tracker, masks_seen
from tune.tracking.trial_log import FIGURE_IMAGES
from tune.tracking.versions import versions

Finals = dict[str, Any]
"""The content of finals.json, as `summary` returns it."""


def with_overrides(config: Config, overrides: Sequence[str]) -> Config:
    """A configuration with the command line's `section.key=value` words put over it.

    Raises:
        UserError: every mistake in the words, each as `command line, ...`.
    """
    values, places = apply_overrides(config.model_dump(mode="json"), {}, overrides)
    return build_config(values, places, "settings of the study")


@dataclass(frozen=True)
class Job:
    """One final run: a trial's settings with one seed."""

    trial: FrozenTrial
    config: Config

    @property
    def name(self) -> str:
        return f"trial {self.trial.number}, seed {self.config.seed}"


def jobs_of(study: optuna.Study, overrides: Sequence[str] = ()) -> list[Job]:
    """The final runs that a study's space asks for: the `top` best complete trials, best first, with `seeds` each.

    Raises:
        UserError: no trial ran in full, or an override is wrong.
    """
    best_config(study)
    settings, base = study.user_attrs["final"], base_of(study)
    jobs = []
    for trial in complete(study)[: settings["top"]]:
        for seed in range(base.seed, base.seed + settings["seeds"]):
            config = change_config(base, values_of(trial) | settings["set"] | {"seed": seed})
            jobs.append(Job(trial, with_overrides(config, overrides)))
    return jobs


def run_final(
    study: optuna.Study,
    cluster: ClusterOptions,
    tracker: Tracker,
    console: Console,
    overrides: Sequence[str] = (),
) -> Finals:
    """Run every stage of the final runs on Ray; what the store has is not done again. Results are in the folder
    `final/STUDY` of the results and in MLflow, those of runs that failed included.

    Returns:
        The content of finals.json and the `folder` that has it.

    Raises:
        UserError: no trial ran in full, or an override is wrong.
        Diverged: no run gave numbers; says why.
    """
    jobs, metric, name = jobs_of(study, overrides), study.user_attrs["metric"], study.study_name
    seeds = study.user_attrs["final"]["seeds"]
    console.print(f"final: {len(jobs) // seeds} trials x {seeds} seeds through all stages", highlight=False)
    runs: dict[int, Run] = {}
    goal = Goal(sweep=sweeps(study), metric=metric)
    for i, run in run_all([job.config for job in jobs], cluster, goal):
        runs[i] = run
        number = run.get("metrics", {}).get("val/miou", math.nan)
        text = f"failed: {run['failed']}" if "failed" in run else f"val/miou {number:.4f}"
        line = f"{len(runs)}/{len(jobs)}: {jobs[i].name}: {text}"
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    outcomes = [(job, runs[i]) for i, job in enumerate(jobs)]
    finals, folder = summary(metric, outcomes), cluster.results / "final" / name
    usable = (run for job, run in outcomes if "failed" not in run and job.trial.number == finals["chosen"])
    kept = next(usable, None)
    logging.getLogger("sfc").setLevel(logging.WARNING)  # the store has everything from here on
    pipeline = Pipeline(jobs[0].config, open_store(cluster.store), LocalEngine(1))
    if kept is not None:
        write_folder(folder, finals, kept, pipeline.changed(build_config(kept["config"])))
    search = tracker.find(name)
    parent = search.info.run_id if search else None
    for job, run in outcomes:
        key = f"{name}/final/{digest(job.config.model_dump(mode='json'))[:8]}"
        tags = {"sfc.kind": "final", "sfc.study": name, "sfc.trial": str(job.trial.number)}
        title = f"final {job.trial.number} seed {job.config.seed} {name}"
        tracked = tracker.start(key, title, tags, parent)
        tracker.finish(tracked, **tracked_results(job, run, pipeline))
        tracker.log(tracked, tags={"sfc.kept": str(run is kept)})  # another run may be kept than last time
        if run is kept:
            tracker.files(tracked, folder)
            if parent and not overrides:  # with overrides it is not the search's best
                tracker.best(parent, job.trial.number, values_of(job.trial), run)
    if kept is None:
        raise Diverged("no final run gave numbers:\n" + "\n".join(reasons(finals)))
    return finals | {"folder": str(folder)}


def summary(metric: str, outcomes: Sequence[tuple[Job, Run]]) -> Finals:
    """The content of finals.json, from every job and its run, the search's best trial first. The trial with the best
    mean objective is chosen: the split that reports chooses nothing.

    Returns:
        `metric`; `trials` with a run that gave numbers: `trial` (its number), `value` in the search, `mean` over these
        runs, and the `runs`; `failed`: the other runs. Where there are trials also `chosen`, a trial's number, and if
        they have a segmentation, `tau` and `kept_order` of their order against the search's.
    """
    trials: dict[int, dict[str, Any]] = {}
    failed = []
    for job, run in outcomes:
        number, entry = job.trial.number, {"seed": job.config.seed, **run}
        if "failed" in run:
            failed.append({"trial": number, **entry})
        else:
            trials.setdefault(number, {"trial": number, "value": job.trial.value, "runs": []})["runs"].append(entry)
    finals: Finals = {"metric": metric, "trials": list(trials.values()), "failed": failed}
    for trial in finals["trials"]:
        names = [name for name in (metric, "val/miou") if name in trial["runs"][0]["metrics"]]
        trial["mean"] = {name: statistics.fmean(run["metrics"][name] for run in trial["runs"]) for name in names}
    if trials:
        finals["chosen"] = max(finals["trials"], key=lambda trial: trial["mean"][metric])["trial"]
    means = [trial["mean"]["val/miou"] for trial in finals["trials"] if "val/miou" in trial["mean"]]
    if means and len(means) == len(trials):
        finals["tau"] = asdict(kendall([trial["value"] for trial in finals["trials"]], means))
        pairs = list(itertools.combinations(means, 2))  # the search's better one first
        finals["kept_order"] = f"{sum(a > b for a, b in pairs)} of {len(pairs)}"
    return finals


def reasons(finals: Finals) -> list[str]:
    """A line for each run that failed."""
    return [f"trial {run['trial']}, seed {run['seed']}: {run['failed']}" for run in finals["failed"]]


def write_folder(folder: Path, finals: Finals, run: Run, pipeline: Pipeline) -> None:
    """Write finals.json, and best.yaml, metrics.json and figures of the kept run, unless they are there."""
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "best.yaml", dump_config(pipeline.config))
    write_atomic(folder / FINALS, json.dumps(finals, indent=1))
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
        config.data.val: {"prediction": pipeline.output("evaluation") / PREDICTIONS},
    }
    for split, folders in predictions.items():
        names = pipeline.split(split).ids[:FIGURE_IMAGES]
        maps = pipeline.output("maps", split)
        plots.maps_grid(folder / f"maps_{split}.png", data, names, {"": (maps, config.pseudo)}, folders)
    bars = {name: [math.nan if value is None else value for value in values] for name, values in iou.items()}
    plots.class_bars(folder / "classes.png", bars, data.classes, pipeline.train.labels.sum(0).tolist())
    for stage in ("classifier", "segmentation"):
        plots.curves(folder / f"losses_{stage}.png", read_history(pipeline.output(stage)))


def tracked_results(job: Job, run: Run, pipeline: Pipeline) -> dict[str, Any]:
    """Results of a final run, or the reason why it failed, as `Tracker.finish` takes them; `pipeline`: of the same data
    and store."""
    params, tags = values_of(job.trial) | {"seed": job.config.seed}, versions()
    if "failed" in run:
        return {"params": params, "tags": tags | {"sfc.complete": "False"}, "failed": run["failed"]}
    pipeline = pipeline.changed(build_config(run["config"]))
    tags |= {"data.fingerprint": pipeline.train.fingerprint, "sfc.complete": "True"} | masks_seen(run["supervision"])
    params["pseudo.threshold"] = pipeline.config.pseudo.threshold
    history = read_history(pipeline.output("classifier"))
    return {"params": params, "metrics": run["metrics"], "history": history, "tags": tags}
