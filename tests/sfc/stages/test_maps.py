"""Maps of a split."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from sfc.config import Backbone, Cam, Classifier
from sfc.data.dataset import open_folder
from sfc.errors import UserError
from sfc.method.build import build_method
from sfc.method.protocol import Method, TrainingSet
from sfc.runtime.map_files import load_maps
from sfc.runtime.training import WEIGHTS
from sfc.stages import maps as cam
from tests.sfc.stages.conftest import World

IMAGE = torch.rand(2, 3, 20, 28, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def net(small: Backbone) -> Method:
    torch.manual_seed(0)
    return build_method(Classifier(), small, TrainingSet(("x", "y", "z"), (3, 2, 1), 0.0)).eval()


def test_every_image_has_the_maps_of_its_labels(world: World) -> None:
    files = {path.name for path in world.folder("maps").iterdir()}
    assert files == {f"{name}.npz" for name in world.train.ids}
    for name, label in zip(world.train.ids, world.train.labels, strict=True):
        keys, named = load_maps(world.folder("maps") / f"{name}.npz")
        assert keys.tolist() == [0, *(np.flatnonzero(label) + 1)] and list(named) == ["classifier", "prototype"]
        for maps in named.values():
            assert maps.shape == (len(keys), 32, 32) and torch.isfinite(maps).all() and maps.max() <= 1


def test_images_that_are_done_are_left_alone_and_the_others_made(world: World, tmp_path: Path) -> None:
    first, *rest = world.train.ids
    (tmp_path / f"{first}.npz").write_bytes(b"done")
    world.run("maps", tmp_path)
    assert (tmp_path / f"{first}.npz").read_bytes() == b"done"
    for name in rest:
        expected = load_maps(world.folder("maps") / f"{name}.npz")
        made = load_maps(tmp_path / f"{name}.npz")
        assert all(torch.equal(made.maps[kind], expected.maps[kind]) for kind in expected.maps)


def test_images_of_different_sizes_give_the_maps_that_each_gives_alone(
    world: World, voc, net: Method, tmp_path: Path
) -> None:
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
        folder, kind = tmp_path / split, {"data": data, "split": data.split(split), "train": data.split("all")}
        world.run("maps", folder, inputs={"classifier": tmp_path}, **kind)
        results |= {(split, path.stem): load_maps(path) for path in folder.iterdir()}
    for name, size in sizes.items():
        together, alone = results["all", name], results[name, name]
        assert together.keys.tolist() == alone.keys.tolist() and together.size == size
        for kind in together.maps:
            torch.testing.assert_close(together.maps[kind], alone.maps[kind], atol=2e-3, rtol=0)


def test_a_mirrored_image_has_mirrored_maps(net: Method) -> None:
    section = Cam(scales=(1.0,), precision="fp32")
    with torch.inference_mode():
        (one,), (two,) = (cam.infer(net, x, section) for x in (IMAGE, IMAGE.flip(-1)))
        (plain,) = cam.infer(net, IMAGE, section.model_copy(update={"mirror": False}))
    torch.testing.assert_close(one["classifier"], two["classifier"].flip(-1), atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(one["prototype"], two["prototype"].flip(-1), atol=1e-3, rtol=1e-2)
    assert not torch.allclose(one["classifier"], plain["classifier"], atol=1e-3)


def test_a_map_for_each_scale_at_its_size(net: Method) -> None:
    with torch.inference_mode():
        maps = cam.infer(net, IMAGE, Cam(scales=(1.0, 0.5, 2.0), mirror=False, precision="fp32"))
    assert [tuple(scale["classifier"].shape) for scale in maps] == [(2, 4, 5, 7), (2, 4, 3, 4), (2, 4, 10, 14)]


@pytest.mark.parametrize(
    ("size", "scale", "scaled"),
    [((321, 481), 0.5, (160, 240)), ((333, 499), 1.5, (500, 748)), ((1, 1), 0.5, (1, 1)), ((3, 5), 0.5, (2, 2))],
)
def test_sizes_are_rounded_half_to_even(size: tuple[int, int], scale: float, scaled: tuple[int, int]) -> None:
    assert cam.scaled_size(size, scale) == scaled


@pytest.mark.parametrize(
    ("maps", "words"),
    [
        ({}, "own:M gives no map"),
        ({"a": torch.ones(1, 3, 2, 2)}, r"the map a of own:M has the shape \(1, 3, 2, 2\), expected \(N, 4, h, w\)"),
        ({"a": torch.full((1, 4, 2, 2), 1e5)}, "float16 can't hold"),
        ({"a": torch.full((1, 4, 2, 2), float("nan"))}, "float16 can't hold"),
    ],
)
def test_maps_that_are_not_as_promised_are_refused_by_name(maps: dict[str, torch.Tensor], words: str) -> None:
    with pytest.raises(UserError, match=words):
        cam.check_maps(maps, 4, "own:M")
    cam.check_maps({"a": torch.ones(1, 4, 2, 2)}, 4, "own:M")
