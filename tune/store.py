"""What a store holds by stage and study, and removal of the rest: python tune/store.py --results results."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import optuna
from rich.console import Console
from rich.filesize import decimal
from rich.prompt import Confirm
from rich.table import Table

from sfc.errors import UserError
from sfc.runtime.inventory import Item, inventory, referred, remove, store_folder
from sfc.runtime.stores import store_address
from sfc.terminal import execute
from tune.options import results_folder
from tune.study.storage import STORAGE, one_driver, storage_at

FILES = {"final": "final/*/*.json", "ablation": "ablations/*/numbers.json"}
"""Files of a results folder whose entries `folders` name outputs, by the command that writes them."""


def folders_in(value: Any) -> Iterator[str]:
    """Every path under a key `folders`, at any depth of a JSON value."""
    if isinstance(value, dict):
        yield from value["folders"].values() if isinstance(value.get("folders"), dict) else ()
        value = list(value.values())
    for child in value if isinstance(value, list) else ():
        yield from folders_in(child)


def references(results: Path) -> dict[str, set[str]]:
    """Folders of outputs that studies, finals and ablations name, by the title of each.

    Raises:
        UserError: a file or the studies can't be read, so that it is not known what they refer to.
    """
    named: dict[str, set[str]] = {}
    if (results / "optuna.db").is_file() or os.environ.get(STORAGE):
        storage = storage_at(results)
        for name in optuna.get_all_study_names(storage):
            trials = optuna.load_study(study_name=name, storage=storage).get_trials(deepcopy=False)
            named[f"study {name}"] = {trial.user_attrs["maps"] for trial in trials if "maps" in trial.user_attrs}
    for kind, pattern in FILES.items():
        for path in sorted(results.glob(pattern)):
            try:
                value = json.loads(path.read_text(encoding="utf-8"))
            except ValueError:
                raise UserError(f"{path} is not JSON, so what it refers to is unknown: restore or remove it") from None
            named.setdefault(f"{kind} {path.parent.name}", set()).update(folders_in(value))
    return named


def _size(items: Sequence[Item]) -> tuple[str, str]:
    return str(len(items)), decimal(sum(item.bytes for item in items))


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, justify="left" if column == columns[0] else "right")
    return table


def show(console: Console, store: Path, items: Sequence[Item], uses: dict[str, set[str]]) -> None:
    """Print what a store holds by stage, and by what refers to it: names of outputs by study, final or ablation."""
    used = set().union(*uses.values())
    outputs = [i for i in items if i.kind == "output"]
    groups = [outputs, [i for i in outputs if i.name not in used]]
    groups += [[i for i in items if i.kind == kind] for kind in ("unfinished", "leftover")]
    heads = ("outputs", "unused", "unfinished", "leftovers")
    table = _table(str(store), ("stage", *(column for head in heads for column in (head, "size"))))
    for stage in dict.fromkeys(i.stage for i in items):
        table.add_row(stage, *(cell for group in groups for cell in _size([i for i in group if i.stage == stage])))
    table.add_section()
    table.add_row("all", *(cell for group in groups for cell in _size(group)))
    console.print(table)
    if uses:
        table = _table("what refers to them (an output may be counted in several rows)", ("by", "outputs", "size"))
        for title, names in uses.items():
            table.add_row(title, *_size([i for i in outputs if i.name in names]))
        console.print(table)


@contextmanager
def idle(results: Path) -> Iterator[None]:
    """Keep searches and ablations of a results folder from starting: what a trial makes is referred to when it ends.

    Raises:
        UserError: one runs.
    """
    with ExitStack() as drivers:
        for lock in (*results.glob("studies/*.lock"), *results.glob("ablations/*.lock")):
            drivers.enter_context(one_driver(lock))
        yield


def clean(console: Console, unwanted: Sequence[Item], *, ask: bool) -> None:
    """Remove items, after a question where `ask`.

    Raises:
        UserError: nobody can be asked.
    """
    count, size = _size(unwanted)
    if not unwanted:
        console.print("nothing to remove")
        return
    if ask:
        if not sys.stdin.isatty():
            raise UserError(f"--remove would remove {count} items ({size}); add --yes where nobody can be asked")
        console.print(
            "Outputs of `sfc run`, and of other results folders that use this store, count as unused. Nothing may run "
            "on the store meanwhile."
        )
        if not Confirm.ask(f"Remove {count} items ({size})?", console=console, default=False):
            console.print("nothing was removed")
            return
    removed = remove(unwanted)
    count, size = _size(removed)
    console.print(f"removed {count} items ({size})")
    if stay := len(unwanted) - len(removed):
        console.print(f"{stay} stay, since somebody works on them")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python tune/store.py", description=__doc__)
    parser.add_argument("--results", type=results_folder, default="results", help="whose studies refer to outputs")
    parser.add_argument("--store", type=store_address, help="a folder; default RESULTS/store")
    parser.add_argument("--remove", action="store_true", help="remove what nothing refers to and what is unfinished")
    parser.add_argument("--yes", action="store_true", help="do not ask before removing")
    return parser


def run(options: argparse.Namespace) -> int:
    """The command on parsed options; returns the exit code."""
    console = Console()
    store = store_folder(options.store or options.results / "store")
    with idle(options.results) if options.remove else nullcontext():
        uses = {title: referred(store, folders) for title, folders in references(options.results).items()}
        items = inventory(store)
        show(console, store, items, uses)
        if options.remove:
            used = set().union(*uses.values())
            unwanted = [item for item in items if item.kind != "output" or item.name not in used]
            clean(console, unwanted, ask=not options.yes)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    return execute(parser(), run, arguments)


if __name__ == "__main__":
    sys.exit(main())
