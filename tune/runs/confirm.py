"""The confirmation of a search: its leading trials on seeds that the search did not use, in rounds, each with fewer
trials and more seeds. The best mean over seeds is chosen; the number from the search itself is not part of it, since
the best of many single numbers owes a part to luck."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import optuna
from optuna.trial import FrozenTrial
from rich.console import Console

from sfc.config.files import change_config
from sfc.errors import Diverged
from sfc.pipeline import Pipeline
from sfc.runtime.stores import open_store
from tune.cluster.configurations import Goal
from tune.evidence.tables import Numbers, mean
from tune.options import ClusterOptions
from tune.runs.arms import Arms, new_numbers, run_arms
from tune.space.sections import Round
from tune.study.study import base_of, complete, file_of, values_of
from tune.tracking.tracker import Tracker

Item = TypeVar("Item")
CONFIRMATION = "confirmation_{}.json"
"""File of the numbers of a round, in `final/STUDY` of the results folder."""


@dataclass(frozen=True)
class Place:
    """Where a study's numbers after the search go."""

    study: optuna.Study
    cluster: ClusterOptions
    tracker: Tracker
    parent: str
    """Id of the search's MLflow run."""
    deadline: float = math.inf
    """In `time.monotonic`."""

    @property
    def folder(self) -> Path:
        return self.cluster.results / "final" / self.study.study_name

    @contextmanager
    def section(self, name: str) -> Iterator[str]:
        """Give the id of the MLflow run of a step, below the search's, and end it with the step."""
        study = self.study.study_name
        run = self.tracker.start(
            f"{study}/{name}", f"{name} {study}", {"sfc.kind": name, "sfc.study": study}, self.parent
        )
        try:
            yield run
        except BaseException:
            self.tracker.end(run, failed=True)
            raise
        self.tracker.end(run)


def title(trial: FrozenTrial) -> str:
    """The arm of a trial."""
    return f"trial {trial.number}"


def choose(
    ranked: Sequence[Item],
    rounds: Sequence[Round],
    measure: Callable[[int, Round, list[Item]], list[float] | None],
) -> Item | None:
    """The item with the best mean in the last whole round; each round takes the best of the one before.

    Args:
        ranked: best first, by the search.
        rounds: how many go on, and on how many seeds.
        measure: gets the number of a round (from 1), the round and its items. Returns the mean of each, NaN where
            there is none, or None for a round that was cut short.

    Returns:
        None without a whole round, or where a round gave no number.
    """
    leaders, chosen = list(ranked), None
    for number, step in enumerate(rounds, 1):
        some = leaders[: step.trials]
        if (means := measure(number, step, some)) is None:
            break
        pairs = [(mean, -place) for place, mean in enumerate(means) if math.isfinite(mean)]
        leaders = [some[-place] for _, place in sorted(pairs, reverse=True)]
        if not leaders:
            return None
        chosen = leaders[0]
    return chosen


def confirm(place: Place, console: Console) -> FrozenTrial:
    """Run the rounds of the study's space and choose a trial, which the study records as `chosen`. Where the deadline
    leaves no whole round, the search's best is chosen.

    Raises:
        UserError, Diverged: no trial ran in full, or no run gave a number.
    """
    study, file = place.study, file_of(place.study)
    ranked, metric = complete(study), file.objective.metric
    rounds = file.confirm if len(ranked) > 1 else ()
    if not rounds:
        return ranked[0]
    base, goal = base_of(study), Goal(sweep=file.sweeps, metric=metric, until=None)
    pipeline = Pipeline(base, open_store(place.cluster.store), None)
    place.folder.mkdir(parents=True, exist_ok=True)

    def measure(parent: str, number: int, step: Round, some: list[FrozenTrial]) -> list[float] | None:
        configs = {title(t): change_config(base, values_of(t)) for t in some}
        seeds = [base.seed + 1 + i for i in range(step.seeds)]
        numbers = new_numbers(study.study_name, configs, seeds, pipeline) | {"metric": metric}
        numbers["search"] = {title(t): t.value for t in some}
        key, path = f"{study.study_name}/confirmation", place.folder / CONFIRMATION.format(number)
        arms = Arms(key, "confirmation", configs, dict.fromkeys(configs, goal), numbers, path, metric)
        console.print(f"confirmation, round {number}: {len(some)} trials x {step.seeds} seeds", highlight=False)
        whole = run_arms(arms, place.cluster, place.tracker, parent, console, place.deadline)
        means = [mean(numbers, title(t), metric) for t in some]
        if whole and not any(map(math.isfinite, means)):
            reasons = map(": ".join, arms.failed().items())
            raise Diverged("no run of the confirmation gave a number:\n" + "\n".join(reasons))
        return means if whole else None

    with place.section("confirmation") as parent:
        chosen = choose(ranked, rounds, partial(measure, parent)) or ranked[0]
    study.set_user_attr("chosen", chosen.number)
    return chosen


def read_rounds(folder: Path) -> list[Numbers]:
    """The numbers of each round in a study's folder, the last one perhaps incomplete."""
    paths = (folder / CONFIRMATION.format(number) for number in itertools.count(1))
    return [json.loads(path.read_text(encoding="utf-8")) for path in itertools.takewhile(Path.is_file, paths)]
