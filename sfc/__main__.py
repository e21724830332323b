"""python -m sfc run | show | check | data | import-checkpoint: on this machine, without Ray."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from sfc.config import Config
from sfc.config.files import dump_config, load_config
from sfc.errors import Diverged, UserError

if TYPE_CHECKING:  # commands import what they need: `show` without torch
    import numpy as np

    from sfc.data import Dataset
    from sfc.runtime.stores import StoreAddress


def guarded(command: Callable[[], int]) -> int:
    """Run a command; errors that are a user's to mend become one message and their exit code."""
    try:
        return command()
    except (UserError, Diverged) as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from here", file=sys.stderr)
        return 130


def set_up_logging() -> None:
    """Progress of the stages to the terminal."""
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", level=logging.WARNING)
    logging.getLogger("sfc").setLevel(logging.INFO)
    for name in ("mlflow", "alembic", "optuna"):  # the platform's libraries tell what they set up
        logging.getLogger(name).setLevel(logging.WARNING)


def _run(config: Config, store: StoreAddress) -> int:
    from sfc.pipeline import Pipeline
    from sfc.runtime.engine import LocalEngine
    from sfc.runtime.stores import open_store

    def report(metrics: dict[str, float], _: object) -> None:
        losses = "  ".join(f"{k} {v:.4f}" for k, v in metrics.items() if k not in ("epoch", "images_per_second"))
        logging.getLogger("sfc").info(
            "  epoch %d  %s  %.0f images/s", metrics["epoch"], losses, metrics["images_per_second"]
        )

    result = Pipeline(config, open_store(store), LocalEngine(on_report=report)).run()
    table = Table(title=f"image labels from: {result.label_source}")
    for column in ("number", "value", "masks it has seen"):
        table.add_column(column, justify="right" if column == "value" else "left")
    for name, value in result.metrics.items():
        table.add_row(name, f"{value:.4f}", result.supervision[name])
    console = Console()
    console.print(table)
    for name, folder in result.folders.items():
        console.print(f"{name}: {folder}", soft_wrap=True)
    return 0


def _check(config: Config) -> int:
    from sfc.data import open_dataset
    from sfc.data.check import check_data

    data = open_dataset(config.data)
    report = check_data(data, config.data)
    _print_counts(data, report.counts, {"images": report.images, "masks": report.masks})
    if report.problems:
        raise UserError(f"{len(report.problems)} problems in the data:{_listed(report.problems)}")
    print("settings and data are in order")
    return 0


def _print_counts(data: Dataset, counts: dict[str, np.ndarray], totals: dict[str, dict[str, int]]) -> None:
    """Images with each class, and totals by name, a column a split."""
    table = Table(title=f"{data.root}\nimage labels from: {data.label_source}")
    table.add_column("class")
    for split in counts:
        table.add_column(split, justify="right")
    for c, name in enumerate(data.classes):
        table.add_row(name, *(str(column[c]) for column in counts.values()))
    table.add_section()
    for name, numbers in totals.items():
        table.add_row(name, *(str(numbers[split]) for split in counts))
    Console().print(table)


def _listed(problems: list[str]) -> str:
    more = f"\n  and {len(problems) - 50} more" if len(problems) > 50 else ""
    return "".join(f"\n  {problem}" for problem in problems[:50]) + more


def _data(name: str, root: Path, fetch: bool) -> int:
    from sfc.data import coco, voc
    from sfc.data.dataset import open_folder
    from sfc.data.download import download

    if fetch:
        download(name, root)
    if name == "voc":
        folder = voc.prepare_voc(root)
        found = voc.verify_voc(folder, voc.PUBLISHED)
    else:
        year = {"coco14": 2014, "coco17": 2017}[name]
        folder = coco.prepare_coco(root, year)
        found = coco.verify_coco(folder, coco.PUBLISHED[year])
    _print_counts(open_folder(folder), found.counts, {"images": found.images})
    use = f"data.format={name} data.root={root}"
    if found.problems:
        raise UserError(
            f"{folder} is not the {name} that is known, in {len(found.problems)} ways:{_listed(found.problems)}\n"
            f"It can be used ({use}), but what is measured on it can't be compared with published numbers"
        )
    print(f"all counts are the known ones; to use it: {use}")
    return 0


def _import_checkpoint(file: Path, out: Path | None, config: Config | None) -> int:
    """Check a checkpoint, against the published network or a configuration's; write it under our names."""
    import torch

    from sfc.data import open_dataset
    from sfc.method.network import SFCNet
    from sfc.networks import published_checkpoints as reference
    from sfc.networks.backbone import build_backbone
    from sfc.refine.irn import IRN

    checkpoint = reference.read_checkpoint(file, "import-checkpoint")
    if config is None:
        net = reference.published_network(checkpoint)
    else:
        backbone = config.backbone.model_copy(update={"weights": None})
        with torch.device("meta"):
            irn = checkpoint.kind == "irn"
            classes = len(open_dataset(config.data).classes)
            net = IRN(backbone) if irn else SFCNet(build_backbone(backbone), classes)
    reference.check_fit(checkpoint, net, file, "import-checkpoint")
    out = out or Path("results", "imported", f"{file.stem}.pt")
    reference.write(checkpoint.state, out)
    classes = f", {checkpoint.classes} classes" if checkpoint.classes else ""
    print(f"{file}: {reference.TITLES[checkpoint.kind]}{classes}, {len(checkpoint.state)} tensors, complete")
    print(f"written to {out}; to use it without training:")
    if checkpoint.kind == "sfc":
        print(f"  python -m sfc run CONFIG classifier.weights={out}")
    else:
        print(f"  python -m sfc run CONFIG pseudo.method=irn affinity.weights={out}")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m sfc", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("run", "one configuration through all stages; what is done already is not done again"),
        ("show", "the resolved configuration"),
        ("check", "the configuration and the data"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("config", help="a YAML file, or its bare name in experiments/")
        command.add_argument("overrides", nargs="*", metavar="section.key=value")
        if name == "run":
            command.add_argument("--results", type=Path, default=Path("results"), help="where outputs go")
            command.add_argument("--store", help="a folder, s3://... or gs://... for them, instead of RESULTS/store")
    text = "a benchmark in its official layout: makes it ready for use and compares its counts with the known ones"
    benchmark = commands.add_parser("data", help=text, description=text)
    benchmark.add_argument("name", choices=("voc", "coco14", "coco17"))
    benchmark.add_argument("--root", type=Path, required=True, help="folder with the official archives, extracted")
    benchmark.add_argument("--download", action="store_true", help="fetch what is not there first")
    text = "a published SFC or IRN checkpoint: what it is, whether it is complete, and its weights under our names"
    command = commands.add_parser("import-checkpoint", help=text, description=text)
    command.add_argument("file", type=Path)
    command.add_argument("config", nargs="?", help="compare with this configuration's backbone and classes, too")
    command.add_argument("overrides", nargs="*", metavar="section.key=value")
    command.add_argument("--out", type=Path, help="where to write; default: results/imported/NAME.pt")
    given = parser.parse_args(arguments)

    def command() -> int:
        if given.command == "data":
            set_up_logging()
            return _data(given.name, given.root, given.download)
        if given.command == "import-checkpoint":
            config = load_config(given.config, given.overrides) if given.config else None
            return _import_checkpoint(given.file, given.out, config)
        config = load_config(given.config, given.overrides)
        if given.command == "show":
            print(dump_config(config), end="")
            return 0
        set_up_logging()
        return _check(config) if given.command == "check" else _run(config, given.store or given.results / "store")

    return guarded(command)


if __name__ == "__main__":
    sys.exit(main())
