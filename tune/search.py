"""Search SFC's settings, then train the best in full: python tune/search.py --space msdw.yaml."""

from __future__ import annotations

import argparse
import functools
import math
import shlex
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import optuna
import ray.tune
from ray.tune import FailureConfig, RunConfig, TuneConfig, Tuner
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler
from rich.console import Console

from sfc.__main__ import set_up_logging
from sfc.config.files import dump_config
from sfc.errors import UserError
from sfc.pipeline import Pipeline
from sfc.runtime.engine import available_cpus
from sfc.runtime.store import Address, open_store, store_address
from tune.cluster.connect import check_nodes, connect, results_folder, slots
from tune.cluster.ray_engine import RETRIES
from tune.cluster.stop import guarded
from tune.final import best_config, run_final, show_final
from tune.space.space_file import PROXIES, Space, load_space, seconds
from tune.study.ask_tell import StudySearch
from tune.study.dry_run import show_plan
from tune.study.estimate import outlook
from tune.study.names import study_name
from tune.study.progress import Progress, show_edit, show_proxies, show_study
from tune.study.storage import one_driver
from tune.study.study import complete, counted, default_name, in_time, load_study, open_study, repair, values_of
from tune.study.trial import Job, run_trial
from tune.tracking.tracker import EXPERIMENT, Tracker, fixed_settings, tracking_uri, versions, without_password
from tune.tracking.trial_log import TrialLogger


def check_objective(space: Space, store: Address) -> Pipeline:
    """The base's pipeline, its data opened and its objective possible.

    Raises:
        UserError: the split that the objective names has no masks, or the data are not in order.
    """
    pipeline = Pipeline(space.base, open_store(store), engine=None)  # type: ignore[arg-type]  # nothing is run
    objective = space.file.objective
    splits = space.base.data
    for split in dict.fromkeys([splits.train, splits.select]):
        pipeline.split(split)
    needed = splits.train if objective.metric.startswith("pseudo/") else splits.select
    if objective.needs_masks and not pipeline.split(needed).has_masks:
        raise UserError(
            f"the objective {objective.metric} needs masks, and the split {needed} of {pipeline.data.root} has none "
            f"(or not one for each image); objectives that need none: {', '.join(PROXIES)}"
        )
    return pipeline


def run_trials(
    study: optuna.Study,
    space: Space,
    results: Path,
    store: Address,
    logger: TrialLogger,
    console: Console,
    *,
    trials: int,
    deadline: float,
    workers: int,
    gpus: float,
    trainable: Callable[..., None] = run_trial,
) -> None:
    """Run `trials` more trials of the study with Ray Tune; `trainable` as `run_trial`."""
    at_once = slots(workers, gpus)
    search = StudySearch(study, space, trials, deadline)
    # Ray Train keeps the places of workers whose trial is stopped, so that the next one would wait for ever: trials of
    # several workers run in full.
    asha, epochs = space.asha if workers == 1 else None, space.base.classifier.epochs
    scheduler = (
        ASHAScheduler(
            time_attr="epoch",
            metric="objective",
            mode="max",
            max_t=epochs,
            grace_period=min(asha.grace, epochs),
            reduction_factor=asha.reduction,
        )
        if asha
        else FIFOScheduler()
    )
    job = Job(space, results, store, workers, gpus, at_once)
    # The workers of a trial that has several are Ray Train's: the trial itself waits, and takes next to nothing.
    resources = {"cpu": 1, "gpu": gpus} if workers == 1 else {"cpu": 0.01}
    tuner = Tuner(
        ray.tune.with_resources(functools.partial(trainable, job=job), resources),
        tune_config=TuneConfig(
            search_alg=search,
            scheduler=scheduler,
            num_samples=trials,
            time_budget_s=max(1.0, deadline - time.monotonic()) if math.isfinite(deadline) else None,
            max_concurrent_trials=at_once,
            reuse_actors=workers == 1,  # one that waits for Ray Train can't be given another trial when it is stopped
        ),
        run_config=RunConfig(
            name=f"{study.study_name}-{int(time.time())}",
            storage_path=str((results / "ray").absolute()),
            failure_config=FailureConfig(max_failures=RETRIES),
            callbacks=[logger, Progress(console, search, space, at_once)],
            verbose=0,
        ),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tuner.fit()
    repair(study)  # trials that the time-out stopped


def done_before(name: str, results: Path) -> optuna.Study | None:
    """The study of that name, if there is one."""
    try:
        return load_study(name, results)
    except UserError:
        return None


def search(given: argparse.Namespace, console: Console, *, final: bool = True) -> int:
    """The whole command; without `final` it ends after the trials. Returns the exit code."""
    space = load_space(given.space, given.base, given.overrides, given.trials)
    limit = given.time or space.file.budget.time
    deadline = time.monotonic() + (seconds(limit) if limit else math.inf)
    store = given.store or given.results / "store"
    pipeline = check_objective(space, store)
    name = given.study or default_name(space, Path(given.space).stem)
    if given.dry_run:
        show_plan(console, space, name, pipeline, done_before(name, given.results), available_cpus())
        return 0

    with one_driver(given.results / "studies" / f"{name}.lock"):
        study, edit = open_study(name, space, given.results)
        if edit:
            show_edit(console, edit)
        connect(given.address)
        slots(given.workers_per_trial, given.gpus_per_trial)
        slots(given.workers, 0)
        needed = [store, *([given.results] if given.workers_per_trial > 1 else [])]
        if space.base.data.format != "synthetic":  # which each node makes for itself
            needed.append(space.base.data.root)
        check_nodes(needed)
        tracker = Tracker(tracking_uri(given.results), given.results)
        found = versions() | {"data.fingerprint": pipeline.train.fingerprint}
        command = f"python tune/search.py {shlex.join(given.words)}"
        study.set_user_attr("command", command)
        study.set_user_attr("commit", found["git.commit"])
        parent = tracker.start(name, name, {"sfc.kind": "search", "sfc.study": name})
        tracker.log(parent, params=fixed_settings(space.base), tags=found | {"sfc.command": command})
        tracker.text(parent, dump_config(space.base), "base.yaml")
        tracker.text(parent, space.text(), "space.yaml")
        logger = TrialLogger(tracker, study, space, parent, pipeline.data, pipeline.store)
        logger.catch_up()

        left = space.file.budget.trials - len(counted(study))
        console.print(f"study {name}: {len(counted(study))} trials done, {max(0, left)} to go", soft_wrap=True)
        if left > 0:
            run_trials(
                study,
                space,
                given.results,
                store,
                logger,
                console,
                trials=left,
                deadline=deadline,
                workers=given.workers_per_trial,
                gpus=given.gpus_per_trial,
            )
        logger.catch_up()
        logger.finish()
        if len(counted(study)) < space.file.budget.trials and time.monotonic() < deadline:
            raise KeyboardInterrupt
        if len(counted(study)) < space.file.budget.trials:
            console.print(f"the time ({limit}) is over; the same command goes on, first with what was stopped by it")
        show_study(console, study, space)
        show_proxies(console, study)
        console.print(outlook([t.value for t in in_time(complete(study))]), soft_wrap=True, highlight=False)
        if not complete(study):
            reasons = {t.user_attrs.get("reason", "stopped early") for t in counted(study)}
            if time.monotonic() > deadline:
                reasons.add("the time was over; the same command goes on, first with what was stopped by it")
            console.print("no trial ran in full:\n  " + "\n  ".join(sorted(reasons)), soft_wrap=True)
            tracker.end(parent, failed=True)
            return 1
        tracker.text(parent, dump_config(best_config(study)), "best.yaml")
        if final:
            finals = run_final(
                study, given.results, tracker, console, store=store, workers=given.workers, address=given.address
            )
            show_final(console, finals)
        else:
            best = complete(study)[0]
            tracker.best(parent, best.number, values_of(best), best.user_attrs)
        tracker.end(parent)
        console.print(f"runs: MLflow experiment {EXPERIMENT}, study {name}; to open them:", soft_wrap=True)
        place = without_password(tracking_uri(given.results))
        opens = f"open {place}" if place.startswith("http") else f"mlflow ui --backend-store-uri {place}"
        console.print(f"  {opens}", soft_wrap=True, highlight=False)
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python tune/search.py", description=__doc__)
    parser.add_argument("--space", required=True, help="a space file, or its bare name in experiments/spaces/")
    parser.add_argument("--base", help="the configuration to start from, instead of the space's")
    parser.add_argument("--trials", type=int, help="in all, instead of the space's budget")
    parser.add_argument("--time", help="such as 20m: no trial starts after it")
    parser.add_argument("--workers", type=int, default=1, help="of the final's trainings (Ray Train)")
    parser.add_argument("--workers-per-trial", type=int, default=1, help="of each trial's training (Ray Train)")
    parser.add_argument("--gpus-per-trial", type=float, default=0.0, help="such as 0.5: two trials share a GPU")
    parser.add_argument("--study", type=study_name, help="its name; by default made from the space's name and content")
    parser.add_argument("--address", help="of a Ray cluster, such as auto")
    parser.add_argument("--results", type=results_folder, default="results", help="where everything is written")
    parser.add_argument("--store", type=store_address, help="folder, s3://... or gs://...; default RESULTS/store")
    parser.add_argument("--dry-run", action="store_true", help="check everything and say what would run")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    given = parser().parse_intermixed_args(arguments)
    given.words = list(sys.argv[1:] if arguments is None else arguments)

    def command() -> int:
        if given.time:
            try:
                seconds(given.time)
            except ValueError as error:
                raise UserError(f"--time: {error}") from None
        set_up_logging()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        return search(given, Console())

    return guarded(command)


if __name__ == "__main__":
    sys.exit(main())
