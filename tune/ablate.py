"""Arms x seeds through the stages, compared in pairs: python tune/ablate.py --plan components.yaml --study NAME.

Every arm runs with the same seeds, none of which the search used, on the same data. Each run's background threshold is
the best one on the select split; all other numbers are then on images whose masks chose nothing. What the store has is
not done again: interrupted, the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from sfc.__main__ import set_up_logging
from sfc.config import Config
from sfc.config.files import EXPERIMENTS, absolute, change_config, find_file, load_config, parse_override
from sfc.errors import UserError
from sfc.pipeline import Pipeline
from sfc.runtime.engine import LocalEngine
from sfc.runtime.store import Address, digest, open_store, store_address, write_atomic
from tune.cluster.configurations import run_all
from tune.cluster.connect import connect, results_folder
from tune.cluster.stop import guarded
from tune.evidence import tables
from tune.final import best_config
from tune.space.plan_file import Plan, arm_configs, load_plan
from tune.study.progress import duration
from tune.study.storage import one_driver
from tune.study.study import load_study
from tune.tracking.tracker import Tracker, fixed_settings, flat, masks_seen, tracking_uri, versions


def start_points(plan: Plan, given: argparse.Namespace) -> tuple[Config, Config | None]:
    """The base, and the tuned best where a study is named, both under the command line's overrides.

    Raises:
        UserError: no such file or study, wrong overrides, or a base and a study where only one can be the base.
    """
    if given.base and given.study and not plan.file.arms:
        raise UserError(f"{plan.path} has one base: name it by --base or by --study, not both")
    base = given.base or find_file(plan.file.base, [EXPERIMENTS, plan.path.parent])
    config = absolute(load_config(base, given.overrides))
    if not given.study:
        return config, None
    changes = {".".join(map(str, address)): value for address, value in map(parse_override, given.overrides)}
    return config, absolute(change_config(best_config(load_study(given.study, given.results)), changes))


def check_data(configs: dict[str, Config], store: Address) -> Pipeline:
    """The reference's pipeline, its data opened (and generated, where it is generated).

    Raises:
        UserError: an arm has other data, or the select split has no masks.
    """
    (reference, first), *rest = configs.items()
    kept = first.data.model_dump(exclude={"select"})
    for name, config in rest:
        if config.data.model_dump(exclude={"select"}) != kept:
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


def track(tracker: Tracker, parent: str, key: str, plan: str, run: dict[str, Any], params: dict[str, Any]) -> None:
    """The MLflow run of one arm and seed; the numbers that are there already are not written again."""
    metrics = {k: v for k, v in run.get("metrics", {}).items() if math.isfinite(v)}
    known = tracker.find(key)
    if known and known.info.status == "FINISHED" and known.data.metrics == metrics:
        return
    tags = {"sfc.kind": "arm", "sfc.arm": params["arm"], "sfc.seed": str(params["seed"])}
    started = tracker.start(key, f"{params['arm']} seed {params['seed']} {plan}", tags, parent)
    seen = masks_seen(run.get("supervision", {}))
    reason = {"sfc.reason": run["failed"]} if "failed" in run else {}
    tracker.log(started, params=params, metrics=metrics, tags=versions() | seen | reason)
    tracker.end(started, failed="failed" in run)


def ablate(
    name: str, configs: dict[str, Config], numbers: tables.Numbers, folder: Path, given: argparse.Namespace
) -> tables.Numbers:
    """Run every arm with every seed on Ray; `numbers.json` and MLflow have each as soon as it is done."""
    results, seeds, total = given.results, numbers["seeds"], len(configs) * len(numbers["seeds"])
    tracker = Tracker(tracking_uri(results), results)
    tags = {"sfc.kind": "ablation", "sfc.command": numbers["command"]}
    parent = tracker.start(f"ablation/{folder.name}", folder.name, tags)
    tracker.log(parent, params=fixed_settings(configs[numbers["reference"]]), tags=versions())
    varied = sorted({setting for arm in numbers["arms"].values() for setting in arm["changes"]})
    connect(given.address)
    # All seeds of one arm before the next: arms that share a stage seldom want it at once and wait for each other.
    jobs = [(i, arm, seed) for i, arm in enumerate(configs) for seed in seeds]
    seeded = [change_config(configs[arm], {"seed": seed}) for _, arm, seed in jobs]
    console, begin = Console(), time.monotonic()
    try:
        done = run_all(seeded, results, given.store, workers=given.workers, sweep=True, until=numbers["until"])
        for count, (job, found) in enumerate(done, 1):
            i, arm, seed = jobs[job]
            run = {"seed": seed, **{key: value for key, value in found.items() if key != "config"}}
            runs = numbers["arms"][arm]["runs"]
            runs.append(run)
            runs.sort(key=lambda r: seeds.index(r["seed"]))
            write_atomic(folder / "numbers.json", json.dumps(numbers, indent=1))
            settings = flat(configs[arm])
            params = {"arm": arm, "seed": seed} | {k: settings[k] for k in varied if k in settings}
            track(tracker, parent, f"ablation/{folder.name}/{i}/{seed}", name, run, params)
            metric = next((m for m in ("seed_val/miou", "seed/best_miou") if m in run.get("metrics", {})), "")
            shown = f"FAILED: {run['failed']}" if "failed" in run else f"{metric} {run['metrics'][metric]:.4f}"
            left = duration((time.monotonic() - begin) / count * (total - count))
            line = f"{count}/{total}: {arm}, seed {seed}: {shown}; about {left} left"
            console.print(line, highlight=False, markup=False, soft_wrap=True)
        write_tables(numbers, folder)
        tracker.client.log_artifacts(parent, str(folder))
    except BaseException:
        tracker.end(parent, failed=True)
        raise
    tracker.end(parent)
    return numbers


def write_tables(numbers: tables.Numbers, folder: Path) -> None:
    """`tables.md`, `tables.csv` and `tables.tex`."""
    write_atomic(folder / "tables.md", f"# {numbers['plan']}\n\n{tables.document(numbers)}\n")
    write_atomic(folder / "tables.csv", tables.tidy(numbers))
    write_atomic(folder / "tables.tex", tables.latex_document(numbers))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python tune/ablate.py", description=__doc__.split("\n")[0])
    parser.add_argument("--plan", required=True, help="a plan file, or its bare name in experiments/ablations/")
    parser.add_argument("--base", help="another base than the plan's")
    parser.add_argument("--study", help="whose best trial is the base; of a plan with `arms`, the tuned arms' base")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--table", type=Path, help="Markdown file to write the numbers to")
    parser.add_argument("--workers", type=int, default=1, help="of each training (Ray Train)")
    parser.add_argument("--address", help="of a Ray cluster, such as auto")
    parser.add_argument("--results", type=results_folder, default="results")
    parser.add_argument("--store", type=store_address, help="folder, s3://... or gs://...; default RESULTS/store")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    given = parser().parse_intermixed_args(arguments)
    words = shlex.join(sys.argv[1:] if arguments is None else arguments)

    def command() -> int:
        set_up_logging()
        if given.seeds < 1:
            raise UserError(f"--seeds {given.seeds}: at least one is needed")
        plan = load_plan(given.plan)
        configs = arm_configs(plan, *start_points(plan, given))
        given.store = given.store or given.results / "store"
        pipeline = check_data(configs, given.store)
        reference, changes, found = next(iter(configs)), changes_of(configs), versions()
        numbers: tables.Numbers = {
            "plan": plan.path.stem,
            "study": given.study,
            "command": f"python tune/ablate.py {words}",
            "commit": found["git.commit"],
            "torch": found["version.torch"],
            "until": plan.file.until,
            "reference": reference,
            "seeds": [configs[reference].seed + 1 + i for i in range(given.seeds)],
            "classes": ["background", *pipeline.data.classes],
            "counts": pipeline.train.labels.sum(0).astype(int).tolist(),
            "arms": {arm: {"changes": changes[arm], "runs": []} for arm in configs},
        }
        settings = {arm: config.model_dump(mode="json", exclude={"data": {"root"}}) for arm, config in configs.items()}
        meaning = digest([plan.file.until, pipeline.train.fingerprint, settings])
        folder = given.results / "ablations" / f"{plan.path.stem}-{meaning[:8]}"
        console = Console()
        if given.seeds == 1:
            console.print("one seed only: there will be no interval over seeds")
        with one_driver(folder.with_suffix(".lock")):
            folder.mkdir(parents=True, exist_ok=True)
            ablate(plan.path.stem, configs, numbers, folder, given)
        text = tables.document(numbers)
        console.print(text, soft_wrap=True, markup=False, highlight=False)
        if given.table:
            given.table.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(given.table, f"# {given.table.stem}\n\n{text}\n")
        console.print(f"numbers and tables: {folder}", soft_wrap=True)
        failed = [f"{arm}, seed {r['seed']}" for arm, e in numbers["arms"].items() for r in e["runs"] if "failed" in r]
        if failed:
            print(f"error: {len(failed)} runs failed: {'; '.join(failed)}", file=sys.stderr)
        return 1 if failed else 0

    return guarded(command)


if __name__ == "__main__":
    sys.exit(main())
