"""Search settings of a method, then train the best in full: python tune/search.py --space msdw.yaml."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from sfc.terminal import execute
from tune.options import ClusterOptions, add_shared_options, cluster_options
from tune.study.names import study_name

if TYPE_CHECKING:
    import optuna
    from rich.console import Console

    from tune.tracking.tracker import Tracker


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python tune/search.py", description=__doc__)
    parser.add_argument("--space", required=True, help="a space file, or its bare name in experiments/spaces/")
    parser.add_argument("--base", help="the configuration to start from, instead of the space's")
    parser.add_argument("--trials", type=int, help="in all, instead of the space's budget")
    parser.add_argument("--time", metavar="LIMIT", help="such as 20m: no trial starts after it")
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
    from tune.space.sections import deadline_of
    from tune.space.space_file import load_space
    from tune.study.progress import Progress, show_study
    from tune.study.storage import is_new, one_driver
    from tune.study.study import complete, counted, default_name, open_study

    space = load_space(options.space, options.base, options.overrides, options.trials)
    deadline = deadline_of(options.time or space.file.budget.time)
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

            run_trials(study, job, budget - done, deadline, [logger, Progress(console, study, budget)])
            logger.catch_up()
        logger.finish()
        over = time.monotonic() > deadline
        if len(counted(study)) < budget and not over:
            raise KeyboardInterrupt  # Ray Tune caught it and ended the trials
        show_study(console, study, space, over)
        if not complete(study):
            tracker.end(run, failed=True)
            return 1
        code = finish(study, cluster, tracker, console, run=run, final=final)
        tracker.end(run)
        steps.show_runs(console, name, cluster.results)
    return code


def _start_ray(address: str | None) -> None:
    """Connect to Ray, and import meanwhile, while its processes start, what takes seconds."""
    from tune.cluster.connect import connect

    with ThreadPoolExecutor(1) as beside:
        for name in ("tune.study.steps", "tune.tracking.trial_log", "tune.study.run"):
            beside.submit(import_module, name)
        connect(address)


def finish(
    study: optuna.Study, cluster: ClusterOptions, tracker: Tracker, console: Console, *, run: str, final: bool
) -> int:
    """Record the best settings on the search's MLflow run; with `final`, take the best trials through all stages.
    Returns the exit code: 1 where a final run failed."""
    from sfc.config.files import dump_config
    from tune.final import show_final
    from tune.runs.finals import run_final
    from tune.study.study import best_config, complete, values_of

    tracker.text(run, dump_config(best_config(study)), "best.yaml")
    if final:
        finals = run_final(study, cluster, tracker, console)
        show_final(console, finals)
        return 1 if finals["failed"] else 0
    best = complete(study)[0]
    tracker.best(run, best.number, values_of(best), best.user_attrs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
