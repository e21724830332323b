"""Check a published SFC or IRN checkpoint, and write its weights under this project's names."""

from __future__ import annotations

import argparse
from pathlib import Path

USES = {"sfc": "classifier.weights", "irn": "pseudo.method=irn affinity.weights"}
"""Settings that take the weights in the place of training, by the kind of network."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path, help="a checkpoint that the published code saved")
    parser.add_argument("config", nargs="?", help="a YAML file, whose backbone and classes the checkpoint must fit")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="settings put over the file's")
    parser.add_argument("--out", type=Path, help="file to write (results/imported/NAME.pt)")
    return parser


def run(options: argparse.Namespace) -> int:
    """The command; returns the exit code. Without a configuration the checkpoint must fit the published network.

    Raises:
        UserError: not such a checkpoint, incomplete, or of another network.
    """
    from sfc.config.files import load_config

    config = load_config(options.config, options.overrides) if options.config else None
    from sfc.data import open_dataset
    from sfc.networks import published_checkpoints as published

    file, out = options.file, options.out or Path("results", "imported", f"{options.file.stem}.pt")
    checkpoint = published.read_checkpoint(file, "import-checkpoint")
    if config is None:
        net = published.network_for(checkpoint)
    else:
        backbone = config.backbone.model_copy(update={"weights": None})
        net = published.network_for(checkpoint, backbone, len(open_dataset(config.data).classes))
    published.check_network(checkpoint, net, file, "import-checkpoint")
    published.write(checkpoint.state, out)
    count = f", {checkpoint.classes} classes" if checkpoint.classes else ""
    print(f"{file}: {checkpoint.title}{count}, {len(checkpoint.state)} tensors, complete")
    print(f"written to {out}; to use it without training:\n  sfc run CONFIG {USES[checkpoint.kind]}={out}")
    return 0
