"""Backbones: what is frozen, what stride they have, which weights they take."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from sfc.config import Backbone as Section
from sfc.errors import UserError
from sfc.networks.backbone import Backbone, build_backbone

IMAGE = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def build(name: str, **options: Any) -> Backbone:
    torch.manual_seed(0)
    return build_backbone(Section.model_validate({"name": name, "frozen_stages": 0, "freeze_norm": False} | options))


def norms(module: nn.Module) -> list[nn.BatchNorm2d]:
    return [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]


def moved(backbone: Backbone) -> list[bool]:
    """Whether batch norm's statistics move in training, for the stem and each stage."""
    before = [[m.running_mean.clone() for m in norms(part)] for part in [backbone.stem, *backbone.stages]]
    backbone.train()(IMAGE)
    after = [[m.running_mean for m in norms(part)] for part in [backbone.stem, *backbone.stages]]
    return [any(not torch.equal(a, b) for a, b in zip(x, y, strict=True)) for x, y in zip(before, after, strict=True)]


@pytest.mark.parametrize(
    ("name", "strides"),
    [("small", [4, 4, 4, 4]), ("resnet18", [4, 8, 16, 16]), ("mobilenet_v2", [4, 8, 16, 16])],
)
def test_strides_and_channels(name: str, strides: list[int]) -> None:
    backbone = build(name).eval()
    with torch.no_grad():
        outputs = backbone(IMAGE)
    assert [64 // x.shape[-1] for x in outputs] == strides == [64 // x.shape[-2] for x in outputs]
    assert [x.shape[1] for x in outputs] == backbone.channels


def test_odd_sizes_and_a_single_pixel_pass() -> None:
    for name in ("small", "resnet18", "mobilenet_v2"):
        backbone = build(name).eval()
        with torch.no_grad():
            assert all(x.numel() and torch.isfinite(x).all() for x in backbone(torch.randn(1, 3, 33, 47)))
            assert [tuple(x.shape[-2:]) for x in backbone(torch.randn(1, 3, 1, 1))] == [(1, 1)] * 4


def test_resnet50_has_the_published_channels_and_no_dilation() -> None:
    backbone = build("resnet50")
    assert backbone.channels == [256, 512, 1024, 2048]
    convolutions = [m for m in backbone.stages[3].modules() if isinstance(m, nn.Conv2d)]
    assert {m.stride for m in convolutions} == {m.dilation for m in convolutions} == {(1, 1)}


@pytest.mark.parametrize("name", ["small", "resnet18", "mobilenet_v2"])
@pytest.mark.parametrize("frozen", [0, 2, 4])
def test_frozen_stages_get_no_gradient_and_the_others_do(name: str, frozen: int) -> None:
    backbone = build(name, frozen_stages=frozen)
    outputs = backbone.train()(IMAGE)
    if frozen < 4:
        sum(x.square().mean() for x in outputs if x.requires_grad).backward()
    for number, part in enumerate([backbone.stem, *backbone.stages]):
        learns = number > frozen or frozen == 0
        assert all(p.requires_grad == learns for p in part.parameters()), number
        assert all((p.grad is not None) == learns for p in part.parameters()), number
        if number:
            assert outputs[number - 1].requires_grad == learns


def test_batch_norm_moves_where_it_may() -> None:
    assert moved(build("resnet18")) == [True] * 5
    assert moved(build("resnet18", frozen_stages=2)) == [False, False, False, True, True]
    assert moved(build("resnet18", freeze_norm=True)) == [False] * 5
    assert moved(build("resnet18", frozen_stages=2, freeze_norm=True)) == [False] * 5


def test_frozen_norm_keeps_its_statistics_after_a_pass_in_eval() -> None:
    backbone = build("resnet18", freeze_norm=True)
    backbone.train().eval()
    assert not any(m.training for m in norms(backbone.train()))
    assert all(p.requires_grad for m in norms(backbone) for p in m.parameters())


def test_the_same_seed_gives_the_same_network() -> None:
    one, two = build("small").state_dict(), build("small").state_dict()
    assert all(torch.equal(one[k], two[k]) for k in one)


def test_a_file_of_weights_is_loaded_with_or_without_its_classifier(tmp_path: Path) -> None:
    torch.manual_seed(5)
    state = torchvision.models.resnet18().state_dict()
    for head in (True, False):
        torch.save({k: v for k, v in state.items() if head or not k.startswith("fc.")}, tmp_path / "w.pt")
        backbone = build("resnet18", weights=str(tmp_path / "w.pt"))
        assert torch.equal(backbone.stem[0].weight, state["conv1.weight"])
        assert torch.equal(backbone.stages[3][1].bn2.running_var, state["layer4.1.bn2.running_var"])


def test_the_small_backbone_takes_its_own_weights(tmp_path: Path) -> None:
    torch.save({k: v + 1 for k, v in build("small").state_dict().items()}, tmp_path / "w.pt")
    backbone = build("small", weights=str(tmp_path / "w.pt"))
    assert all(torch.equal(v, w + 1) for v, w in zip(backbone.parameters(), build("small").parameters(), strict=True))


def state_with(change: str) -> Any:
    state = torchvision.models.resnet18().state_dict()
    if change == "wrong shapes":
        state["layer1.0.conv1.weight"] = torch.zeros(1, 2, 3, 3)
    elif change == "missing":
        del state["layer1.0.conv1.weight"]
    elif change == "unexpected":
        state["extra.weight"] = torch.zeros(1)
    elif change == "nested":
        return {"model": state, "epoch": 3}
    elif change == "a list":
        return [torch.zeros(3)]
    elif change == "a tensor":
        return torch.zeros(3)
    elif change == "numbers":
        return dict.fromkeys(state, 1.0)
    elif change == "numbered":
        return {1: torch.zeros(3)}
    return state


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("wrong shapes", r"1 of another shape: layer1\.0\.conv1\.weight"),
        ("missing", r"1 missing: layer1\.0\.conv1\.weight"),
        ("unexpected", r"1 unexpected: extra\.weight"),
        ("nested", "does not fit|not a checkpoint"),
        ("a list", "does not fit|not a checkpoint"),
        ("a tensor", "does not fit|not a checkpoint"),
        ("numbers", "does not fit|not a checkpoint"),
        ("numbered", "does not fit|not a checkpoint"),
    ],
)
def test_weights_that_do_not_fit_are_refused(tmp_path: Path, change: str, words: str) -> None:
    torch.save(state_with(change), tmp_path / "w.pt")
    with pytest.raises(UserError, match=rf"backbone\.weights: .*w\.pt.*({words})"):
        build("resnet18", weights=str(tmp_path / "w.pt"))


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04 half a zip"])
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "w.pt").write_bytes(content)
    for name in ("small", "resnet18"):
        with pytest.raises(UserError, match="not a checkpoint of plain tensors"):
            build(name, weights=str(tmp_path / "w.pt"))


@pytest.mark.parametrize("name", ["small", "resnet18"])
def test_a_missing_file_is_named(name: str) -> None:
    with pytest.raises(UserError, match=r"backbone\.weights: there is no file nowhere\.pt"):
        build(name, weights="nowhere.pt")


def test_published_weights_that_can_not_be_fetched_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(UserError, match=r"backbone\.weights: .*IMAGENET1K_V1"):
        build("resnet18", weights="IMAGENET1K_V1")


class Evil:
    """A pickle that leaves a file behind when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("plain", [False, True])
def test_a_checkpoint_that_would_run_code_is_refused_and_does_not(tmp_path: Path, plain: bool) -> None:
    file, trace = tmp_path / "w.pt", tmp_path / "trace"
    if plain:
        file.write_bytes(pickle.dumps({"conv1.weight": Evil(trace)}))
    else:
        torch.save({"conv1.weight": Evil(trace)}, file)
    with pytest.raises(UserError, match="not a checkpoint of plain tensors"):
        build("resnet18", weights=str(file))
    assert not trace.exists()
    function, arguments = Evil(trace).__reduce__()
    function(*arguments)
    assert trace.exists()
