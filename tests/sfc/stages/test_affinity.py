"""IRN from maps to edges to pseudo-labels, and networks that were trained elsewhere."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from sfc.config import Affinity, Backbone, Config, Crf, Pseudo, Walk
from sfc.config.files import change_config
from sfc.data.crops import normalise
from sfc.data.dataset import open_folder
from sfc.data.images import VOID, read_mask
from sfc.errors import UserError
from sfc.method.network import SFCNet
from sfc.networks.backbone import build_backbone
from sfc.pipeline import Pipeline
from sfc.refine.crf import ir_labels
from sfc.refine.irn import IRN, infer
from sfc.refine.random_walk import walk_labels
from sfc.refine.seeds import as_classes, ruled_maps
from sfc.runtime.engine import LocalEngine
from sfc.runtime.map_files import load_edge, load_maps, save_edge, save_maps
from sfc.runtime.store import Store
from sfc.runtime.training import HISTORY, WEIGHTS
from sfc.stages import labels as pseudo
from tests.sfc.stages.conftest import BACKBONE, CLASSIFIER, World

AFFINITY = Affinity(epochs=2, batch=4, crop=32, radius=3, lr=0.05, displacement_lr=0.05, precision="fp32")
PSEUDO = Pseudo(method="irn", threshold=0.1, crf=Crf(iterations=2), walk=Walk(steps=8))


@dataclass
class Trained:
    """Folders of the stages."""

    affinity: Path
    edges: Path
    labels: Path


def train(world: World, folder: Path, section: Affinity = AFFINITY) -> None:
    world.run("affinity", folder, affinity=section, pseudo=PSEUDO, seed=3)


def label(world: World, folder: Path, edges: Path | None, section: Pseudo = PSEUDO) -> None:
    world.run("labels", folder, pseudo=section, inputs={"edges": edges})


@pytest.fixture(scope="module")
def irn(world: World, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    made = Trained(*(tmp_path_factory.mktemp(name) for name in ("affinity", "edges", "labels")))
    train(world, made.affinity)
    world.run("edges", made.edges, affinity=AFFINITY, inputs={"affinity": made.affinity})
    label(world, made.labels, made.edges)
    return made


def network(folder: Path) -> IRN:
    net = IRN(BACKBONE)
    net.load_state_dict(torch.load(folder / WEIGHTS, weights_only=True))
    return net.eval()


def test_the_labels_it_learns_from_are_those_of_two_crfs(world: World, irn: Trained) -> None:
    for name in world.train.ids:
        keys, maps = load_maps(world.folder("maps") / f"{name}.npz")
        fused = ruled_maps(maps, PSEUDO, PSEUDO.fusion).numpy()
        expected = as_classes(ir_labels(np.asarray(world.data.image(name)), fused, PSEUDO.crf), keys)
        assert np.array_equal(read_mask(irn.affinity / "labels" / f"{name}.png"), expected)


def test_it_trains_on_the_classifier_s_backbone_where_no_weights_are_named(world: World, irn: Trained) -> None:
    history = json.loads((irn.affinity / HISTORY).read_text())
    assert [epoch["epoch"] for epoch in history] == [1, 2]
    assert {"positive", "negative", "displacement_foreground", "displacement_background", "total"} < set(history[0])
    assert history[1]["total"] < history[0]["total"]
    given = torch.load(world.folder("classifier") / WEIGHTS, weights_only=True)
    for name, value in network(irn.affinity).backbone.state_dict().items():
        assert torch.equal(value, given[f"backbone.{name}"])


def test_the_running_mean_is_the_mean_displacement_over_the_split(world: World, irn: Trained) -> None:
    net = network(irn.affinity)
    assert net.running_mean.abs().max() > 0
    means = []
    for name in world.train.ids:
        pixels = torch.from_numpy(np.array(world.data.image(name))).permute(2, 0, 1)[None]
        with torch.no_grad():
            means.append(infer(net, normalise(pixels, None, BACKBONE.mean, BACKBONE.std), 32)[1].mean((0, 2, 3)))
    torch.testing.assert_close(torch.stack(means).mean(0), torch.zeros(2), atol=1e-5, rtol=0)


def test_a_finished_network_is_not_trained_again(world: World, irn: Trained) -> None:
    before = (irn.affinity / WEIGHTS).stat().st_mtime_ns
    train(world, irn.affinity)
    assert (irn.affinity / WEIGHTS).stat().st_mtime_ns == before


def test_every_image_has_an_edge_map_of_a_quarter_of_its_size(world: World, irn: Trained) -> None:
    assert {path.stem for path in irn.edges.iterdir()} == set(world.train.ids)
    for path in irn.edges.iterdir():
        found = load_edge(path)
        assert found.shape == (8, 8) and found.min() >= 0 and found.max() <= 1
        assert path.stat().st_size < 1000


def test_labels_are_the_random_walk_s(world: World, irn: Trained) -> None:
    for name in world.train.ids:
        keys, maps = load_maps(world.folder("maps") / f"{name}.npz")
        fused = ruled_maps(maps, PSEUDO, PSEUDO.walk.fusion)
        found = walk_labels(fused[None], load_edge(irn.edges / f"{name}.npz")[None], PSEUDO.walk)[0].numpy()
        assert np.array_equal(read_mask(irn.labels / "labels" / f"{name}.png"), as_classes(found, keys))
    metrics = json.loads((irn.labels / "metrics.json").read_text())
    assert metrics["coverage"] == 1 and 0 <= metrics["miou"] <= 1


def test_images_that_walk_together_get_the_labels_that_each_gets_alone(
    world: World, voc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {"a": (21, 30), "b": (21, 30), "c": (30, 21), "d": (1, 1), "e": (21, 30)}
    csv = {"a": "x", "b": "y", "c": "x y", "d": "y", "e": ""}
    images = {name: np.zeros((*size, 3), np.uint8) for name, size in sizes.items()}
    data = open_folder(voc(images, classes=("x", "y"), csv=csv, splits={"train": list(images)}))
    split = data.split("train")
    generator = torch.Generator().manual_seed(0)
    for name, (height, width) in sizes.items():
        keys = np.array([0, *(np.flatnonzero(split.labels[split.ids.index(name)]) + 1)])
        maps = [{kind: torch.rand(len(keys), 3, 4, generator=generator) for kind in ("classifier", "prototype")}]
        (tmp_path / "maps").mkdir(exist_ok=True)
        save_maps(tmp_path / "maps" / f"{name}.npz", keys, (height, width), maps)
        save_edge(tmp_path / "maps" / f"{name}.edge", torch.rand(-(-height // 4), -(-width // 4), generator=generator))
    (tmp_path / "edges").mkdir()
    for path in (tmp_path / "maps").glob("*.edge"):
        path.rename(tmp_path / "edges" / f"{path.stem}.npz")
    walked = {}
    for limit in (0, 10**9):
        monkeypatch.setattr(pseudo, "group_pixels", lambda device, limit=limit: limit)
        inputs = {"maps": tmp_path / "maps", "edges": tmp_path / "edges"}
        work = world.work("labels", tmp_path / "out", pseudo=PSEUDO, data=data, split=split, inputs=inputs)
        walked[limit] = dict(pseudo._walked(range(5), work))
    assert walked[0].keys() == walked[10**9].keys() == set(range(5))
    for i, one in walked[0].items():
        assert one.shape == sizes[split.ids[i]] and np.array_equal(one, walked[10**9][i])


def test_pixels_of_which_the_crfs_are_unsure_can_be_void(world: World, tmp_path: Path) -> None:
    section = PSEUDO.model_copy(update={"method": "crf", "void_unsure": True, "threshold": 0.6})
    label(world, tmp_path, None, section)
    masks = [read_mask(path) for path in (tmp_path / "labels").iterdir()]
    void = np.mean([(mask == VOID).mean() for mask in masks])
    assert 0 < void < 1
    assert json.loads((tmp_path / "metrics.json").read_text())["coverage"] < 1


def test_a_network_that_was_trained_elsewhere_is_taken_as_it_is(world: World, irn: Trained, tmp_path: Path) -> None:
    train(world, tmp_path, AFFINITY.model_copy(update={"weights": str(irn.affinity / WEIGHTS)}))
    assert {path.name for path in tmp_path.iterdir()} == {WEIGHTS, HISTORY}
    given, found = network(irn.affinity).state_dict(), network(tmp_path).state_dict()
    assert all(torch.equal(given[name], found[name]) for name in given)


def test_a_classifier_that_was_trained_elsewhere_is_taken_or_refused(world: World, small: Backbone, tmp_path) -> None:
    section = CLASSIFIER.model_copy(update={"weights": str(world.folder("classifier") / WEIGHTS)})
    world.run("classifier", tmp_path, classifier=section)
    given, found = (torch.load(f / WEIGHTS, weights_only=True) for f in (world.folder("classifier"), tmp_path))
    assert all(torch.equal(given[name], found[name]) for name in given)
    torch.save(SFCNet(build_backbone(small), 7).state_dict(), tmp_path / "seven.pt")
    section = CLASSIFIER.model_copy(update={"weights": str(tmp_path / "seven.pt")})
    (tmp_path / "new").mkdir()
    with pytest.raises(UserError, match=r"classifier\.weights: .*seven\.pt was trained for 7 classes, the data has 4"):
        world.run("classifier", tmp_path / "new", classifier=section)


def config_of(world: World) -> Config:
    return change_config(
        Config(backbone=BACKBONE, classifier=CLASSIFIER, affinity=AFFINITY, pseudo=PSEUDO),
        {"data.root": str(world.data.root), "data.format": "folder", "cam.scales": [1.0]},
    )


def test_only_the_walk_is_done_again_when_its_settings_change(world: World, tmp_path: Path) -> None:
    config = config_of(world)

    def stages(changes: dict[str, object]) -> dict[str, int]:
        Pipeline(change_config(config, changes), Store(tmp_path), LocalEngine(1)).output("labels")
        folders = ("classifier", "maps", "affinity", "edges", "labels")
        return {name: len(list((tmp_path / name).glob("*/manifest.json"))) for name in folders}

    weights = {"classifier.weights": str(world.folder("classifier") / WEIGHTS)}
    assert stages(weights | {"pseudo.method": "argmax"}) == dict.fromkeys(("classifier", "maps", "labels"), 1) | {
        "affinity": 0,
        "edges": 0,
    }
    first = dict.fromkeys(("classifier", "maps", "affinity", "edges"), 1)
    assert stages(weights) == first | {"labels": 2}
    assert stages(weights | {"pseudo.walk.beta": 4.0, "pseudo.walk.walks": "joint"}) == first | {"labels": 3}
    assert stages(weights | {"pseudo.method": "argmax", "pseudo.walk.beta": 4.0}) == first | {"labels": 3}


def test_a_file_of_weights_that_is_not_there_is_named(world: World, tmp_path: Path) -> None:
    for name in ("classifier", "affinity"):
        config = change_config(config_of(world), {f"{name}.weights": "nowhere.pth"})
        with pytest.raises(UserError, match=rf"{name}\.weights: there is no file nowhere\.pth"):
            pipeline = Pipeline(config, Store(tmp_path), LocalEngine(1))
            pipeline.output(name)


@pytest.mark.parametrize(("crop", "radius"), [(32, 5), (64, 9), (512, 65)])
def test_a_crop_that_holds_no_pair_is_refused(crop: int, radius: int) -> None:
    with pytest.raises(ValueError, match=rf"radius: .*the largest is {radius - 1}"):
        Affinity(crop=crop, radius=radius)
    Affinity(crop=crop, radius=radius - 1)
