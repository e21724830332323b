"""Arms x seeds of a plan through the stages: every arm with the same seeds, none of which the search used, on the same
data. Each run's background threshold is the best one on the select split; all other numbers are on images whose masks
chose nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from sfc.config import Config
from sfc.config.files import EXPERIMENTS, absolute, find_file, load_config
from sfc.config.values import differing
from sfc.errors import UserError
from sfc.pipeline import Pipeline
from sfc.runtime.engine import LocalEngine
from sfc.runtime.store import digest, write_atomic
from sfc.runtime.stores import StoreAddress, open_store
from tune.cluster.configurations import Goal
from tune.evidence import tables
from tune.options import ClusterOptions
from tune.runs.arms import Arms, new_numbers, run_arms, with_overrides
from tune.space.plan_file import Plan
from tune.study.study import best_config, load_study
from tune.tracking.tracker import Tracker, fixed_settings, tracking_uri
from tune.tracking.versions import versions


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


def prepare(plan: Plan, configs: dict[str, Config], seeds: int, cluster: ClusterOptions) -> Arms:
    """The arms of an ablation without numbers, of so many seeds each; its folder is another one where arms, stages or
    data differ.

    Raises:
        UserError: as `check_data`.
    """
    pipeline = check_data(configs, cluster.store)
    elsewhere = pipeline.config.data.model_copy(update={"root": ""})  # the same data, wherever they lie
    until, first = plan.file.until, next(iter(configs.values()))
    numbers = new_numbers(plan.path.stem, configs, [first.seed + 1 + i for i in range(seeds)], pipeline)
    numbers["until"] = until
    settings = {arm: differing(config.model_copy(update={"data": elsewhere})) for arm, config in configs.items()}
    meaning = digest([until, pipeline.train.fingerprint, settings])
    folder = cluster.results / "ablations" / f"{plan.path.stem}-{meaning[:8]}"
    goals = dict.fromkeys(configs, Goal(sweep=True, until=until))
    shown = "val/miou" if until == "segmentation" else "seed_val/miou"
    return Arms(f"ablation/{folder.name}", "arm", configs, goals, numbers, folder / "numbers.json", shown)


def run_ablation(ablation: Arms, cluster: ClusterOptions, console: Console) -> None:
    """Run every arm with every seed (`run_arms`), and write the tables into the ablation's folder."""
    numbers, folder = ablation.numbers, ablation.file.parent
    folder.mkdir(parents=True, exist_ok=True)
    tracker = Tracker(tracking_uri(cluster.results), cluster.results)
    tags = {"sfc.kind": "ablation", "sfc.command": numbers["command"]}
    parent = tracker.start(ablation.key, folder.name, tags)
    tracker.log(parent, params=fixed_settings(ablation.configs[numbers["reference"]]), tags=versions())
    try:
        run_arms(ablation, cluster, tracker, parent, console)
        write_tables(folder, numbers)
        tracker.files(parent, folder)
    except BaseException:
        tracker.end(parent, failed=True)
        raise
    tracker.end(parent)


def write_tables(folder: Path, numbers: tables.Numbers) -> None:
    """Write the tables of numbers as Markdown, CSV and LaTeX."""
    write_atomic(folder / "tables.md", f"# {numbers['plan']}\n\n{tables.document(numbers)}\n")
    write_atomic(folder / "tables.csv", tables.tidy(numbers).to_csv(index=False))
    write_atomic(folder / "tables.tex", tables.latex_document(numbers))
