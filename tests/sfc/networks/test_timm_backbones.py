"""Backbones of timm, a small one of each kind, from random weights."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from sfc.config import Backbone as Section
from sfc.config import Segmentation
from sfc.config.files import load_config
from sfc.errors import UserError
from sfc.method.network import SFCNet, score
from sfc.networks.backbone import Backbone, build_backbone
from sfc.networks.deeplab import build_deeplab, parameter_groups
from sfc.networks.published_checkpoints import load_checkpoint
from sfc.networks.timm_backbones import TimmBackbone
from sfc.pipeline import Pipeline
from sfc.refine.irn import IRN
from sfc.runtime.engine import LocalEngine
from sfc.runtime.stores import open_store

NAMES = ["test_resnet", "test_convnext", "test_vit"]
IMAGE = torch.randn(2, 3, 65, 97, generator=torch.Generator().manual_seed(0))


def section(name: str, **options: Any) -> Section:
    return Section.model_validate({"name": f"timm/{name}", "frozen_stages": 0, "freeze_norm": False} | options)


def build(name: str, output_stride: Any = 16, **options: Any) -> Backbone:
    torch.manual_seed(0)
    return build_backbone(section(name, **options), output_stride)


def statistics(backbone: Backbone) -> list[Tensor]:
    return [m.running_mean.clone() for m in backbone.modules() if isinstance(m, nn.BatchNorm2d)]


@pytest.mark.parametrize(
    ("name", "stride", "sides"),
    [
        ("test_resnet", 16, [(17, 25), (9, 13), (5, 7), (5, 7)]),
        ("test_resnet", 8, [(17, 25), (9, 13), (9, 13), (9, 13)]),
        ("test_convnext", 16, [(16, 24), (8, 12), (4, 6), (4, 6)]),
        ("test_vit", 16, [(5, 7)] * 4),
        ("test_vit", 8, [(5, 7)] * 4),
    ],
)
def test_an_image_of_an_odd_size_has_four_maps(name: str, stride: int, sides: list[tuple[int, int]]) -> None:
    backbone = build(name, stride).eval()
    with torch.no_grad():
        maps = backbone(IMAGE)
    assert [tuple(x.shape[-2:]) for x in maps] == sides
    assert [x.shape[1] for x in maps] == backbone.channels and all(torch.isfinite(x).all() for x in maps)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(1, 1), (1, 50), (33, 31)])
def test_tiny_images_pass(name: str, size: tuple[int, int]) -> None:
    with torch.no_grad():
        assert all(x.numel() and torch.isfinite(x).all() for x in build(name).eval()(torch.randn(1, 3, *size)))


def test_the_blocks_of_a_transformer_are_four_groups_and_the_last_map_is_its_classifier_s_input() -> None:
    backbone, image = build("test_vit").eval(), torch.randn(1, 3, 96, 64)
    network = backbone.network
    with torch.no_grad():
        maps = backbone(image)
        tokens = network.forward_features(image)[:, network.num_prefix_tokens :]
    torch.testing.assert_close(maps[3], tokens.transpose(1, 2).reshape(1, -1, 6, 4))
    assert backbone.indices == [0, 2, 3, 5]
    deep = VisionTransformer(depth=12, embed_dim=8, num_heads=1, num_classes=0, dynamic_img_size=True)
    assert TimmBackbone(deep, 0, False).indices == [2, 5, 8, 11]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("frozen", [0, 2, 4])
def test_frozen_stages_get_no_gradient_and_everything_else_does(name: str, frozen: int) -> None:
    backbone = build(name, frozen_stages=frozen).train()
    maps = backbone(IMAGE)
    assert [x.requires_grad for x in maps] == [number > frozen for number in (1, 2, 3, 4)]
    if frozen < 4:
        maps[-1].square().mean().backward()
    learns = {name: p.grad is not None for name, p in backbone.named_parameters()}
    assert learns == {name: p.requires_grad for name, p in backbone.named_parameters()}
    first = next(iter(learns.values()))
    assert first == (frozen == 0) and any(learns.values()) == (frozen < 4) and all(learns.values()) == (frozen == 0)


def test_batch_norm_moves_where_it_may() -> None:
    for options, moves in (
        ({}, "all"),
        ({"frozen_stages": 2}, "some"),
        ({"freeze_norm": True}, "none"),
        ({"frozen_stages": 4}, "none"),
    ):
        backbone = build("test_resnet", **options)
        before = statistics(backbone)
        backbone.train()(IMAGE)
        moved = [not torch.equal(a, b) for a, b in zip(before, statistics(backbone), strict=True)]
        assert moves == ("all" if all(moved) else "some" if any(moved) else "none"), options
        if moves == "some":
            assert moved == sorted(moved)  # the first ones stay
    assert all(p.requires_grad for p in build("test_resnet", freeze_norm=True).parameters())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_what_is_frozen_does_not_depend_on_where_it_is_built(mode: Any) -> None:
    with mode():
        backbone = build("test_vit", frozen_stages=2)
    expected = build("test_vit", frozen_stages=2)
    assert [p.requires_grad for p in backbone.parameters()] == [p.requires_grad for p in expected.parameters()]


def test_building_leaves_the_statistics_alone_and_depends_on_the_seed_alone() -> None:
    one, two = build("test_resnet").state_dict(), build("test_resnet", frozen_stages=2).state_dict()
    assert all(torch.equal(one[k], two[k]) for k in one)
    assert all((v == 0).all() for k, v in one.items() if k.endswith("running_mean"))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("head", [True, False])
def test_weights_from_a_file_are_taken_with_or_without_the_classifier(
    tmp_path: Path, name: str, suffix: str, head: bool
) -> None:
    torch.manual_seed(5)
    state = timm.create_model(name, num_classes=7 if head else 0).state_dict()
    file = tmp_path / f"w{suffix}"
    save_file(state, file) if suffix == ".safetensors" else torch.save(state, file)
    loaded = build(name, weights=str(file)).network.state_dict()
    assert loaded.keys() <= state.keys() and all(torch.equal(v, state[k]) for k, v in loaded.items())


def changed(change: str) -> dict[str, Tensor]:
    state = timm.create_model("test_vit").state_dict()
    if change == "missing":
        del state["blocks.0.norm1.weight"]
    elif change == "unexpected":
        state["extra.weight"] = torch.zeros(1)
    elif change == "shape":
        state["pos_embed"] = torch.zeros(1, 5, 64)
    else:
        return timm.create_model("test_resnet").state_dict()
    return state


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("missing", r"1 missing: blocks\.0\.norm1\.weight$"),
        ("unexpected", r"1 unexpected: extra\.weight$"),
        ("shape", r"1 of another shape: pos_embed \(1, 5, 64\) instead of "),
        ("another network", r"\d+ missing: .* and \d+ more; \d+ unexpected: "),
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_that_do_not_fit_are_refused(tmp_path: Path, change: str, words: str, suffix: str) -> None:
    file = tmp_path / f"w{suffix}"
    save_file(changed(change), file) if suffix == ".safetensors" else torch.save(changed(change), file)
    with pytest.raises(UserError, match=rf"backbone\.weights: .*w\{suffix} does not fit the backbone: {words}"):
        build("test_vit", weights=str(file))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"no checkpoint", None])
def test_a_file_that_is_no_checkpoint_or_missing_is_refused(tmp_path: Path, suffix: str, content: bytes | None) -> None:
    file = tmp_path / f"w{suffix}"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError, match=r"backbone\.weights: .*w\..*(not a checkpoint of plain tensors|$)"):
        build("test_vit", weights=str(file))


def test_nothing_is_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert build("test_vit.r160_in1k").channels == build("test_vit").channels


def test_what_can_not_be_built_is_said_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"backbone\.name: timm has no network test_vitt; did you mean .*test_vit"):
        build("test_vitt")
    with pytest.raises(UserError, match=r"timm/mixer_s32_224 does not give four feature maps .* \(vit_\*\)"):
        build("mixer_s32_224")
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match=r"timm/test_vit needs timm: pip install sfc-wsss\[timm\]"):
        build("test_vit")


@pytest.mark.parametrize("name", NAMES)
def test_sfc_learns_on_it_and_its_checkpoint_is_read_back(tmp_path: Path, name: str) -> None:
    net = SFCNet(build_backbone(section(name)), 3).train()
    features = net.features(IMAGE)
    cam, prototype = net.maps_of(features)
    assert cam.shape == prototype.shape == (2, 4, *features.semantic.shape[-2:])
    (score(features).mean() + cam.mean() + prototype.mean()).backward()
    assert all(p.grad is not None for p in net.parameters())
    torch.save(net.state_dict(), tmp_path / "model.pt")
    other = SFCNet(build_backbone(section(name)), 3)
    load_checkpoint(other, tmp_path / "model.pt", "classifier.weights")
    assert all(torch.equal(v, other.state_dict()[k]) for k, v in net.state_dict().items())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("architecture", ["deeplabv2", "deeplabv3"])
def test_deeplab_learns_on_it(name: str, architecture: str) -> None:
    settings = Segmentation(architecture=architecture)
    net = build_deeplab(settings, section(name, frozen_stages=1), 5).train()
    logits = net(IMAGE)["out"]
    assert logits.shape == (2, 5, 65, 97)
    logits.mean().backward()
    learning = [p for group in parameter_groups(net, settings) for p in group["params"]]
    assert {id(p) for p in learning} == {id(p) for p in net.parameters() if p.grad is not None}


@pytest.mark.parametrize("name", ["timm/", "timm", "timm/a/b", "hf-hub:timm/x", "timm/hf-hub:x", "resnet34"])
def test_an_unknown_name_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(UserError, match="small, resnet18, resnet50, resnet101, mobilenet_v2 or timm/NAME"):
        load_config("synthetic.yaml", [f"backbone.name={name}"])


def test_irn_refuses_it_in_the_settings_and_where_it_is_built() -> None:
    words = ["backbone.name=timm/test_vit", "pseudo.method=irn"]
    with pytest.raises(UserError, match=r"pseudo\.method: irn can't take timm/test_vit.*use pseudo\.method=crf or a b"):
        load_config("synthetic.yaml", words)
    load_config("synthetic.yaml", [words[0], "pseudo.method=crf"])
    other = ["pseudo.method=irn", "segmentation.backbone.name=timm/test_vit", "segmentation.start=backbone"]
    load_config("synthetic.yaml", other)
    with pytest.raises(UserError, match="IRN can't take the backbone timm/test_vit"):
        IRN(section("test_vit"))


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_all_stages_run_on_it(tmp_path: Path, name: str) -> None:
    words = [
        f"backbone.name=timm/{name}",
        f"data.root={tmp_path}",
        "data.synthetic={size: 32, groups: 2, train: 8, select: 2, val: 2}",
    ]
    words += [
        "classifier={epochs: 1, batch: 4, bank_images: 2, crop: 48, lr: 1e-3, head_lr: 1e-3}",
        "cam.scales=[1.0, 0.5]",
    ]
    words += ["segmentation={epochs: 1, batch: 4, crop: 48}", "evaluation.scales=single", "pseudo.method=crf"]
    config = load_config("synthetic.yaml", words)
    result = Pipeline(config, open_store(tmp_path / "store"), LocalEngine()).run()
    assert all(0 <= value <= 1 for name, value in result.metrics.items() if "miou" in name.lower()) and result.metrics
