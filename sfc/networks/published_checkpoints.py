"""Checkpoints of the published SFC and IRN code, in and out.

They hold a ResNet-50 under `resnet50.*` and the same tensors once more under `stage*.*` and `backbone.*`, the modules
through which the published networks call it; SFC's lie under the key `net`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sfc.config import Backbone as BackboneSection
from sfc.errors import UserError
from sfc.method.network import SFCNet
from sfc.networks.checkpoint import differences, read_tensors
from sfc.refine.irn import IRN

Kind = Literal["sfc", "irn"]

PREFIXES = (
    ("backbone.stem.0.", "resnet50.conv1."),
    ("backbone.stem.1.", "resnet50.bn1."),
    *((f"backbone.stages.{i}.", f"resnet50.layer{i + 1}.") for i in range(4)),
    ("classifier.", "classifier."),
    ("f9.", "f9."),
    *((f"sides.{i}.", f"side{i + 1}.") for i in range(4)),
    *((f"edge.{i}.", f"fc_edge{i + 1}.") for i in range(5)),
    ("edge_head.", "fc_edge6."),
    *((f"displacement.{i}.", f"fc_dp{i + 1}.") for i in range(6)),
    ("running_mean", "fc_dp7.4.running_mean"),
    ("displacement_head.", "fc_dp7."),
)
"""Beginnings of a parameter's name: ours, published."""
FIRST_STAGE: dict[Kind, int] = {"sfc": 0, "irn": 1}
"""Number that the published network gives the stem among its stages."""
TITLES: dict[Kind, str] = {"sfc": "SFC", "irn": "IRN"}


def published_name(ours: str) -> str:
    """A parameter's name in the published checkpoints."""
    own, published = next(pair for pair in PREFIXES if ours.startswith(pair[0]))
    return published + ours.removeprefix(own)


def duplicate_names(published: str, kind: Kind) -> Iterator[str]:
    """The further names under which a published checkpoint holds a tensor of the backbone."""
    if not (match := re.match(r"resnet50\.(conv1|bn1|layer(\d))\.", published)):
        return
    stage, rest = int(match[2] or 0), published[match.end() :]
    inner = 1 if match[1] == "bn1" else 0
    yield f"stage{stage + FIRST_STAGE[kind]}.{inner}.{rest}"
    yield f"backbone.{stage}.{inner}.{rest}"


def our_name(name: str, kind: Kind) -> str | None:
    """Our name of a parameter under its published name, one of its further names, or our own; None: unknown."""
    if match := re.match(r"(?:stage(\d+)|backbone\.(\d+))\.(.*)", name):
        stage = int(match[2]) if match[2] else int(match[1]) - FIRST_STAGE[kind]
        inner, _, rest = match[3].partition(".")
        name = f"resnet50.layer{stage}.{rest}" if stage else f"resnet50.{'bn1' if inner == '1' else 'conv1'}.{rest}"
    for own, published in PREFIXES:
        if name.startswith((own, "backbone.network.")):  # the latter of timm's, which nobody published
            return name
        if name.startswith(published):
            return own + name.removeprefix(published)
    return None


def kind_of(names: set[str]) -> Kind | None:
    """Which network a checkpoint is of, by its heads."""
    if any(name.startswith(("fc_edge", "fc_dp", "edge.", "displacement.")) for name in names):
        return "irn"
    if names & {"f9.weight", "side1.weight", "sides.0.weight"}:
        return "sfc"
    return None


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint under our names."""

    kind: Kind
    state: dict[str, Tensor]
    """Tensors without a counterpart keep their own names, for the message."""

    @property
    def classes(self) -> int | None:
        """Foreground classes of an SFC checkpoint; None where its classifier is missing."""
        weight = self.state.get("classifier.weight")
        return None if weight is None or self.kind != "sfc" else len(weight)


def read_checkpoint(file: Path, setting: str) -> Checkpoint:
    """A checkpoint of SFC or IRN, published or ours.

    Args:
        file: `.pth` or `.pt`.
        setting: what named the file, for the message.

    Raises:
        UserError: no checkpoint, one of another network, or one whose duplicates differ.
    """
    tensors = read_tensors(file, setting)
    kind = kind_of(set(tensors))
    if kind is None:
        shown = ", ".join(list(tensors)[:5]) or "nothing"
        raise UserError(f"{setting}: {file} is neither an SFC nor an IRN checkpoint; it holds {shown}")
    state: dict[str, Tensor] = {}
    unknown: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        ours = our_name(name, kind)
        if ours is None:
            unknown[name] = tensor
        elif ours not in state:
            state[ours] = tensor
        elif not _same(state[ours], tensor):
            raise UserError(f"{setting}: {file}: {name} differs from {published_name(ours)}, of which it is a copy")
    # Other lists of the published modules repeat the heads; the classifier of the ImageNet weights is never used.
    for name, tensor in unknown.items():
        if not name.startswith("resnet50.fc.") and not any(_same(tensor, known) for known in state.values()):
            state[name] = tensor
    return Checkpoint(kind, state)


def _same(one: Tensor, two: Tensor) -> bool:
    return one.shape == two.shape and one.dtype == two.dtype and torch.equal(one, two)


def check_fit(checkpoint: Checkpoint, net: nn.Module, file: Path, setting: str) -> None:
    """Raises UserError where a checkpoint is not one of this network: another kind, class count or shape."""
    kind: Kind = "irn" if isinstance(net, IRN) else "sfc"
    if checkpoint.kind != kind:
        raise UserError(f"{setting}: {file} is a checkpoint of {TITLES[checkpoint.kind]}, not of {TITLES[kind]}")
    own = net.state_dict()
    if isinstance(net, SFCNet) and checkpoint.classes not in (None, net.classifier.out_channels):
        raise UserError(
            f"{setting}: {file} was trained for {checkpoint.classes} classes, the data has "
            f"{net.classifier.out_channels}"
        )
    if wrong := differences(own, checkpoint.state):
        raise UserError(f"{setting}: {file} does not fit {TITLES[kind]} on this backbone: {wrong}")


def load_checkpoint(net: SFCNet | IRN, file: Path, setting: str) -> None:
    """Put a checkpoint's weights into a network, all of them or none.

    Raises:
        UserError: from `read_checkpoint` or `check_fit`.
    """
    checkpoint = read_checkpoint(file, setting)
    check_fit(checkpoint, net, file, setting)
    net.load_state_dict(checkpoint.state, strict=False)


def published_network(checkpoint: Checkpoint) -> SFCNet | IRN:
    """The published network of a checkpoint's kind and class count, without memory for its weights."""
    with torch.device("meta"):
        section = BackboneSection(name="resnet50")
        return IRN(section) if checkpoint.kind == "irn" else SFCNet(section, checkpoint.classes or 1)


def write(state: Mapping[str, Any], file: Path) -> None:
    """Save tensors, atomically.

    Raises:
        UserError: the file can't be written.
    """
    partial = file.with_name(f"{file.name}.partial")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as opened:
            torch.save(state, opened)
        partial.replace(file)
    except OSError as error:
        raise UserError(f"{file} can't be written: {error.strerror}") from None


def write_published(checkpoint: Checkpoint, file: Path) -> None:
    """Write a checkpoint on ResNet-50 as the published code does: its names, with duplicates, under `net`.

    Raises:
        UserError: it is not on ResNet-50.
    """
    check_fit(checkpoint, published_network(checkpoint), file, "a published checkpoint")
    net: dict[str, Tensor] = {}
    for ours, tensor in checkpoint.state.items():
        name = published_name(ours)
        net |= {name: tensor} | dict.fromkeys(duplicate_names(name, checkpoint.kind), tensor)
    write({"net": net}, file)
