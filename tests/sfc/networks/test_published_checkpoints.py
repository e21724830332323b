"""Published checkpoints, and files that are none."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sfc.__main__ import main
from sfc.config import Backbone
from sfc.errors import UserError
from sfc.method.network import SFCNet
from sfc.networks import published_checkpoints as reference
from sfc.networks.backbone import build_backbone
from sfc.networks.published_checkpoints import FIRST_STAGE, PREFIXES, load_checkpoint, our_name
from sfc.refine.irn import IRN

CLASSES = 3


def sfc_net(section: Backbone, classes: int) -> SFCNet:
    return SFCNet(build_backbone(section), classes)


def published_name(ours: str) -> str:
    """A parameter's name in the published checkpoints."""
    own, published = next(pair for pair in PREFIXES if ours.startswith(pair[0]))
    return published + ours.removeprefix(own)


def duplicate_names(published: str, kind: str) -> list[str]:
    """The further names under which a published checkpoint holds a tensor of the backbone."""
    if not (match := re.match(r"resnet50\.(conv1|bn1|layer(\d))\.", published)):
        return []
    stage, rest = int(match[2] or 0), published[match.end() :]
    inner = 1 if match[1] == "bn1" else 0
    return [f"stage{stage + FIRST_STAGE[kind]}.{inner}.{rest}", f"backbone.{stage}.{inner}.{rest}"]


def network(kind: str) -> SFCNet | IRN:
    section = Backbone(name="resnet50")
    return IRN(section) if kind == "irn" else sfc_net(section, CLASSES)


@pytest.fixture(scope="module", params=["sfc", "irn"])
def published(request: pytest.FixtureRequest) -> tuple[str, dict[str, Tensor]]:
    """Kind and state in the published naming, without duplicates; tensors without memory."""
    with torch.device("meta"):
        net = network(request.param)
    state = {published_name(k): torch.zeros(v.shape, dtype=v.dtype).fill_(0.5) for k, v in net.state_dict().items()}
    return request.param, state


def duplicated(kind: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return state | {copy: tensor for name, tensor in state.items() for copy in duplicate_names(name, kind)}


def parallel(kind: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"module.{name}": tensor for name, tensor in state.items()}


def nothing_but_stages(kind: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    copies = {duplicate_names(n, kind)[0]: t for n, t in state.items() if n.startswith("resnet50.")}
    return {n: t for n, t in state.items() if not n.startswith("resnet50.")} | copies


def lists_of_heads(kind: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    heads = [t for name, t in state.items() if not name.startswith("resnet50.")]
    return state | {f"newly_added.{i}.weight": t for i, t in enumerate(heads)} | {"resnet50.fc.bias": torch.ones(1000)}


def as_it_is(kind: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return state


@pytest.mark.parametrize("under_net", [True, False])
@pytest.mark.parametrize(
    "form", [as_it_is, duplicated, parallel, nothing_but_stages, lists_of_heads], ids=lambda form: form.__name__
)
def test_every_form_of_a_published_checkpoint_is_read(
    published: tuple[str, dict[str, Tensor]], tmp_path: Path, under_net: bool, form: Callable
) -> None:
    kind, state = published
    given = form(kind, state)
    torch.save({"net": given} if under_net else given, tmp_path / "c.pth")
    found = reference.read_checkpoint(tmp_path / "c.pth", "x")
    assert found.kind == kind and found.classes == (CLASSES if kind == "sfc" else None)
    assert found.state.keys() == {our_name(name, kind) for name in state}
    reference.check_network(found, reference.network_for(found), tmp_path, "x")


def test_every_name_is_read_as_ours(published: tuple[str, dict[str, Tensor]]) -> None:
    kind, state = published
    with torch.device("meta"):
        own = network(kind).state_dict()
    assert {our_name(name, kind) for name in state} == own.keys() == {our_name(name, kind) for name in own}
    for name in state:
        copies = duplicate_names(name, kind)
        assert len(copies) == (2 if name.startswith("resnet50.") else 0)
        assert all(our_name(copy, kind) == our_name(name, kind) for copy in copies)


@pytest.mark.parametrize(
    ("name", "kind", "ours"),
    [
        ("stage0.1.bias", "sfc", "backbone.stem.1.bias"),
        ("backbone.0.1.bias", "sfc", "backbone.stem.1.bias"),
        ("stage2.0.3.conv1.weight", "sfc", "backbone.stages.1.3.conv1.weight"),
        ("stage3.0.3.conv1.weight", "irn", "backbone.stages.1.3.conv1.weight"),
        ("backbone.2.0.3.conv1.weight", "irn", "backbone.stages.1.3.conv1.weight"),
    ],
)
def test_the_stages_are_numbered_as_published(name: str, kind: str, ours: str) -> None:
    assert our_name(name, kind) == ours


@pytest.mark.parametrize("kind", ["sfc", "irn"])
def test_a_network_under_the_published_names_is_itself(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    one, two = network(kind).eval(), network(kind).eval()
    reference.write(
        {"net": duplicated(kind, {published_name(k): v for k, v in one.state_dict().items()})}, tmp_path / "c"
    )
    load_checkpoint(two, tmp_path / "c", "x")
    assert all(torch.equal(v, two.state_dict()[k]) for k, v in one.state_dict().items())


def refused(state: Any, net: SFCNet | IRN, tmp_path: Path, words: str) -> None:
    torch.save(state, tmp_path / "c.pth")
    before = {k: v.clone() for k, v in net.state_dict().items()}
    with pytest.raises(UserError, match=words):
        load_checkpoint(net, tmp_path / "c.pth", "classifier.weights")
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_what_is_missing_unexpected_or_of_another_shape_is_named(small: Backbone, tmp_path: Path) -> None:
    net = sfc_net(small, CLASSES)
    state = net.state_dict()
    gone = {k: v for k, v in state.items() if k != "f9.weight"}
    refused(gone, net, tmp_path, r"classifier\.weights: .*c\.pth does not fit SFC .*: 1 missing: f9\.weight$")
    refused(state | {"more.weight": torch.ones(7)}, net, tmp_path, r": 1 unexpected: more\.weight$")
    wrong = state | {"sides.1.weight": torch.ones(5, 6, 1, 1)}
    refused(
        wrong, net, tmp_path, r": 1 of another shape: sides\.1\.weight \(5, 6, 1, 1\) instead of \(\d+, 32, 1, 1\)$"
    )
    refused(gone | {"more.weight": torch.ones(7)}, net, tmp_path, r"1 missing: .*; 1 unexpected: ")


def test_another_class_count_is_named(small: Backbone, tmp_path: Path) -> None:
    refused(
        sfc_net(small, 20).state_dict(),
        sfc_net(small, 7),
        tmp_path,
        "trained for 20 classes, the data has 7",
    )


def test_another_backbone_or_network_is_refused(small: Backbone, tmp_path: Path) -> None:
    net = sfc_net(small, CLASSES)
    refused(
        sfc_net(Backbone(name="resnet18"), CLASSES).state_dict(),
        net,
        tmp_path,
        "does not fit SFC on this backbone",
    )
    refused(IRN(small).state_dict(), net, tmp_path, "is a checkpoint of IRN, not of SFC")
    refused(net.state_dict(), IRN(small), tmp_path, "is a checkpoint of SFC, not of IRN")
    refused(
        {"conv1.weight": torch.ones(3)}, net, tmp_path, r"neither an SFC nor an IRN checkpoint; it holds conv1\.weight"
    )
    refused({}, net, tmp_path, "neither")


def test_copies_that_differ_are_refused(published: tuple[str, dict[str, Tensor]], tmp_path: Path) -> None:
    _, state = published
    torch.save(state | {"backbone.0.0.weight": torch.zeros(64, 3, 7, 7)}, tmp_path / "c.pth")
    with pytest.raises(UserError, match=r"backbone\.0\.0\.weight differs from .* \(backbone\.stem\.0\.weight here\)"):
        reference.read_checkpoint(tmp_path / "c.pth", "x")


class Evil:
    """A pickle that leaves a file behind when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04 half a zip", "evil", "evil zip", None])
def test_a_file_that_is_no_checkpoint_or_would_run_code_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture, content: bytes | str | None
) -> None:
    file, trace = tmp_path / "c.pth", tmp_path / "trace"
    if content == "evil":
        file.write_bytes(pickle.dumps({"net": Evil(trace)}))
    elif content == "evil zip":
        torch.save({"net": {"f9.weight": Evil(trace)}}, file)
    elif content is not None:
        file.write_bytes(content)
    assert main(["import-checkpoint", str(file)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: import-checkpoint: ") and str(file) in said and "Traceback" not in said
    assert not trace.exists()


def test_the_command_says_what_a_checkpoint_is_and_writes_it_under_our_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    net = sfc_net(Backbone(name="resnet50"), CLASSES)
    torch.save({"net": {published_name(k): v for k, v in net.state_dict().items()}}, "best.pth")
    assert main(["import-checkpoint", "best.pth"]) == 0
    output = capsys.readouterr().out
    assert "SFC, 3 classes" in output and "classifier.weights=results/imported/best.pt" in output
    back = torch.load("results/imported/best.pt", weights_only=True)
    assert back.keys() == net.state_dict().keys()
    assert all(torch.equal(v, back[k]) for k, v in net.state_dict().items())


def test_a_configuration_s_classes_and_backbone_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, small: Backbone
) -> None:
    monkeypatch.chdir(tmp_path)
    data = ["data.synthetic.train=4", "data.synthetic.select=2", "data.synthetic.val=2"]
    torch.save(sfc_net(small, 9).state_dict(), "nine.pt")
    assert main(["import-checkpoint", "nine.pt", "synthetic.yaml", *data]) == 2
    assert "trained for 9 classes, the data has 6" in capsys.readouterr().err
    torch.save(sfc_net(small, 6).state_dict(), "six.pt")
    assert main(["import-checkpoint", "six.pt", "synthetic.yaml", *data, "--out", "ours.pt"]) == 0
    assert Path("ours.pt").is_file()
    assert main(["import-checkpoint", "six.pt"]) == 2
    assert "does not fit SFC on this backbone" in capsys.readouterr().err
