"""Checkpoints of the published SFC and IRN code, read under this package's names.

Such a checkpoint holds a ResNet-50 under `resnet50.*` and copies of the same tensors under `stage*.*` and `backbone.*`,
the modules through which the published networks call the ResNet; SFC's checkpoints have a key `net` around all.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from sfc.config import Backbone as BackboneSection
from sfc.errors import UserError
from sfc.method.network import SFCNet
from sfc.networks.backbone import build_backbone
from sfc.networks.checkpoint import check_fit, read_tensors
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
"""Beginnings of a parameter's name: in this package, in the published code."""
FIRST_STAGE: dict[Kind, int] = {"sfc": 0, "irn": 1}
"""Number that the published network gives the stem among its stages."""


def our_name(name: str, kind: Kind) -> str | None:
    """A parameter's name in this package, from its published name, a copy's or its own; None if unknown."""
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
    """Network that a checkpoint belongs to, by its heads."""
    if any(name.startswith(("fc_edge", "fc_dp", "edge.", "displacement.")) for name in names):
        return "irn"
    if names & {"f9.weight", "side1.weight", "sides.0.weight"}:
        return "sfc"
    return None


class Checkpoint(NamedTuple):
    """A checkpoint under this package's names; tensors without a counterpart keep their own, for the message."""

    kind: Kind
    state: dict[str, Tensor]

    @property
    def title(self) -> str:
        """Name of the network."""
        return self.kind.upper()

    @property
    def classes(self) -> int | None:
        """Foreground classes of an SFC checkpoint; None if its classifier is missing."""
        weight = self.state.get("classifier.weight")
        return None if weight is None or self.kind != "sfc" else len(weight)


def read_checkpoint(file: Path, setting: str) -> Checkpoint:
    """A checkpoint of SFC or IRN, from the published code or this package; arguments as in `read_tensors`.

    Raises:
        UserError: not a checkpoint, of another network, or two copies of a tensor differ.
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
            raise UserError(f"{setting}: {file}: {name} differs from another copy of the same tensor ({ours} here)")
    # Other lists of the published modules repeat the heads; the classifier of the ImageNet weights is never used.
    for name, tensor in unknown.items():
        if not name.startswith("resnet50.fc.") and not any(_same(tensor, other) for other in state.values()):
            state[name] = tensor
    return Checkpoint(kind, state)


def _same(one: Tensor, two: Tensor) -> bool:
    return one.shape == two.shape and one.dtype == two.dtype and torch.equal(one, two)


def check_network(checkpoint: Checkpoint, net: nn.Module, file: Path, setting: str) -> None:
    """Raise a UserError if a checkpoint is of another kind of network, class count or shape."""
    title = "IRN" if isinstance(net, IRN) else "SFC"
    if checkpoint.title != title:
        raise UserError(f"{setting}: {file} is a checkpoint of {checkpoint.title}, not of {title}")
    if isinstance(net, SFCNet) and checkpoint.classes not in (None, net.classifier.out_channels):
        raise UserError(
            f"{setting}: {file} was trained for {checkpoint.classes} classes, the data has "
            f"{net.classifier.out_channels}"
        )
    check_fit(net.state_dict(), checkpoint.state, f"{setting}: {file} does not fit {title} on this backbone")


def load_checkpoint(net: nn.Module, file: Path, setting: str) -> None:
    """Put a checkpoint's weights into a network, all of them or none.

    Raises:
        UserError: from `read_checkpoint` or `check_network`.
    """
    if isinstance(net, SFCNet | IRN):
        checkpoint = read_checkpoint(file, setting)
        check_network(checkpoint, net, file, setting)
        state = checkpoint.state
    else:  # another method's network has no published names
        state = read_tensors(file, setting)
        check_fit(net.state_dict(), state, f"{setting}: {file} does not fit the network")
    net.load_state_dict(state, strict=False)


def network_for(checkpoint: Checkpoint, backbone: BackboneSection | None = None, classes: int = 0) -> SFCNet | IRN:
    """A network of a checkpoint's kind, without memory for its weights: on the given backbone and for so many classes,
    or else the published one."""
    with torch.device("meta"):
        section = backbone or BackboneSection(name="resnet50")
        if checkpoint.kind == "irn":
            return IRN(section)
        return SFCNet(build_backbone(section), classes or checkpoint.classes or 1)


def write(state: Mapping[str, Any], file: Path) -> None:
    """Save tensors, atomically. Raises UserError if the file can't be written."""
    partial = file.with_name(f"{file.name}.partial")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as opened:
            torch.save(state, opened)
        partial.replace(file)
    except OSError as error:
        raise UserError(f"{file} can't be written: {error.strerror}") from None
