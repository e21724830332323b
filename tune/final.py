"""The best trials of a study through every stage, with several seeds: python tune/final.py --study NAME."""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from rich.console import Console
from rich.table import Table

from sfc import plots
from sfc.__main__ import set_up_logging
from sfc.config import Config
from sfc.config.files import change_config, dump_config, merge, nest, parse_override
from sfc.errors import Diverged, UserError
from sfc.pipeline import Pipeline
from sfc.runtime.engine import LocalEngine
from sfc.runtime.store import Address, digest, open_store, store_address, write_atomic
from sfc.stages.labels import LABELS
from tune.cluster.configurations import Run, run_all
from tune.cluster.connect import connect, results_folder
from tune.cluster.stop import guarded
from tune.evidence.stats import kendall
from tune.space.parameter import Value
from tune.study.study import complete, load_study, name_of, sweeps, values_of
from tune.tracking.tracker import EXPERIMENT, Tracker, masks_seen, tracking_uri, versions, without_password
from tune.tracking.trial_log import FIGURE_IMAGES

FINALS = "finals.json"


def best_config(study: optuna.Study) -> Config:
    """Settings of the best complete trial, its background threshold the one that the objective's masks chose.

    Raises:
        UserError: no trial ran in full.
    """
    ranked = complete(study)
    if not ranked:
        raise UserError(f"the study {name_of(study)} has no trial that ran in full, so there is no best one")
    changes: dict[str, Any] = values_of(ranked[0])
    if sweeps(study):
        changes["pseudo.threshold"] = ranked[0].user_attrs["metrics"]["seed/best_threshold"]
    return change_config(base_of(study), changes)


def base_of(study: optuna.Study) -> Config:
    """The configuration over which the study's trials put their settings."""
    return Config.model_validate_json(json.dumps(study.user_attrs["base"]))


def with_overrides(config: Config, changes: dict[str, Value], overrides: Sequence[str]) -> Config:
    """A configuration with settings put over it, then with `section.key=value` words."""
    values: dict[str, Any] = config.model_dump(mode="json")
    words = ((".".join(map(str, address)), value) for address, value in map(parse_override, overrides))
    for name, value in [*changes.items(), *words]:
        values = merge(values, nest(name.split("."), value))
    return Config.model_validate_json(json.dumps(values))


def draw(folder: Path, pipeline: Pipeline, iou: dict[str, list[float]]) -> None:
    """A run's figures: maps and labels over images of train and val, bars by class, losses of both trainings."""
    config, data = pipeline.config, pipeline.data
    shown = {
        config.data.train: {"pseudo-label": pipeline.pseudo() / LABELS},
        config.data.val: {"prediction": pipeline.evaluation() / "predictions"},
    }
    for split, predictions in shown.items():
        names = pipeline.split(split).ids[:FIGURE_IMAGES]
        plots.maps_figure(folder / f"maps_{split}.png", data, names, pipeline.cam(split), config.pseudo, predictions)
    plots.class_bars(folder / "classes.png", iou, data.classes, pipeline.train.labels.sum(0).tolist())
    for name, stage in (("classifier", pipeline.classifier()), ("segmentation", pipeline.segmentation())):
        plots.curves(folder / f"losses_{name}.png", json.loads((stage / "history.json").read_text(encoding="utf-8")))


def run_final(
    study: optuna.Study,
    results: Path,
    tracker: Tracker,
    console: Console,
    *,
    store: Address,
    workers: int,
    address: str | None = None,
    overrides: Sequence[str] = (),
) -> dict[str, Any]:
    """All stages for the best complete trials, each with the space's seeds, on Ray; what the store has is not done
    again. Kept is the trial with the best mean objective: the split that reports chooses nothing.

    Args:
        study: with at least one complete trial.
        results: the results folder.
        tracker: writes a run for each.
        console: told of each run as it ends.
        store: address of the store.
        workers: of each training.
        address: of a Ray cluster.
        overrides: `section.key=value` words put over the settings.

    Returns:
        What finals.json holds, beside which lie best.yaml, metrics.json and figures of the kept one.
    """
    best_config(study)
    connect(address)
    wanted, metric = study.user_attrs["final"], study.user_attrs["metric"]
    base, trials = base_of(study), complete(study)[: wanted["top"]]
    jobs = [
        (trial.number, with_overrides(base, values_of(trial) | wanted["set"] | {"seed": base.seed + i}, overrides))
        for trial in trials
        for i in range(wanted["seeds"])
    ]
    console.print(f"final: {len(trials)} trials x {wanted['seeds']} seeds through all stages", highlight=False)
    runs: dict[int, Run] = {}
    configs = [config for _, config in jobs]
    for i, run in run_all(configs, results, store, workers=workers, sweep=sweeps(study), metric=metric):
        runs[i] = run
        value = run.get("metrics", {}).get("val/miou", float("nan"))
        shown = f"failed: {run['failed']}" if "failed" in run else f"val/miou {value:.4f}"
        console.print(f"{len(runs)}/{len(jobs)}: trial {jobs[i][0]}, seed {jobs[i][1].seed}: {shown}", highlight=False)
    failed = [
        f"trial {jobs[i][0]}, seed {jobs[i][1].seed}: {run['failed']}" for i, run in runs.items() if "failed" in run
    ]
    if failed:
        raise Diverged("\n".join(failed))
    finals: dict[str, Any] = {"metric": metric, "trials": []}
    for trial in trials:
        own = [{"seed": jobs[i][1].seed, **runs[i]} for i in range(len(jobs)) if jobs[i][0] == trial.number]
        means = {
            name: float(np.mean([run["metrics"][name] for run in own]))
            for name in (metric, "val/miou")
            if name in own[0]["metrics"]
        }
        finals["trials"].append({"trial": trial.number, "value": trial.value, "mean": means, "runs": own})
    finals["chosen"] = max(finals["trials"], key=lambda t: t["mean"][metric])["trial"]
    if "val/miou" in finals["trials"][0]["mean"]:
        tau = kendall([t["value"] for t in finals["trials"]], [t["mean"]["val/miou"] for t in finals["trials"]])
        finals["tau"] = asdict(tau)
        pairs = list(
            itertools.combinations([t["mean"]["val/miou"] for t in finals["trials"]], 2)
        )  # best of search first
        finals["kept_order"] = f"{sum(a > b for a, b in pairs)} of {len(pairs)}"

    name = name_of(study)
    folder = results / "final" / name
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    kept = next(i for i, (number, _) in enumerate(jobs) if number == finals["chosen"])
    pipelines = {i: Pipeline(_config(run), open_store(store), LocalEngine(1)) for i, run in runs.items()}
    write_atomic(folder / "best.yaml", dump_config(pipelines[kept].config))
    write_atomic(folder / "metrics.json", json.dumps(runs[kept], indent=1))
    write_atomic(folder / FINALS, json.dumps(finals, indent=1))
    logging.getLogger("sfc").setLevel(logging.WARNING)  # all that follows is in the store
    iou = {name: [np.nan if v is None else v for v in values] for name, values in runs[kept]["iou"].items()}
    draw(folder / "figures", pipelines[kept], iou)

    parent = tracker.find(name)
    for i, (number, config) in enumerate(jobs):
        run = tracker.start(
            f"{name}/final/{digest(config.model_dump(mode='json'))[:8]}",
            f"final {number} seed {config.seed} {name}",
            {"sfc.kind": "final", "sfc.study": name, "sfc.trial": str(number)},
            parent.info.run_id if parent else None,
        )
        [trial] = [t for t in trials if t.number == number]
        pipeline = pipelines[i]
        tracker.log(
            run,
            params=values_of(trial) | {"seed": config.seed, "pseudo.threshold": pipeline.config.pseudo.threshold},
            metrics=runs[i]["metrics"],
            history=json.loads((pipeline.classifier() / "history.json").read_text(encoding="utf-8")),
            tags=versions()
            | {"data.fingerprint": pipeline.train.fingerprint, "sfc.complete": "True", "sfc.kept": str(i == kept)}
            | masks_seen(runs[i]["supervision"]),
        )
        if i == kept:
            tracker.client.log_artifacts(run, str(folder))
            if parent and not overrides:  # with them it is not what the search stands for
                tracker.best(parent.info.run_id, number, values_of(trial), runs[i])
        tracker.end(run)
    return finals | {"folder": str(folder)}


def _config(run: Run) -> Config:
    return Config.model_validate_json(json.dumps(run["config"]))


def show_final(console: Console, finals: dict[str, Any]) -> None:
    """The finals' numbers, and those of the kept one stage by stage."""
    [kept] = [t for t in finals["trials"] if t["trial"] == finals["chosen"]]
    first = kept["runs"][0]
    metrics = first["metrics"]
    table = Table(title=f"final run of trial {kept['trial']}, seed {first['seed']}", title_justify="left")
    for column in ("stage", "mIoU", "head", "middle", "tail", "masks it has seen"):
        table.add_column(column, justify="left" if column in ("stage", "masks it has seen") else "right")
    titles = {
        "seed": "seeds, select split",
        "seed_val": "seeds, val split",
        "pseudo": "pseudo-labels, train split",
        "val": "segmentation, val split",
    }
    for name, title in titles.items():
        if f"{name}/miou" in metrics:
            parts = [metrics.get(f"{name}/miou{part}") for part in ("", "_head", "_middle", "_tail")]
            shown = ["-" if v is None else f"{v:.4f}" for v in parts]
            table.add_row(title, *shown, first["supervision"][f"{name}/miou"])
    console.print(table)
    if len(finals["trials"]) > 1:
        console.print(_ranking(finals))
    if first["label_source"] == "masks":
        console.print("the image labels were derived from the masks")
    console.print(f"settings, numbers, figures: {finals['folder']}", soft_wrap=True)
    for name, path in first["folders"].items():
        console.print(f"{name}: {path}", soft_wrap=True)


def _ranking(finals: dict[str, Any]) -> Table:
    tau = finals.get("tau")
    held = f"{finals['kept_order']} pairs of trials keep the search's order on val" if tau else ""
    if tau and np.isfinite(tau["value"]):
        held += f", Kendall's tau {tau['value']:+.2f} [{tau['low']:+.2f}, {tau['high']:+.2f}]"
    table = Table(
        title="the best trials through all stages, mean over seeds",
        title_justify="left",
        caption=f"kept: the best objective over seeds, trial {finals['chosen']}; {held}",
        caption_justify="left",
    )
    for column in ("trial", "search", finals["metric"], "segmentation, val", "seeds"):
        table.add_column(column, justify="right")
    for t in finals["trials"]:
        means = [f"{t['mean'].get(name, np.nan):.4f}" for name in (finals["metric"], "val/miou")]
        table.add_row(str(t["trial"]), f"{t['value']:.4f}", *means, str(len(t["runs"])))
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python tune/final.py", description=__doc__)
    parser.add_argument("--study", required=True)
    parser.add_argument("--workers", type=int, default=1, help="of each training (Ray Train)")
    parser.add_argument("--address", help="of a Ray cluster, such as auto")
    parser.add_argument("--results", type=results_folder, default="results")
    parser.add_argument("--store", type=store_address, help="folder, s3://... or gs://...; default RESULTS/store")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    given = parser.parse_args(arguments)

    def command() -> int:
        set_up_logging()
        study = load_study(given.study, given.results)
        best_config(study)
        tracker = Tracker(tracking_uri(given.results), given.results)
        console = Console()
        finals = run_final(
            study,
            given.results,
            tracker,
            console,
            store=given.store or given.results / "store",
            workers=given.workers,
            address=given.address,
            overrides=given.overrides,
        )
        show_final(console, finals)
        console.print(
            f"MLflow: experiment {EXPERIMENT} at {without_password(tracking_uri(given.results))}", soft_wrap=True
        )
        return 0

    return guarded(command)


if __name__ == "__main__":
    sys.exit(main())
