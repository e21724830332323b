"""Arms x seeds through the stages, compared in pairs: python tune/ablate.py --plan components.yaml --study NAME."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from sfc.errors import UserError
from sfc.runtime.store import write_atomic
from sfc.terminal import execute
from tune.options import add_shared_options, allow_plugins, cluster_options
from tune.study.names import study_name


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python tune/ablate.py", description=__doc__)
    parser.add_argument("--plan", required=True, help="a plan file, or its bare name in experiments/ablations/")
    parser.add_argument("--base", help="another base than the plan's")
    text = "whose best trial is the base; of a plan with `arms`, the tuned arms' base"
    parser.add_argument("--study", type=study_name, help=text)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--table", type=Path, help="Markdown file to write the numbers to")
    add_shared_options(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit code: 1 where a run failed."""
    return execute(parser(), run, arguments)


def run(options: argparse.Namespace) -> int:
    """The command on parsed options; returns the exit code."""
    from tune.evidence import tables
    from tune.evidence.verdict import verdict
    from tune.runs.ablation import prepare, run_ablation, start_points
    from tune.space.plan_file import arm_configs, load_plan
    from tune.study.storage import one_driver

    allow_plugins(options)
    if options.seeds < 1:
        raise UserError(f"--seeds {options.seeds}: at least one is needed")
    plan, cluster, console = load_plan(options.plan), cluster_options(options), Console()
    configs = arm_configs(plan, *start_points(plan, options.base, options.study, options.results, options.overrides))
    ablation = prepare(plan, configs, options.seeds, cluster)
    numbers = ablation.numbers
    numbers |= {"command": f"python tune/ablate.py {shlex.join(options.words)}", "study": options.study}
    if options.seeds == 1:
        console.print("one seed only: there will be no interval over seeds")
    with one_driver(ablation.file.parent.with_suffix(".lock")):
        run_ablation(ablation, cluster, console)
    text = tables.document(numbers)
    console.print(text, soft_wrap=True, markup=False, highlight=False)
    if options.table:
        options.table.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(options.table, f"# {options.table.stem}\n\n{text}\n")
    for arm in [arm for arm in numbers["arms"] if arm != numbers["reference"]]:
        console.print(verdict(numbers, arm, numbers["reference"]).sentence, markup=False, highlight=False)
    console.print(f"numbers and tables: {ablation.file.parent}", soft_wrap=True)
    if failed := ablation.failed():
        print(f"error: {len(failed)} runs failed: {'; '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
