"""The confirmation of a search: its leading trials on seeds that the search did not use, in rounds, each with fewer
trials and more seeds. The best mean over seeds is chosen; the number from the search itself is not part of it, since
the best of many single numbers owes a part to luck."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial
from rich.console import Console

from sfc.config.files import change_config
from sfc.errors import Diverged
from sfc.pipeline import Pipeline
from sfc.runtime.stores import open_store
from tune.cluster.configurations import Goal
from tune.evidence.tables import Numbers
from tune.options import ClusterOptions
from tune.runs.arms import Arms, new_numbers, run_arms
from tune.study.study import base_of, complete, file_of, values_of
from tune.tracking.tracker import Tracker

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

    def section(self, name: str) -> str:
        """Id of the MLflow run of a step, below the search's; made where there is none."""
        study = self.study.study_name
        tags = {"sfc.kind": name, "sfc.study": study}
        return self.tracker.start(f"{study}/{name}", f"{name} {study}", tags, self.parent)


def title(trial: FrozenTrial) -> str:
    """The arm of a trial."""
    return f"trial {trial.number}"


def confirm(place: Place, console: Console) -> FrozenTrial:
    """Run the rounds of the study's space and choose a trial, which the study records as `chosen`. A round that the
    deadline cuts short chooses nothing: then the last whole round does, and before the first the search.

    Raises:
        UserError, Diverged: no trial ran in full, or no run gave a number.
    """
    study, file = place.study, file_of(place.study)
    leaders, metric = complete(study), file.objective.metric
    rounds = file.confirm if len(leaders) > 1 else ()
    base, goal = base_of(study), Goal(sweep=file.sweeps, metric=metric, until=None)
    configs = {title(t): change_config(base, values_of(t)) for t in leaders}
    parent = place.section("confirmation") if rounds else ""
    pipeline, chosen = Pipeline(base, open_store(place.cluster.store), None), None
    place.folder.mkdir(parents=True, exist_ok=True)
    for number, step in enumerate(rounds, 1):
        leaders = leaders[: step.trials]
        some = {title(t): configs[title(t)] for t in leaders}
        seeds = [base.seed + 1 + i for i in range(step.seeds)]
        numbers = new_numbers(study.study_name, some, seeds, pipeline) | {"metric": metric}
        numbers["search"] = {title(t): t.value for t in leaders}
        path = place.folder / CONFIRMATION.format(number)
        arms = Arms(
            f"{study.study_name}/confirmation", "confirmation", some, dict.fromkeys(some, goal), numbers, path, metric
        )
        console.print(f"confirmation, round {number}: {len(some)} trials x {step.seeds} seeds", highlight=False)
        if not run_arms(arms, place.cluster, place.tracker, parent, console, place.deadline):
            break
        means = {t.number: arms.mean(title(t), metric) for t in leaders}
        leaders = sorted((t for t in leaders if math.isfinite(means[t.number])), key=lambda t: -means[t.number])
        if not leaders:
            raise Diverged("no run of the confirmation gave a number:\n" + "\n".join(arms.failed()))
        chosen = leaders[0]
    if rounds:
        place.tracker.end(parent)
    if chosen is not None:
        study.set_user_attr("chosen", chosen.number)
    return chosen or leaders[0]


def read_rounds(folder: Path) -> list[Numbers]:
    """The numbers of each round in a study's folder, the last one perhaps incomplete."""
    paths = (folder / CONFIRMATION.format(number) for number in itertools.count(1))
    return [json.loads(path.read_text(encoding="utf-8")) for path in itertools.takewhile(Path.is_file, paths)]
