"""python -m sfc run | show | check | import-checkpoint | export-checkpoint: one configuration on this machine."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from sfc.config import Config
from sfc.errors import Diverged, UserError
from sfc.settings import dump_config, load_config


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


def _run(config: Config, results: Path) -> int:
    from sfc.engine import LocalEngine
    from sfc.pipeline import Pipeline
    from sfc.store import Store

    def report(metrics: dict[str, float], _: object) -> None:
        losses = "  ".join(f"{k} {v:.4f}" for k, v in metrics.items() if k not in ("epoch", "images_per_second"))
        logging.getLogger("sfc").info(
            "  epoch %d  %s  %.0f images/s", metrics["epoch"], losses, metrics["images_per_second"]
        )

    result = Pipeline(config, Store(results / "store"), LocalEngine(on_report=report)).run()
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
    table = Table(title=f"{data.root}\nimage labels from: {data.label_source}")
    table.add_column("class")
    for split in report.counts:
        table.add_column(split, justify="right")
    for c, name in enumerate(data.classes):
        table.add_row(name, *(str(counts[c]) for counts in report.counts.values()))
    table.add_section()
    table.add_row("images", *(str(n) for n in report.images.values()))
    table.add_row("masks", *(str(report.masks[split]) for split in report.images))
    Console().print(table)
    if report.problems:
        listed = "\n  ".join(report.problems[:50])
        more = f"\n  and {len(report.problems) - 50} more" if len(report.problems) > 50 else ""
        raise UserError(f"{len(report.problems)} problems in the data:\n  {listed}{more}")
    print("settings and data are in order")
    return 0


def _import_checkpoint(file: Path, out: Path | None, config: Config | None) -> int:
    """Check a checkpoint, against the published network or a configuration's; write it under our names."""
    import torch

    from sfc.data import open_dataset
    from sfc.models import reference
    from sfc.models.irn import IRN
    from sfc.models.sfc_net import SFCNet

    checkpoint = reference.read_checkpoint(file, "import-checkpoint")
    if config is None:
        net = reference.published_network(checkpoint)
    else:
        backbone = config.backbone.model_copy(update={"weights": None})
        with torch.device("meta"):
            irn = checkpoint.kind == "irn"
            net = IRN(backbone) if irn else SFCNet(backbone, len(open_dataset(config.data).classes))
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


def _export_checkpoint(file: Path, out: Path) -> int:
    """Write a checkpoint as the published code does."""
    from sfc.models import reference

    reference.write_published(reference.read_checkpoint(file, "export-checkpoint"), out)
    print(f"written to {out}, under the published names")
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
    text = "a published SFC or IRN checkpoint: what it is, whether it is complete, and its weights under our names"
    command = commands.add_parser("import-checkpoint", help=text, description=text)
    command.add_argument("file", type=Path)
    command.add_argument("config", nargs="?", help="compare with this configuration's backbone and classes, too")
    command.add_argument("overrides", nargs="*", metavar="section.key=value")
    command.add_argument("--out", type=Path, help="where to write; default: results/imported/NAME.pt")
    text = "a network on ResNet-50, such as a stage's model.pt, as the published code saves it"
    command = commands.add_parser("export-checkpoint", help=text, description=text)
    command.add_argument("file", type=Path)
    command.add_argument("--out", type=Path, required=True, help="where to write")
    given = parser.parse_args(arguments)

    def command() -> int:
        if given.command == "export-checkpoint":
            return _export_checkpoint(given.file, given.out)
        if given.command == "import-checkpoint":
            config = load_config(given.config, given.overrides) if given.config else None
            return _import_checkpoint(given.file, given.out, config)
        config = load_config(given.config, given.overrides)
        if given.command == "show":
            print(dump_config(config), end="")
            return 0
        set_up_logging()
        return _check(config) if given.command == "check" else _run(config, given.results)

    return guarded(command)


if __name__ == "__main__":
    sys.exit(main())
