"""Search settings of a method, confirm the leaders on further seeds, compare the choice with plain CAM and the
published setting: python tune/search.py --space msdw.yaml."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from sfc.terminal import execute
from tune.options import add_shared_options, cluster_options
from tune.study.names import study_name

if TYPE_CHECKING:
    import optuna
    from rich.console import Console

    from tune.runs.confirm import Place
    from tune.space.sections import Limits


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python tune/search.py", description=__doc__)
    parser.add_argument("--space", required=True, help="a space file, or its bare name in experiments/spaces/")
    parser.add_argument("--base", help="the configuration to start from, instead of the space's")
    parser.add_argument("--trials", type=int, help="in all, instead of the space's budget")
    parser.add_argument(
        "--time", metavar="LIMIT", help="such as 40m, for the trials, the confirmation and the comparison together"
    )
    parser.add_argument("--workers-per-trial", type=int, default=1, help="of each trial's training (Ray Train)")
    parser.add_argument("--gpus-per-trial", type=float, default=0.0, help="such as 0.5: two trials share a GPU")
    parser.add_argument("--study", type=study_name, help="its name; by default made from the space's name and content")
    parser.add_argument("--dry-run", action="store_true", help="check everything and say what would run")
    add_shared_options(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    return execute(parser(), run, arguments)


def run(options: argparse.Namespace) -> int:
    """The command on parsed options; returns the exit code."""
    from rich.console import Console

    return search(options, Console())


def search(options: argparse.Namespace, console: Console, *, final: bool = True) -> int:
    """The whole command; without `final` it ends after the trials. Returns the exit code."""
    from sfc.data import open_dataset
    from tune.space.sections import limits_of
    from tune.space.space_file import load_space
    from tune.study.progress import Progress, show_study
    from tune.study.storage import is_new, one_driver
    from tune.study.study import complete, counted, default_name, open_study

    space = load_space(options.space, options.base, options.overrides, options.trials)
    limits = limits_of(options.time or space.file.budget.time, confirms=bool(space.file.confirm), compares=final)
    cluster = cluster_options(options)
    if space.base.data.format != "synthetic":
        open_dataset(space.base.data)  # wrong input is named before anything starts
    if not options.dry_run and is_new(cluster.results):
        _start_ray(cluster.address)
    from tune.study import steps
    from tune.study.dry_run import show_plan
    from tune.tracking.tracker import Tracker, tracking_uri
    from tune.tracking.trial_log import TrialLogger

    space, pipeline = steps.open_data(space, cluster.store)
    name = options.study = options.study or default_name(space, Path(options.space).stem)
    if options.dry_run:
        show_plan(console, space, name, pipeline, cluster.results)
        return 0

    with one_driver(cluster.results / "studies" / f"{name}.lock"):
        study, edits = open_study(name, space, cluster.results)
        if edits:
            text = f"the space file was edited; the study goes on, its {len(counted(study))} trials count:"
            console.out("\n  ".join([text, *edits]), highlight=False)
        budget, done = space.file.budget.trials, len(counted(study))
        job = None
        if done < budget:
            job = steps.start_job(space, cluster, options.workers_per_trial, options.gpus_per_trial)
        tracker = Tracker(tracking_uri(cluster.results), cluster.results)
        run = steps.start_run(tracker, study, space, pipeline, options.words)
        logger = TrialLogger(tracker, study, space, run, pipeline.data, pipeline.store)
        logger.catch_up()
        console.print(f"study {name}: {done} trials done, {max(0, budget - done)} to go", soft_wrap=True)
        if job is not None:
            from tune.study.run import run_trials  # late, as all that imports Ray

            run_trials(study, job, budget - done, limits.search, [logger, Progress(console, study, budget)])
            logger.catch_up()
        logger.finish()
        over = time.monotonic() > limits.search
        if len(counted(study)) < budget and not over:
            raise KeyboardInterrupt  # Ray Tune caught it and ended the trials
        show_study(console, study, space, over)
        if not complete(study):
            tracker.end(run, failed=True)
            return 1
        from tune.runs.confirm import Place

        steps.show_runs(console, name, cluster.results)
        code = finish(study, Place(study, cluster, tracker, run), console, final=final, limits=limits)
        tracker.end(run)
    return code


def _start_ray(address: str | None) -> None:
    """Connect to Ray, and import meanwhile, while its processes start, what takes seconds."""
    from tune.cluster.connect import connect

    with ThreadPoolExecutor(1) as beside:
        for name in ("tune.study.steps", "tune.tracking.trial_log", "tune.study.run"):
            beside.submit(import_module, name)
        connect(address)


def finish(study: optuna.Study, place: Place, console: Console, *, final: bool, limits: Limits) -> int:
    """Record the best settings on the search's MLflow run; with `final`, confirm the leading trials and compare the
    chosen one with the references. Returns the exit code: 1 where a run failed."""
    from sfc.config.files import dump_config
    from tune.runs.compare import compare, show_comparison
    from tune.runs.confirm import confirm
    from tune.study.study import best_config, complete, values_of

    if not final:
        best = complete(study)[0]
        place.tracker.text(place.parent, dump_config(best_config(study)), "best.yaml")
        place.tracker.best(place.parent, str(best.number), values_of(best), best.user_attrs)
        return 0
    chosen = confirm(replace(place, deadline=limits.confirmation), console)
    place.tracker.text(place.parent, dump_config(best_config(study)), "best.yaml")
    numbers = compare(replace(place, deadline=limits.comparison), chosen, console)
    show_comparison(console, numbers, place.folder)
    return int(any("failed" in run for arm in numbers["arms"].values() for run in arm["runs"]))


if __name__ == "__main__":
    sys.exit(main())
