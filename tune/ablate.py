"""Arms x seeds through every stage, and a table: python tune/ablate.py --plan synthetic.yaml --study NAME.

An arm is the base with settings put over it, or (`tuned: true`) the best trial of a study. Every arm runs with the
same seeds, none of which the search used, on the same data. Each run's background threshold is the best one on the
select split; all other numbers are then on images whose masks chose nothing. What the store has is not done again.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import ray
import torch
from pydantic import Field, ValidationError
from rich.console import Console

from sfc.__main__ import guarded, set_up_logging
from sfc.config import Config, Section
from sfc.engine import LocalEngine
from sfc.errors import UserError
from sfc.pipeline import Pipeline
from sfc.settings import (
    EXPERIMENTS,
    absolute,
    change_config,
    explain,
    find_file,
    load_config,
    parse_override,
    read_yaml,
)
from sfc.store import Store, write_atomic
from tune.cluster import connect
from tune.final import best_config
from tune.study import load_study
from tune.tracking import versions

PLANS = EXPERIMENTS / "ablations"
COLUMNS = {
    "seed mIoU, select": "seed/best_miou",
    "seed mIoU, val": "seed_val/miou",
    "head": "seed_val/miou_head",
    "middle": "seed_val/miou_middle",
    "tail": "seed_val/miou_tail",
    "pseudo-label mIoU, train": "pseudo/miou",
    "segmentation mIoU, val": "val/miou",
}


class Arm(Section):
    """One row: settings over the base, or over the best trial of the study."""

    tuned: bool = False
    set: Annotated[dict[str, Any], Field(default_factory=dict)]


class Plan(Section):
    """A plan file."""

    base: str
    arms: Annotated[dict[str, Arm], Field(min_length=1)]


def load_plan(name: str) -> Plan:
    """A plan (a path, or a bare name in experiments/ablations/).

    Raises:
        UserError: every mistake in the file.
    """
    path = find_file(name, [PLANS])
    values, places = read_yaml(path)
    try:
        return Plan.model_validate_json(json.dumps(values))
    except ValidationError as error:
        raise UserError(explain(error, places, str(path))) from None


def arm_configs(plan: Plan, base: Config, tuned: Config | None) -> dict[str, Config]:
    """The configuration of each arm.

    Raises:
        UserError: an arm has unknown settings, or needs a study and there is none.
    """
    configs = {}
    for name, arm in plan.arms.items():
        if arm.tuned and tuned is None:
            raise UserError(f"the arm {name!r} is the best of a search: name it by --study")
        start = tuned if arm.tuned else base
        try:
            configs[name] = change_config(start, arm.set)
        except UserError as error:
            raise UserError(f"arm {name!r}: {error}") from None
    return configs


def run_arm(config: Config, store: Path, threads: int = 1) -> dict[str, float]:
    """All stages of one configuration in this process, its threshold chosen on the select split; numbers by name."""
    torch.set_num_threads(threads)
    engine = LocalEngine(threads)
    first = Pipeline(config, Store(store), engine)
    seeds = json.loads((first.seed(config.data.select) / "metrics.json").read_text(encoding="utf-8"))
    chosen = {"pseudo.threshold": seeds["best"]["threshold"], "selected_on": config.data.select}
    return Pipeline(change_config(config, chosen), Store(store), engine).run().metrics


def table(numbers: dict[str, list[dict[str, float]]]) -> str:
    """Markdown: a row an arm, mean ± standard deviation over seeds in points of mIoU."""
    lines = ["| arm | " + " | ".join(COLUMNS) + " |", "|---" + "|---:" * len(COLUMNS) + "|"]
    for arm, runs in numbers.items():
        cells = []
        for metric in COLUMNS.values():
            values = 100 * np.array([run.get(metric, np.nan) for run in runs])
            spread = f" ± {values.std(ddof=1):.1f}" if len(values) > 1 else ""
            cells.append("-" if np.isnan(values).all() else f"{values.mean():.1f}{spread}")
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def by_seed(numbers: dict[str, list[dict[str, float]]], seeds: Sequence[int]) -> str:
    """Markdown: seed mIoU on val of every run."""
    lines = ["| arm | " + " | ".join(f"seed {s}" for s in seeds) + " |", "|---" + "|---:" * len(seeds) + "|"]
    for arm, runs in numbers.items():
        lines.append(f"| {arm} | " + " | ".join(f"{100 * run['seed_val/miou']:.1f}" for run in runs) + " |")
    return "\n".join(lines)


def document(
    numbers: dict[str, list[dict[str, float]]], configs: dict[str, Config], seeds: Sequence[int], command: str
) -> str:
    """The Markdown file: command, table, every seed, and what distinguishes the arms."""
    first = next(iter(configs.values()))
    differing = []
    for name, config in configs.items():
        changes = []
        for section, values in config.model_dump(mode="json").items():
            if isinstance(values, dict) and section != "data":
                other = first.model_dump(mode="json")[section]
                changes += [f"{section}.{k} {json.dumps(v)}" for k, v in values.items() if v != other[k]]
        differing.append(f"- {name}: {', '.join(changes) or 'the reference of this list'}")
    found = versions()
    return "\n\n".join(
        [
            f"Command: `{command}` (commit {found['git.commit']}, torch {found['version.torch']}).",
            f"Mean ± standard deviation over {len(seeds)} seeds, in points. Each run's background threshold is the "
            "best one on the masks of the select split (so `select` has seen its own masks); `val` and `train` "
            "columns were chosen on nothing of theirs (held-out masks).",
            table(numbers),
            "Seed mIoU on val, run by run:",
            by_seed(numbers, seeds),
            "Settings that differ from the first arm:",
            "\n".join(differing),
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python tune/ablate.py", description=__doc__.split("\n")[0])
    parser.add_argument("--plan", required=True, help="a plan file, or its bare name in experiments/ablations/")
    parser.add_argument("--base", help="another base than the plan's")
    parser.add_argument("--study", help="whose best trial is the tuned arm")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--table", type=Path, help="Markdown file to write the numbers to")
    parser.add_argument("--address", help="of a Ray cluster, such as auto")
    parser.add_argument("--results", type=lambda text: Path(text).absolute(), default="results")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    given = parser.parse_intermixed_args(arguments)
    words = shlex.join(sys.argv[1:] if arguments is None else arguments)

    def command() -> int:
        set_up_logging()
        plan = load_plan(given.plan)
        base = absolute(load_config(given.base or plan.base, given.overrides))
        tuned = best_config(load_study(given.study, given.results)) if given.study else None
        if tuned is not None:
            tuned = change_config(tuned, {".".join(map(str, a)): v for a, v in map(parse_override, given.overrides)})
        configs = arm_configs(plan, base, tuned)
        seeds = [base.seed + 1 + i for i in range(given.seeds)]
        Pipeline(base, Store(given.results / "store"), LocalEngine(1)).split(base.data.train)
        connect(given.address)
        task = ray.remote(num_cpus=1, max_retries=2)(run_arm)
        waiting = {
            task.remote(change_config(config, {"seed": seed}), given.results / "store"): (arm, i)
            for i, seed in enumerate(seeds)
            for arm, config in configs.items()
        }
        numbers: dict[str, list[dict[str, float]]] = {arm: [{}] * len(seeds) for arm in configs}
        console, total = Console(), len(waiting)
        while waiting:
            done, _ = ray.wait(list(waiting))
            arm, i = waiting.pop(done[0])
            numbers[arm][i] = ray.get(done[0])
            shown = f"seed mIoU on val {numbers[arm][i].get('seed_val/miou', float('nan')):.4f}"
            console.print(f"{total - len(waiting)}/{total}: {arm}, seed {seeds[i]}: {shown}", highlight=False)
        text = document(numbers, configs, seeds, f"python tune/ablate.py {words}")
        console.print(text, soft_wrap=True, markup=False, highlight=False)
        if given.table:
            given.table.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(given.table, f"# {given.table.stem}\n\n{text}\n")
        return 0

    return guarded(command)


if __name__ == "__main__":
    sys.exit(main())
