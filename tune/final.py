"""The best trials of a study through every stage, with several seeds: python tune/final.py --study NAME."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from sfc.scoring.names import MEASURES, PARTS, title_of
from sfc.terminal import execute
from tune.options import add_shared_options, allow_plugins, cluster_options
from tune.study.names import study_name


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python tune/final.py", description=__doc__)
    parser.add_argument("--study", type=study_name, required=True)
    add_shared_options(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit code: 1 where a run failed."""
    return execute(parser(), run, arguments)


def run(options: argparse.Namespace) -> int:
    """The command on parsed options; returns the exit code."""
    from tune.runs.finals import jobs_of, run_final
    from tune.study.study import load_study
    from tune.tracking.tracker import EXPERIMENT, Tracker, tracking_uri, without_password

    allow_plugins(options)
    cluster, uri, console = cluster_options(options), tracking_uri(options.results), Console()
    study = load_study(options.study, options.results)
    jobs_of(study, options.overrides)  # wrong input is named before anything is written
    finals = run_final(study, cluster, Tracker(uri, options.results), console, options.overrides)
    show_final(console, finals)
    console.print(f"MLflow: experiment {EXPERIMENT} at {without_password(uri)}", soft_wrap=True)
    return 1 if finals["failed"] else 0


def show_final(console: Console, finals: dict[str, Any]) -> None:
    """Print the numbers of the chosen trial by stage, those of all trials, and the runs that failed."""
    from tune.runs.finals import reasons

    [chosen] = [trial for trial in finals["trials"] if trial["trial"] == finals["chosen"]]
    first = chosen["runs"][0]
    console.print(_stages(chosen["trial"], first))
    if len(finals["trials"]) > 1:
        console.print(_ranking(finals))
    if first["label_source"] == "masks":
        console.print("the image labels were derived from the masks")
    console.print(f"settings, numbers, figures: {finals['folder']}", soft_wrap=True)
    for name, path in first["folders"].items():
        console.print(f"{name}: {path}", soft_wrap=True)
    if finals["failed"]:
        lines = [f"{len(finals['failed'])} runs failed, and are in no number:", *reasons(finals)]
        console.print("\n  ".join(lines), soft_wrap=True, highlight=False, markup=False)


def _stages(trial: int, run: dict[str, Any]) -> Table:
    """The numbers of one run, a row a stage."""
    table = Table(title=f"final run of trial {trial}, seed {run['seed']}", title_justify="left")
    for column in ("stage", "mIoU", *(part.removeprefix("_") for part in PARTS[1:]), "masks it has seen"):
        table.add_column(column, justify="left" if column in ("stage", "masks it has seen") else "right")
    for name in MEASURES:
        if f"{name}/miou" in run["metrics"]:
            numbers = [run["metrics"].get(f"{name}/miou{part}") for part in PARTS]
            cells = ["-" if number is None else f"{number:.4f}" for number in numbers]
            table.add_row(title_of(name), *cells, run["supervision"][f"{name}/miou"])
    return table


def _ranking(finals: dict[str, Any]) -> Table:
    """The trials by their means over seeds, and whether they keep the search's order."""
    tau = finals.get("tau")
    order = f"{finals['kept_order']} pairs of trials keep the search's order on val" if tau else ""
    if tau and math.isfinite(tau["value"]):
        order += f", Kendall's tau {tau['value']:+.2f} [{tau['low']:+.2f}, {tau['high']:+.2f}]"
    table = Table(
        title="the best trials through all stages, mean over seeds",
        title_justify="left",
        caption=f"kept: the best objective over seeds, trial {finals['chosen']}; {order}",
        caption_justify="left",
    )
    for column in ("trial", "search", finals["metric"], title_of("val"), "seeds"):
        table.add_column(column, justify="right")
    for trial in finals["trials"]:
        means = [f"{trial['mean'].get(name, math.nan):.4f}" for name in (finals["metric"], "val/miou")]
        table.add_row(str(trial["trial"]), f"{trial['value']:.4f}", *means, str(len(trial["runs"])))
    return table


if __name__ == "__main__":
    sys.exit(main())
