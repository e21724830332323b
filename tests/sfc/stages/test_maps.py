"""Maps of a split."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from sfc.config import Backbone, Cam
from sfc.data.dataset import open_folder
from sfc.method.network import SFCNet
from sfc.runtime.engine import LocalEngine
from sfc.runtime.map_files import load_maps
from sfc.runtime.training import WEIGHTS
from sfc.stages import maps as cam
from tests.sfc.stages.conftest import BACKBONE, CAM, World

IMAGE = torch.rand(2, 3, 20, 28, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def net(small: Backbone) -> SFCNet:
    torch.manual_seed(0)
    return SFCNet(small, 3).eval()


def test_every_image_has_the_maps_of_its_labels(world: World) -> None:
    files = {path.name for path in world.folder("cam").iterdir()}
    assert files == {f"{name}.npz" for name in world.train.ids}
    for name, label in zip(world.train.ids, world.train.labels, strict=True):
        keys, classifier, prototype = load_maps(world.folder("cam") / f"{name}.npz")
        assert keys.tolist() == [0, *(np.flatnonzero(label) + 1)]
        for maps in (classifier, prototype):
            assert maps.shape == (len(keys), 32, 32) and torch.isfinite(maps).all() and maps.max() <= 1


def test_images_that_are_done_are_left_alone_and_the_others_made(world: World, tmp_path: Path) -> None:
    first, *rest = world.train.ids
    (tmp_path / f"{first}.npz").write_bytes(b"done")
    cam.run(
        tmp_path,
        world.engine,
        section=CAM,
        backbone=BACKBONE,
        classifier=world.folder("classifier"),
        data=world.data,
        split=world.train,
    )
    assert (tmp_path / f"{first}.npz").read_bytes() == b"done"
    for name in rest:
        expected = load_maps(world.folder("cam") / f"{name}.npz")
        for a, b in zip(load_maps(tmp_path / f"{name}.npz"), expected, strict=True):
            assert np.array_equal(a, b)


def test_images_of_different_sizes_give_the_maps_that_each_gives_alone(voc, net: SFCNet, tmp_path: Path, small) -> None:
    rng = np.random.default_rng(0)
    sizes = {"a": (20, 28), "b": (20, 28), "c": (28, 20), "d": (1, 1), "e": (20, 28)}
    images = {name: rng.integers(0, 255, (*size, 3)).astype(np.uint8) for name, size in sizes.items()}
    csv = {"a": "x", "b": "y z", "c": "", "d": "x", "e": "z"}
    data = open_folder(
        voc(images, classes=("x", "y", "z"), csv=csv, splits={"all": list(images), **{n: [n] for n in images}})
    )
    torch.save(net.state_dict(), tmp_path / WEIGHTS)
    results = {}
    for split in data.split_names():
        folder = tmp_path / split
        folder.mkdir()
        section = Cam(scales=(1.0, 0.5), precision="fp32")
        kind = {"section": section, "backbone": small, "classifier": tmp_path, "data": data, "split": data.split(split)}
        cam.run(folder, LocalEngine(1), **kind)
        results |= {(split, path.stem): load_maps(path) for path in folder.iterdir()}
    for name, size in sizes.items():
        together, alone = results["all", name], results[name, name]
        assert together[0].tolist() == alone[0].tolist() and together[1].shape[1:] == size
        torch.testing.assert_close(together[1], alone[1], atol=2e-3, rtol=0)
        torch.testing.assert_close(together[2], alone[2], atol=2e-3, rtol=0)


def test_a_mirrored_image_has_mirrored_maps(net: SFCNet) -> None:
    section = Cam(scales=(1.0,), precision="fp32")
    with torch.inference_mode():
        ((one, prototype),), ((two, mirrored),) = (cam.infer(net, x, section) for x in (IMAGE, IMAGE.flip(-1)))
        ((plain, _),) = cam.infer(net, IMAGE, section.model_copy(update={"mirror": False}))
    torch.testing.assert_close(one, two.flip(-1), atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(prototype, mirrored.flip(-1), atol=1e-3, rtol=1e-2)
    assert not torch.allclose(one, plain, atol=1e-3)


def test_a_map_for_each_scale_at_its_size(net: SFCNet) -> None:
    with torch.inference_mode():
        maps = cam.infer(net, IMAGE, Cam(scales=(1.0, 0.5, 2.0), mirror=False, precision="fp32"))
    assert [tuple(classifier.shape) for classifier, _ in maps] == [(2, 4, 5, 7), (2, 4, 3, 4), (2, 4, 10, 14)]


@pytest.mark.parametrize(
    ("size", "scale", "scaled"),
    [((321, 481), 0.5, (160, 240)), ((333, 499), 1.5, (500, 748)), ((1, 1), 0.5, (1, 1)), ((3, 5), 0.5, (2, 2))],
)
def test_sizes_are_rounded_half_to_even(size: tuple[int, int], scale: float, scaled: tuple[int, int]) -> None:
    assert cam.scaled_size(size, scale) == scaled
