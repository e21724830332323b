"""Arms: configurations that run with the same seeds. An ablation, a confirmation and a comparison are made of them."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from sfc.config import Config
from sfc.config.files import apply_overrides, build_config, change_config
from sfc.config.values import flat
from sfc.pipeline import Pipeline
from sfc.runtime.store import digest, write_atomic
from tune.cluster.configurations import Goal, Run, run_all
from tune.evidence.tables import Numbers
from tune.options import ClusterOptions
from tune.study.progress import duration
from tune.tracking.tracker import WARNINGS, Tracker, masks_seen
from tune.tracking.versions import versions


@dataclass(frozen=True)
class Arms:
    """Configurations by name, the seeds that each runs with, and where their numbers go."""

    key: str
    """Begins the keys of their MLflow runs."""
    kind: str
    """What they are for: the MLflow tag `sfc.kind`."""
    configs: dict[str, Config]
    goals: dict[str, Goal]
    """How far each arm goes."""
    numbers: Numbers
    """The content of `file`, filled in as runs end."""
    file: Path
    shown: str
    """Name of the number that the lines show."""

    def failed(self) -> dict[str, str]:
        """Reason of each run without numbers, by arm and seed."""
        runs = [(arm, run) for arm, entry in self.numbers["arms"].items() for run in entry["runs"]]
        return {f"{arm}, seed {run['seed']}": run["failed"] for arm, run in runs if "failed" in run}


def with_overrides(config: Config, overrides: Sequence[str]) -> Config:
    """A configuration with the command line's `section.key=value` words put over it.

    Raises:
        UserError: every mistake in the words, each as `command line, ...`.
    """
    values, places = apply_overrides(config.model_dump(mode="json"), {}, overrides)
    return build_config(values, places, "settings of the study")


def changes_of(configs: dict[str, Config]) -> dict[str, dict[str, Any]]:
    """Settings of each arm that differ from those of the first."""
    settings = {name: flat(config) for name, config in configs.items()}
    first = next(iter(settings.values()))
    return {
        name: {k: v for k, v in values.items() if v != first.get(k) and k not in ("selected_on", "pseudo.threshold")}
        for name, values in settings.items()
    }


def new_numbers(name: str, configs: dict[str, Config], seeds: Sequence[int], pipeline: Pipeline) -> Numbers:
    """The content of a file of numbers before the first run; the first arm is the reference."""
    code = versions()
    return {
        "plan": name,
        "commit": code["git.commit"],
        "torch": code["version.torch"],
        "reference": next(iter(configs)),
        "seeds": list(seeds),
        "classes": ["background", *pipeline.data.classes],
        "counts": pipeline.train.labels.sum(0).astype(int).tolist(),
        "arms": {arm: {"changes": changes, "runs": []} for arm, changes in changes_of(configs).items()},
    }


def run_arms(
    arms: Arms,
    cluster: ClusterOptions,
    tracker: Tracker,
    parent: str,
    console: Console,
    deadline: float = math.inf,
) -> bool:
    """Run every arm with every seed on Ray. The file of numbers and MLflow have each run as soon as it is done, and
    what the store has is not done again: interrupted, the same command goes on.

    Args:
        arms: what runs.
        cluster: where.
        tracker: writes a run of MLflow for each, below `parent`.
        parent: id of a run.
        console: gets a line for each.
        deadline: in `time.monotonic`; the rest is left out after it.

    Returns:
        Whether all have run.
    """
    numbers, begin = arms.numbers, time.monotonic()
    varied = sorted({setting for arm in numbers["arms"].values() for setting in arm["changes"]})
    order: Callable[[str], int] = list(numbers["arms"]).index
    # All seeds of one arm before the next: arms that share a stage seldom want it at once and wait for each other.
    jobs = [(arm, seed) for arm in sorted(arms.configs, key=order) for seed in numbers["seeds"]]
    if math.isfinite(deadline):
        jobs.sort(key=lambda job: numbers["seeds"].index(job[1]))  # seeds that all arms have can be compared
    work = [(change_config(arms.configs[arm], {"seed": seed}), arms.goals[arm]) for arm, seed in jobs]
    for entry in numbers["arms"].values():
        entry["runs"] = []
    for count, (job, result) in enumerate(run_all(work, cluster), 1):
        arm, seed = jobs[job]
        runs = numbers["arms"][arm]["runs"]
        runs.append({"seed": seed, **result})
        runs.sort(key=lambda run: numbers["seeds"].index(run["seed"]))
        write_atomic(arms.file, json.dumps(numbers, indent=1))
        _track(arms, arm, {"seed": seed, **result}, varied, tracker, parent)
        left = duration((time.monotonic() - begin) / count * (len(jobs) - count))
        line = f"{arms.kind} {count}/{len(jobs)}: {arm}, seed {seed}: {_text(result, arms.shown)}"
        line += f"; about {left} left" if count < len(jobs) else ""
        console.print(line, highlight=False, markup=False, soft_wrap=True)
        if time.monotonic() > deadline and count < len(jobs):
            console.print(f"the time limit is over after {count} of {len(jobs)} runs; the same command goes on")
            return False
    return True


def _track(arms: Arms, arm: str, run: Run, varied: list[str], tracker: Tracker, parent: str) -> None:
    """Write a run to MLflow."""
    name, settings, seed = arms.numbers["plan"], flat(arms.configs[arm]), run["seed"]
    key = f"{arms.key}/{digest(arms.configs[arm].model_dump(mode='json'))[:8]}/{seed}"
    tags = {"sfc.kind": arms.kind, "sfc.arm": arm, "sfc.seed": str(seed)}
    if run.get("warnings"):
        tags[WARNINGS] = "; ".join(run["warnings"])
    tracked = tracker.start(key, f"{arm} seed {seed} {name}", tags, parent)
    tracker.finish(
        tracked,
        params={"arm": arm, "seed": seed} | {name: settings[name] for name in varied if name in settings},
        metrics=run.get("metrics", {}),
        tags=versions() | masks_seen(run.get("supervision", {})),
        failed=run.get("failed", ""),
    )


def _text(run: Run, name: str) -> str:
    """A run in one line."""
    if "failed" in run:
        return f"FAILED: {run['failed']}"
    shown = next((n for n in (name, "val/miou", "seed_val/miou", "seed/best_miou") if n in run["metrics"]), None)
    text = f"{shown} {run['metrics'][shown]:.4f}" if shown else "done"
    return "; WARNING: ".join([text, *run.get("warnings", [])])
