"""The best complete trial of a study through every stage: python tune/final.py --study NAME."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
from rich.console import Console
from rich.table import Table

from sfc import plots
from sfc.__main__ import guarded, set_up_logging
from sfc.config import Config
from sfc.errors import UserError
from sfc.pipeline import Pipeline, Result
from sfc.settings import change_config, dump_config, merge, nest, parse_override
from sfc.stages.pseudo import LABELS
from sfc.store import Store, write_atomic
from tune.ray_engine import RayEngine
from tune.study import complete, load_study, values_of
from tune.tracking import EXPERIMENT, FIGURE_IMAGES, Tracker, tracking_uri, versions


def best_config(study: optuna.Study) -> Config:
    """Settings of the best complete trial, its background threshold the one that the objective's masks chose.

    Raises:
        UserError: no trial ran in full.
    """
    ranked = complete(study)
    if not ranked:
        raise UserError(f"the study {study.study_name} has no trial that ran in full, so there is no best one")
    best = ranked[0]
    changes: dict[str, Any] = values_of(best) | {"selected_on": study.user_attrs["split"]}
    if study.user_attrs["metric"].startswith("seed/best") and "pseudo.threshold" not in changes:
        changes["pseudo.threshold"] = best.user_attrs["metrics"]["seed/best_threshold"]
    return change_config(Config.model_validate_json(json.dumps(study.user_attrs["base"])), changes)


def flat(config: Config) -> dict[str, Any]:
    """Every setting by `section.key`."""

    def walk(values: dict[str, Any], prefix: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in values.items():
            found |= walk(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
        return found

    return walk(config.model_dump(mode="json"), "")


def draw(folder: Path, pipeline: Pipeline, result: Result) -> None:
    """The final's figures: maps and labels over images of train and val, bars by class, losses of both trainings."""
    config, data = pipeline.config, pipeline.data
    shown = {
        config.data.train: {"pseudo-label": pipeline.pseudo() / LABELS},
        config.data.val: {"prediction": pipeline.evaluation() / "predictions"},
    }
    for split, predictions in shown.items():
        names = pipeline.split(split).ids[:FIGURE_IMAGES]
        plots.maps_figure(folder / f"maps_{split}.png", data, names, pipeline.cam(split), config.pseudo, predictions)
    plots.class_bars(folder / "classes.png", result.iou, data.classes, pipeline.train.labels.sum(0).tolist())
    for name, stage in (("classifier", pipeline.classifier()), ("segmentation", pipeline.segmentation())):
        plots.curves(folder / f"losses_{name}.png", json.loads((stage / "history.json").read_text(encoding="utf-8")))


def run_final(
    study: optuna.Study,
    results: Path,
    tracker: Tracker,
    *,
    workers: int,
    address: str | None = None,
    overrides: Sequence[str] = (),
) -> tuple[Config, Result, Path]:
    """All stages for the best complete trial, on Ray; what the store has is not done again.

    Args:
        study: with at least one complete trial.
        results: the results folder.
        tracker: writes the final's run.
        workers: of each training.
        address: of a Ray cluster.
        overrides: `section.key=value` words put over the best settings.

    Returns:
        Its configuration, its numbers, and the folder of best.yaml, metrics.json and figures.
    """
    best = best_config(study)
    changes = dict(study.user_attrs["final"])
    values: dict[str, Any] = best.model_dump(mode="json")
    for name, value in [*changes.items(), *((".".join(map(str, a)), v) for a, v in map(parse_override, overrides))]:
        values = merge(values, nest(name.split("."), value))
    config = change_config(best, changes) if not overrides else Config.model_validate_json(json.dumps(values))
    folder = results / "final" / study.study_name
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "best.yaml", dump_config(config))

    name = study.study_name
    parent = tracker.find(name)
    run = tracker.start(
        f"{name}/final",
        f"{name}-final",
        {"sfc.kind": "final", "sfc.study": name},
        parent.info.run_id if parent else None,
    )
    pipeline = Pipeline(config, Store(results / "store"), RayEngine(workers, results, address))
    result = pipeline.run()
    draw(folder / "figures", pipeline, result)
    summary = {
        "metrics": result.metrics,
        "supervision": result.supervision,
        "iou": result.iou,
        "conditions": result.conditions,
        "label_source": result.label_source,
        "folders": {name: str(path) for name, path in result.folders.items()},
    }
    write_atomic(folder / "metrics.json", json.dumps(summary, indent=1))

    tracker.log(
        run,
        params=flat(config),
        metrics=result.metrics,
        history=json.loads((pipeline.classifier() / "history.json").read_text(encoding="utf-8")),
        tags=versions()
        | {"data.fingerprint": pipeline.train.fingerprint, "sfc.complete": "True"}
        | {f"supervision.{k}": v for k, v in result.supervision.items() if k.endswith("miou")},
    )
    tracker.client.log_artifacts(run, str(folder))
    tracker.end(run)
    return config, result, folder


def show_final(console: Console, result: Result, folder: Path) -> None:
    """The final's numbers, stage by stage."""
    table = Table(title="final run, stage by stage", title_justify="left")
    for column in ("stage", "mIoU", "head", "middle", "tail", "masks it has seen"):
        table.add_column(column, justify="left" if column in ("stage", "masks it has seen") else "right")
    titles = {
        "seed": "seeds, select split",
        "seed_val": "seeds, val split",
        "pseudo": "pseudo-labels, train split",
        "val": "segmentation, val split",
    }
    for name, title in titles.items():
        if f"{name}/miou" in result.metrics:
            parts = [result.metrics.get(f"{name}/miou{part}") for part in ("", "_head", "_middle", "_tail")]
            shown = ["-" if v is None else f"{v:.4f}" for v in parts]
            table.add_row(title, *shown, result.supervision[f"{name}/miou"])
    console.print(table)
    if result.label_source == "masks":
        console.print("the image labels were derived from the masks")
    console.print(f"settings, numbers, figures: {folder}", soft_wrap=True)
    for name, path in result.folders.items():
        console.print(f"{name}: {path}", soft_wrap=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python tune/final.py", description=__doc__)
    parser.add_argument("--study", required=True)
    parser.add_argument("--workers", type=int, default=1, help="of each training (Ray Train)")
    parser.add_argument("--address", help="of a Ray cluster, such as auto")
    parser.add_argument("--results", type=lambda text: Path(text).absolute(), default="results")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    given = parser.parse_args(arguments)

    def command() -> int:
        set_up_logging()
        study = load_study(given.study, given.results)
        best_config(study)
        tracker = Tracker(tracking_uri(given.results), given.results)
        _, result, folder = run_final(
            study,
            given.results,
            tracker,
            workers=given.workers,
            address=given.address,
            overrides=given.overrides,
        )
        console = Console()
        show_final(console, result, folder)
        console.print(f"MLflow: experiment {EXPERIMENT} at {tracking_uri(given.results)}", soft_wrap=True)
        return 0

    return guarded(command)


if __name__ == "__main__":
    sys.exit(main())
