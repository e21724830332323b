"""Confirm a study's leading trials and compare the chosen one with the references, as a search ends: python
tune/final.py --study NAME. Overrides, such as longer training, hold for the comparison."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from rich.console import Console

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
    from tune.runs.compare import arms_of, compare, show_comparison
    from tune.runs.confirm import Place, confirm
    from tune.study.storage import one_driver
    from tune.study.study import best_config, complete, load_study
    from tune.tracking.tracker import EXPERIMENT, Tracker, tracking_uri, without_password

    allow_plugins(options)
    cluster, uri, console = cluster_options(options), tracking_uri(options.results), Console()
    study = load_study(options.study, options.results)
    best_config(study)  # there is one
    tracker = Tracker(uri, options.results)
    search = tracker.find(study.study_name)
    tags = {"sfc.kind": "search", "sfc.study": study.study_name}
    place = Place(
        study,
        cluster,
        tracker,
        search.info.run_id if search else tracker.start(study.study_name, study.study_name, tags),
    )
    arms_of(place, complete(study)[0], options.overrides)  # wrong input is named before anything is written
    with one_driver(cluster.results / "studies" / f"{study.study_name}.lock"):
        numbers = compare(place, confirm(place, console), console, options.overrides)
    show_comparison(console, numbers, place.folder)
    console.print(f"MLflow: experiment {EXPERIMENT} at {without_password(uri)}", soft_wrap=True)
    return int(any("failed" in run for arm in numbers["arms"].values() for run in arm["runs"]))


if __name__ == "__main__":
    sys.exit(main())
