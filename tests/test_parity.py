"""Agreement with the published code: every case of a folder of numbers that it gave on seeded weights and inputs.

SFC_PARITY names the folder (default: tests/data/parity); each folder in it is a case, the number in its name the seed.
Agreement is ||ours - theirs|| / ||theirs||; label maps agree on a part of the pixels.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sfc.config import Affinity, Backbone, Cam, Classifier, Crf, Pseudo, SfcOptions, Walk
from sfc.data.crops import Crop
from sfc.method.cam import fuse, offset_background, resize, valid_mask
from sfc.method.network import SFCNet, score
from sfc.method.protocol import TrainingSet
from sfc.method.sfc import Sfc
from sfc.networks.backbone import build_backbone
from sfc.networks.published_checkpoints import load_checkpoint, our_name
from sfc.refine.affinity import irn_losses, lines
from sfc.refine.crf import crf_labels, ir_labels
from sfc.refine.irn import IRN, infer, pair_edge
from sfc.refine.random_walk import random_walk, walk_labels
from sfc.refine.seeds import as_classes
from sfc.runtime.map_files import sum_scales
from sfc.runtime.training import build_optimiser, decay, poly
from sfc.stages.maps import infer as infer_maps
from sfc.stages.maps import scaled_size

KEPT = Path(__file__).parent / "data" / "parity"
FOLDER = Path(os.environ.get("SFC_PARITY") or KEPT)
CASES = sorted(path.parent.name for path in FOLDER.glob("*/sfc_training.npz"))
FLOAT32, FLOAT16, PIXELS = 1e-4, 5e-4, 0.999
PUBLISHED_RESAMPLING = 396.0
"""Images that the bank adds to each of VOC's classes, method.md section 1."""


def distance(ours: Tensor, theirs: Tensor) -> float:
    """||a - b|| / ||b||, or ||a - b|| where b is zero."""
    norm = theirs.double().norm()
    return float((ours.detach().double() - theirs.double()).norm() / (norm if norm > 0 else 1))


def agreement(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Part of the pixels with equal labels."""
    assert ours.shape == theirs.shape
    return float((ours == theirs).mean())


@dataclass(frozen=True)
class Case:
    """One folder of numbers."""

    name: str

    @property
    def seed(self) -> int:
        return int(re.findall(r"\d+", self.name)[-1])

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        return _arrays(FOLDER / self.name / f"{name}.npz")

    def tensors(self, name: str) -> dict[str, Tensor]:
        return {key: torch.from_numpy(value) for key, value in self.arrays(name).items()}

    def weights(self, kind: str) -> dict[str, Tensor]:
        """A checkpoint in the published naming."""
        named = json.loads((FOLDER / self.name / f"{kind}_parameters.json").read_text())
        beside = FOLDER / "weights.py"
        make = _module(beside if beside.is_file() else KEPT / "weights.py").parameter
        return {n: torch.from_numpy(np.asarray(make(n, tuple(shape), self.seed))) for n, shape in named}


@cache
def _arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        return {key: file[key] for key in file.files}


@cache
def _module(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location("parity_weights", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return Case(request.param)


def load(net: SFCNet | IRN, weights: dict[str, Tensor], folder: Path) -> Any:
    """Weights into a network by way of a file, as a user's checkpoint."""
    torch.save({"net": weights}, folder / "published.pth")
    load_checkpoint(net, folder / "published.pth", "weights")
    return net.eval()


@pytest.fixture(scope="module")
def sfc_net(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Sfc:
    weights = case.weights("sfc")
    counts = tuple(case.arrays("sfc_training")["voc_class_counts"].tolist())
    training = TrainingSet(tuple(map(str, range(len(weights["classifier.weight"])))), counts, PUBLISHED_RESAMPLING)
    net = Sfc(build_backbone(Backbone(name="resnet50", frozen_stages=2)), training, SfcOptions())
    return load(net, weights, tmp_path_factory.mktemp("sfc"))


@pytest.fixture(scope="module")
def irn(case: Case, tmp_path_factory: pytest.TempPathFactory) -> IRN:
    return load(IRN(Backbone(name="resnet50")), case.weights("irn"), tmp_path_factory.mktemp("irn"))


@dataclass(frozen=True)
class Trained:
    """One training step of SFC: both views' results, the losses of the step, and gradients by published name."""

    views: dict[str, tuple[Tensor, Tensor, Tensor]]
    losses: dict[str, Tensor]
    weight: np.ndarray
    gradients: dict[str, Tensor | None]


@pytest.fixture(scope="module")
def trained(case: Case, sfc_net: Sfc) -> Trained:
    given = case.tensors("sfc_training")
    image, label, size = given["image"], given["label"], tuple(given["image"].shape[-2:])
    views = {}
    for name, scale in zip(("full", "half"), (1.0, *sfc_net.options.scales), strict=True):
        features = sfc_net.features(resize(image, scaled_size(size, scale), align_corners=True))
        valid = valid_mask(label, given["valid_box"], size, features.size)
        views[name] = (score(features), *sfc_net.maps_of(features, valid))
    step = sfc_net.step(Crop(image, given["valid_box"], label, torch.empty(0)), 0.0)
    losses = {"loss_cls": step["classification"], "loss_prototype": step["prototype"], "loss_scale": step["scale"]}
    sfc_net.zero_grad(set_to_none=True)
    step["total"].backward()
    parameters = dict(sfc_net.named_parameters())
    gradients = {name: parameters[str(our_name(name, "sfc"))].grad for name in case.weights("sfc") if _learns(name)}
    sfc_net.zero_grad(set_to_none=True)
    return Trained(views, losses, sfc_net.weight_C.numpy(), gradients)


def _learns(name: str) -> bool:
    return not name.endswith(("running_mean", "running_var", "num_batches_tracked"))


def test_there_are_cases() -> None:
    assert CASES, f"no case in {FOLDER}"


@pytest.mark.parametrize("view", ["full", "half"])
def test_scores_and_maps(case: Case, trained: Trained, view: str) -> None:
    given = case.tensors("sfc_training")
    for name, ours in zip(("score", "cam_classifier", "cam_prototype"), trained.views[view], strict=True):
        assert ours.shape == given[f"{view}_{name}"].shape
        assert distance(ours, given[f"{view}_{name}"]) < FLOAT32, name


def test_losses_and_distribution_weights(case: Case, trained: Trained) -> None:
    given = case.tensors("sfc_training")
    assert distance(torch.from_numpy(trained.weight), given["dw_weight"]) < FLOAT32
    for name, loss in trained.losses.items():
        assert distance(loss, given[name]) < FLOAT32, name


def test_gradients_and_none_where_the_published_code_has_none(case: Case, trained: Trained) -> None:
    given = case.tensors("sfc_training")
    names = [key.removeprefix("gradnorm/") for key in given if key.startswith("gradnorm/")]
    assert names
    for name in names:
        theirs, norm = given[f"grad/{name}"], given[f"gradnorm/{name}"]
        ours = trained.gradients[name]
        if norm == 0:
            assert ours is None or not ours.any(), name
            continue
        assert ours is not None, name
        assert distance(ours.norm(), norm) < FLOAT32, name
        # The first values may be far smaller than the others, whose rounding they share: as much as if all were equal.
        difference = (ours.flatten()[: len(theirs)] - theirs).norm()
        equal = float(norm) * (len(theirs) / ours.numel()) ** 0.5
        assert difference < FLOAT32 * max(float(theirs.norm()), equal), name
    for name, ours in trained.gradients.items():
        if name.startswith(("resnet50.conv1", "resnet50.bn1", "resnet50.layer1.", "resnet50.layer2.")):
            assert ours is None or not ours.any(), name


def test_steps_of_the_optimiser_as_published(case: Case) -> None:
    given = case.tensors("sfc_training")
    lr, weight_decay, steps = 0.1, 0.05, 10  # stated by the cases' README
    parameter = nn.Parameter(given["sgd_start"].clone())
    groups = [{"params": [parameter], "lr": lr}]
    section = Classifier(optimiser="sgd_as_published", momentum=0.9, weight_decay=weight_decay)
    optimiser = build_optimiser(groups, section)
    for step, (gradient, theirs) in enumerate(zip(given["sgd_grads"], given["sgd_params"], strict=True)):
        parameter.grad = gradient.clone()
        decay(optimiser, [lr], poly(step, steps, section.power))
        optimiser.step()
        assert distance(parameter - given["sgd_start"], theirs - given["sgd_start"]) < 1e-5


def test_inputs_at_other_scales(case: Case) -> None:
    given = case.tensors("sfc_cam")
    for key in [key for key in given if key.startswith("input_")]:
        size = scaled_size(tuple(given["image"].shape[-2:]), float(key.removeprefix("input_")))
        ours = torch.nn.functional.interpolate(given["image"][None], size, mode="bicubic", align_corners=False)
        assert distance(ours[0], given[key]) < FLOAT32, key


def test_maps_at_inference(case: Case, sfc_net: Sfc) -> None:
    given = case.tensors("sfc_cam")
    section = Cam(scales=tuple(given["scales"].tolist()), precision="fp32")
    with torch.inference_mode():
        scales = infer_maps(sfc_net, given["image"][None], section)
    keys = torch.cat([torch.zeros(1, dtype=torch.int64), given["label"].nonzero()[:, 0] + 1])
    assert keys.tolist() == given["keys"].tolist()
    size = tuple(given["image"].shape[-2:])
    for name in ("classifier", "prototype"):
        ours = sum_scales([maps[name][0, keys] for maps in scales], size)
        assert distance(offset_background(ours, Pseudo().offset), given[f"cam_{name}"]) < FLOAT16, name


def fused(case: Case, weight: float) -> Tensor:
    """The case's smooth maps, fused; they contain the background offset already."""
    given = case.tensors("sfc_cam")
    return fuse({name: given[f"maps_{name}"].float() for name in ("classifier", "prototype")}, weight)


def test_crf_on_hard_labels(case: Case) -> None:
    given, maps = case.arrays("sfc_cam"), fused(case, Pseudo().fusion).numpy()
    assert agreement(maps.argmax(0), given["crf_in"]) >= PIXELS
    ours = crf_labels(given["image_uint8"], given["crf_in"], len(maps), Crf())
    assert agreement(ours, given["crf_out"]) >= PIXELS


def test_crf_labels_for_irn(case: Case) -> None:
    given = case.arrays("sfc_cam")
    ours = ir_labels(given["image_uint8"], fused(case, Pseudo().fusion).numpy(), Crf())
    assert agreement(as_classes(ours, given["maps_keys"]), given["ir_label"]) >= PIXELS


def test_paths_of_irn(case: Case) -> None:
    destinations = np.array([line.destination for line in lines(Affinity().radius)])
    assert np.array_equal(destinations, case.arrays("irn")["path_dst"])


def test_edge_displacement_and_losses_of_irn(case: Case, irn: IRN) -> None:
    given = case.tensors("irn")
    with torch.inference_mode():
        edge, displacement = irn.eval()(given["image"])
        assert distance(edge, given["edge_logit"]) < FLOAT32
        assert distance(displacement, given["displacement"]) < FLOAT32
        losses = irn_losses(*irn.train()(given["image"]), given["segment"], Affinity().radius)
        irn.eval()
    theirs = ("loss_pos", "loss_neg", "loss_dp_fg", "loss_dp_bg", "loss")
    for (name, ours), key in zip(losses.items(), theirs, strict=True):
        assert distance(ours, given[key]) < FLOAT32, name


def test_edge_of_a_pair_on_a_padded_canvas(case: Case, irn: IRN) -> None:
    given = case.tensors("irn")
    canvas = int(given["pair_pad"])
    with torch.inference_mode():
        assert distance(pair_edge(irn, given["pair_image"][None], canvas), given["pair_edge"]) < FLOAT32
        edge, _ = infer(irn, given["pair_image"][None], 0)
    assert edge.shape[-2:] == given["pair_edge"].shape[-2:]


def test_random_walk(case: Case) -> None:
    given, section = case.tensors("irn"), Walk()
    ours = random_walk(
        given["walk_cam"][None, 1:] ** section.power,
        given["walk_edge"],
        radius=section.radius,
        beta=section.beta,
        steps=section.steps,
    )
    assert distance(ours[0], given["walk_foreground"]) < FLOAT32


def test_final_pseudo_label(case: Case) -> None:
    given, section = case.tensors("irn"), Walk()
    ours = walk_labels(fused(case, section.fusion)[None], given["walk_edge"], section)[0].numpy()
    keys = case.arrays("sfc_cam")["maps_keys"]
    assert agreement(as_classes(ours, keys), case.arrays("irn")["pseudo_label"]) >= PIXELS
