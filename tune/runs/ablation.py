"""Arms x seeds of a plan through the stages: every arm with the same seeds, none of which the search used, on the same
data. Each run's background threshold is the best one on the select split; all other numbers are on images whose masks
chose nothing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from sfc.config import Config
from sfc.config.files import EXPERIMENTS, absolute, change_config, find_file, load_config
from sfc.config.values import differing, flat
from sfc.errors import UserError
from sfc.pipeline import Pipeline
from sfc.runtime.engine import LocalEngine
from sfc.runtime.store import digest, write_atomic
from sfc.runtime.stores import StoreAddress, open_store
from tune.cluster.configurations import Goal, Run, run_all
from tune.evidence import tables
from tune.options import ClusterOptions
from tune.runs.finals import with_overrides
from tune.space.plan_file import Plan
from tune.study.progress import duration
from tune.study.study import best_config, load_study
from tune.tracking.tracker import Tracker, fixed_settings, masks_seen, tracking_uri
from tune.tracking.versions import versions


@dataclass(frozen=True)
class Ablation:
    """A plan that is ready to run."""

    configs: dict[str, Config]
    """Each arm's, the reference first."""
    numbers: tables.Numbers
    """The content of numbers.json, filled in as runs end."""
    folder: Path
    """For numbers and tables; another one where arms, stages or data differ."""

    def failed(self) -> list[str]:
        """The runs without numbers."""
        runs = [(arm, run) for arm, entry in self.numbers["arms"].items() for run in entry["runs"]]
        return [f"{arm}, seed {run['seed']}" for arm, run in runs if "failed" in run]


def start_points(
    plan: Plan, base: str | None, study: str | None, results: Path, overrides: Sequence[str]
) -> tuple[Config, Config | None]:
    """The configuration that arms change (the plan's base, or the file `base`), and the best one of a study in the
    results folder, if one is named; both under the command line's `section.key=value` words.

    Raises:
        UserError: no such file or study, wrong overrides, or a base and a study where only one can be the base.
    """
    if base and study and not plan.file.arms:
        raise UserError(f"{plan.path} has one base: name it by --base or by --study, not both")
    file = base or find_file(plan.file.base, [EXPERIMENTS, plan.path.parent])
    config = absolute(load_config(file, overrides))
    if study is None:
        return config, None
    return config, absolute(with_overrides(best_config(load_study(study, results)), overrides))


def check_data(configs: dict[str, Config], store: StoreAddress) -> Pipeline:
    """Open the data (and generate them, if they are generated). Returns the reference's pipeline.

    Raises:
        UserError: an arm has other data, or the select split has no masks.
    """
    (reference, first), *rest = configs.items()
    data = first.data.model_dump(exclude={"select"})
    for name, config in rest:
        if config.data.model_dump(exclude={"select"}) != data:
            raise UserError(
                f"the arms {reference!r} and {name!r} have other data ({first.data.format} {first.data.root} and "
                f"{config.data.format} {config.data.root}): name the same by --base, or by data.* on the command line"
            )
    pipeline = Pipeline(first, open_store(store), LocalEngine(1))
    for split in {config.data.select for config in configs.values()}:
        if not pipeline.split(split).has_masks:
            raise UserError(f"thresholds are chosen by masks, and the split {split} has none (or not for each image)")
    return pipeline


def changes_of(configs: dict[str, Config]) -> dict[str, dict[str, Any]]:
    """Settings of each arm that differ from those of the first."""
    settings = {name: flat(config) for name, config in configs.items()}
    first = next(iter(settings.values()))
    return {
        name: {k: v for k, v in values.items() if v != first.get(k) and k not in ("selected_on", "pseudo.threshold")}
        for name, values in settings.items()
    }


def prepare(plan: Plan, configs: dict[str, Config], seeds: int, cluster: ClusterOptions) -> Ablation:
    """An ablation without numbers, of so many seeds an arm.

    Raises:
        UserError: as `check_data`.
    """
    pipeline, code = check_data(configs, cluster.store), versions()
    elsewhere = pipeline.config.data.model_copy(update={"root": ""})  # the same data, wherever they lie
    reference, until, name = next(iter(configs)), plan.file.until, plan.path.stem
    numbers: tables.Numbers = {
        "plan": name,
        "commit": code["git.commit"],
        "torch": code["version.torch"],
        "until": until,
        "reference": reference,
        "seeds": [configs[reference].seed + 1 + i for i in range(seeds)],
        "classes": ["background", *pipeline.data.classes],
        "counts": pipeline.train.labels.sum(0).astype(int).tolist(),
        "arms": {arm: {"changes": changes, "runs": []} for arm, changes in changes_of(configs).items()},
    }
    settings = {arm: differing(config.model_copy(update={"data": elsewhere})) for arm, config in configs.items()}
    meaning = digest([until, pipeline.train.fingerprint, settings])
    return Ablation(configs, numbers, cluster.results / "ablations" / f"{name}-{meaning[:8]}")


def run_ablation(ablation: Ablation, cluster: ClusterOptions, console: Console) -> None:
    """Run every arm with every seed on Ray; numbers.json and MLflow have each run as soon as it is done. What the store
    has is not done again: interrupted, the same command goes on."""
    numbers, folder, configs = ablation.numbers, ablation.folder, ablation.configs
    folder.mkdir(parents=True, exist_ok=True)
    tracker = Tracker(tracking_uri(cluster.results), cluster.results)
    tags = {"sfc.kind": "ablation", "sfc.command": numbers["command"]}
    parent = tracker.start(f"ablation/{folder.name}", folder.name, tags)
    tracker.log(parent, params=fixed_settings(configs[numbers["reference"]]), tags=versions())
    varied = sorted({setting for arm in numbers["arms"].values() for setting in arm["changes"]})
    # All seeds of one arm before the next: arms that share a stage seldom want it at once and wait for each other.
    jobs = [(i, arm, seed) for i, arm in enumerate(configs) for seed in numbers["seeds"]]
    seeded = [change_config(configs[arm], {"seed": seed}) for _, arm, seed in jobs]
    begin = time.monotonic()
    try:
        results = run_all(seeded, cluster, Goal(sweep=True, until=numbers["until"]))
        for count, (job, result) in enumerate(results, 1):
            i, arm, seed = jobs[job]
            run = {"seed": seed, **{key: value for key, value in result.items() if key != "config"}}
            runs = numbers["arms"][arm]["runs"]
            runs.append(run)
            runs.sort(key=lambda run: numbers["seeds"].index(run["seed"]))
            write_atomic(folder / "numbers.json", json.dumps(numbers, indent=1))
            tags = {"sfc.kind": "arm", "sfc.arm": arm, "sfc.seed": str(seed)}
            key, name = f"ablation/{folder.name}/{i}/{seed}", f"{arm} seed {seed} {numbers['plan']}"
            tracked, settings = tracker.start(key, name, tags, parent), flat(configs[arm])
            tracker.finish(
                tracked,
                params={"arm": arm, "seed": seed} | {name: settings[name] for name in varied if name in settings},
                metrics=run.get("metrics", {}),
                tags=versions() | masks_seen(run.get("supervision", {})),
                failed=run.get("failed", ""),
            )
            left = duration((time.monotonic() - begin) / count * (len(jobs) - count))
            line = f"{count}/{len(jobs)}: {arm}, seed {seed}: {_shown(run)}; about {left} left"
            console.print(line, highlight=False, markup=False, soft_wrap=True)
        write_atomic(folder / "tables.md", f"# {numbers['plan']}\n\n{tables.document(numbers)}\n")
        write_atomic(folder / "tables.csv", tables.tidy(numbers).to_csv(index=False))
        write_atomic(folder / "tables.tex", tables.latex_document(numbers))
        tracker.files(parent, folder)
    except BaseException:
        tracker.end(parent, failed=True)
        raise
    tracker.end(parent)


def _shown(run: Run) -> str:
    """A run in one line of text."""
    if "failed" in run:
        return f"FAILED: {run['failed']}"
    metric = "seed_val/miou" if "seed_val/miou" in run["metrics"] else "seed/best_miou"
    return f"{metric} {run['metrics'][metric]:.4f}"
