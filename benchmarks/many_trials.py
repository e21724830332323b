"""What the driver costs a trial: python benchmarks/many_trials.py. 1,000 trials that do no work, by the real search.

Prints wall seconds a trial and the driver's part of them, growth of the driver's memory from trial 100 on, and seconds
until the finished study is open again. Exit code 1 where one is over its bound.
"""

import argparse
import functools
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import optuna
import psutil
import ray
from common import machine, verdict
from no_work import SPACE, no_work
from rich.console import Console

from sfc.pipeline import Pipeline
from sfc.runtime.store import Store
from tune.cluster.connect import connect, slots
from tune.space.space_file import Space, load_space
from tune.study.progress import Progress
from tune.study.run import StudySearch, run_trials
from tune.study.study import complete, open_study
from tune.study.trial import Job
from tune.tracking.tracker import Tracker, tracking_uri
from tune.tracking.trial_log import TrialLogger


class Search(NamedTuple):
    """An opened study and what its trials share."""

    study: optuna.Study
    space: Space
    store: Store
    logger: TrialLogger


def open_search(results: Path, trials: int) -> Search:
    """A new study of trials of no work, or the one that the folder has, opened as a search opens its own."""
    (results / "space.yaml").write_text(SPACE % trials, encoding="utf-8")
    space = load_space(str(results / "space.yaml"))
    store = Store(results / "store")
    data = Pipeline(space.base, store, engine=None).data  # type: ignore[arg-type]
    tracker = Tracker(tracking_uri(results), results)
    study, _ = open_study("s", space, results)
    parent = tracker.start("s", "s", {"sfc.kind": "search", "sfc.study": "s"})
    return Search(study, space, store, TrialLogger(tracker, study, space, parent, data, store))


class Watch:
    """Seconds in methods of the driver, and its memory (bytes) at each trial's end."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.memory: list[int] = []

    def time(self, part: str, kind: type, *names: str) -> None:
        for name in names:
            setattr(kind, name, self._timed(part, getattr(kind, name)))

    def _timed(self, part: str, method: Any) -> Any:
        @functools.wraps(method)
        def timed(*args: Any, **kwargs: Any) -> Any:
            begin = time.perf_counter()
            result = method(*args, **kwargs)
            self.seconds[part] += time.perf_counter() - begin
            if method.__qualname__ == "Progress.ended":
                self.memory.append(psutil.Process().memory_info().rss)
            return result

        return timed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=1000)
    trials = parser.parse_args().trials
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    watch = Watch()
    watch.time("Optuna, settings", StudySearch, "suggest")
    watch.time("Optuna, results", StudySearch, "on_trial_result", "on_trial_complete")
    watch.time("MLflow, in its thread", TrialLogger, "_begin", "_end")
    watch.time("lines printed", Progress, "started", "ended")
    with tempfile.TemporaryDirectory() as name:
        results = Path(name)
        connect()
        study, space, store, logger = open_search(results, trials)
        with (results / "output").open("w") as output:
            begin, cpu = time.perf_counter(), time.process_time()
            console = Console(file=output)
            job = Job(space, results, store.root, at_once=slots(1, 0))
            run_trials(study, job, trials, listeners=[logger, Progress(console, study, trials)], trainable=no_work)
            logger.finish()
            wall, cpu = time.perf_counter() - begin, time.process_time() - cpu
        ray.shutdown()

        begin = time.perf_counter()
        study, *_, logger = open_search(results, trials)
        logger.catch_up()
        logger.finish()
        continued = time.perf_counter() - begin
        assert len(complete(study)) == trials
    print(f"{machine()}, {trials} trials of no work")
    for part, seconds in watch.seconds.items():
        print(f"  {part}: {1000 * seconds / trials:.1f} ms a trial")
    rest = wall - sum(seconds for part, seconds in watch.seconds.items() if "thread" not in part)
    print(f"  Ray Tune and the trial's process: {1000 * rest / trials:.1f} ms a trial, start and end included")
    print(f"  the driver's processor time: {1000 * cpu / trials:.1f} ms a trial")
    bounds = [
        ("driver overhead, ms a trial", 1000 * wall / trials, 100.0),
        ("memory growth from trial 100 on, MB", (watch.memory[-1] - watch.memory[min(99, trials // 2)]) / 2**20, 200.0),
        ("finished study continued after, s", continued, 10.0),
    ]
    for line in bounds:
        print(verdict(*line))
    return int(any(value > bound for _, value, bound in bounds))


if __name__ == "__main__":
    sys.exit(main())
