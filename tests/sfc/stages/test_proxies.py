"""Numbers that need no mask."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from sfc.config import Crf, Data, Pseudo
from sfc.data import Dataset, Split
from sfc.data.dataset import open_folder
from sfc.pipeline import Pipeline
from sfc.refine.crf import crf_labels
from sfc.refine.seeds import hard_labels
from sfc.results import Result
from sfc.runtime.engine import LocalEngine
from sfc.runtime.map_files import load_maps, save_maps
from sfc.runtime.store import Store
from sfc.scoring.metrics import class_iou, confusion
from sfc.stages import proxies as proxy
from tests.sfc.stages.conftest import SETTINGS, World

SECTION = Pseudo(threshold=0.3, crf=Crf(iterations=2, gt_prob=0.5))


def run(world: World, out: Path, maps: Path, data: Dataset | None = None, **changes) -> dict[str, float]:
    data = data or world.data
    arguments = {"pseudo": SECTION, "data": data, "split": data.split("train")} | changes
    return world.run("proxies", out, inputs={"maps": maps}, **arguments)


def changed(world: World, folder: Path, change) -> Path:
    """The world's maps, put through `change(classifier map, prototype map)`."""
    folder.mkdir()
    for path in world.folder("maps").iterdir():
        loaded = load_maps(path)
        one, other = change(*loaded.maps.values())
        save_maps(folder / path.name, loaded.keys, loaded.size, [{"classifier": one, "prototype": other}])
    return folder


def noisy(strength: float):
    generator = torch.Generator().manual_seed(0)

    def change(cam, prototype):
        return cam, (1 - strength) * cam + strength * torch.rand(cam.shape, generator=generator)

    return change


@pytest.mark.parametrize("rule", [{}, {"background": "offset"}])
def test_equal_maps_agree_and_the_more_they_differ_the_less(world: World, tmp_path: Path, rule: dict) -> None:
    section = SECTION.model_copy(update=rule)
    found = [
        run(world, tmp_path / "out", changed(world, tmp_path / f"{s}", noisy(s)), pseudo=section)["map_agreement"]
        for s in (0.0, 0.3, 1.0)
    ]
    assert found[0] == 1 and found[0] > found[1] > found[2]


def test_both_agreements_are_those_of_one_confusion_matrix(world: World, tmp_path: Path) -> None:
    maps, matrices = world.folder("maps"), np.zeros((2, 5, 6), np.int64)
    for name in world.train.ids:
        keys, named = load_maps(maps / f"{name}.npz")
        each = named.values()
        alone = [np.concatenate([np.full_like(m[:1], 0.3), m[1:]]).argmax(0).astype(np.uint8) for m in each]
        seeds = hard_labels(named, SECTION)
        after = crf_labels(np.asarray(world.data.image(name)), seeds, len(keys), SECTION.crf)
        for matrix, pair in zip(matrices, (alone, (seeds, after)), strict=True):
            matrix += confusion(*(keys[label].astype(np.uint8) for label in pair), 5)
    found = run(world, tmp_path, maps)
    expected = [np.nanmean(class_iou(matrix)) for matrix in matrices]
    assert [found["map_agreement"], found["crf_agreement"]] == pytest.approx(expected)
    assert found["crf_images"] == len(world.train) and 0 < found["crf_agreement"] < 1


def test_the_crf_sees_the_first_images_alone(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy, "CRF_IMAGES", 3)
    split, maps = world.train, world.folder("maps")
    few = Split(split.name, split.ids[:3], split.labels[:3], split.fingerprint, split.has_masks)
    whole, part = run(world, tmp_path / "a", maps), run(world, tmp_path / "b", maps, split=few)
    assert whole["crf_images"] == 3 and whole["crf_agreement"] == part["crf_agreement"]
    assert whole["map_agreement"] != part["map_agreement"]


def test_average_precision_is_1_for_perfect_scores_and_the_frequency_for_random_ones() -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random((4000, 3)) < [0.1, 0.3, 0.5]).astype(np.uint8)
    assert proxy.mean_average_precision(labels, labels + rng.random(labels.shape)) == 1
    assert proxy.mean_average_precision(labels, rng.random(labels.shape)) == pytest.approx(0.3, abs=0.03)
    with_absent = np.pad(labels, ((0, 0), (0, 1)))
    assert proxy.mean_average_precision(with_absent, with_absent.astype(float)) == 1
    assert proxy.mean_average_precision(np.array([[1], [0], [1]]), np.array([[3.0], [2], [1]])) == pytest.approx(5 / 6)
    assert proxy.mean_average_precision(np.zeros((2, 2), np.uint8), np.ones((2, 2))) == 0


def test_the_scores_are_those_of_the_image_s_own_place(world: World, tmp_path: Path) -> None:
    """Labels made from the scores themselves are ranked perfectly, whatever shard or group an image is in."""
    work = world.work("proxies", tmp_path)
    scores = proxy._scores(range(len(world.train)), work)
    assert np.allclose(scores[5:7], proxy._scores(range(5, 7), work), atol=1e-4)
    split = world.train
    made = Split(split.name, split.ids, (scores > np.median(scores, 0)).astype(np.uint8), split.fingerprint, False)
    maps = world.folder("maps")
    assert run(world, tmp_path / "a", maps, split=made)["classification_map"] == 1
    reversed_ = Split(split.name, split.ids, 1 - made.labels, split.fingerprint, False)
    assert run(world, tmp_path / "b", maps, split=reversed_)["classification_map"] < 0.7


def test_no_mask_is_needed_and_none_changes_a_number(world: World, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(world.data.root, bare)
    shutil.rmtree(bare / "SegmentationClass")
    data = open_folder(bare)
    assert not data.split("train").has_masks
    maps = world.folder("maps")
    assert run(world, tmp_path / "a", maps, data) == run(world, tmp_path / "b", maps)


def test_the_same_numbers_from_one_process_and_from_two(world: World, tmp_path: Path) -> None:
    maps = world.folder("maps")
    two = run(world, tmp_path / "two", maps, engine=LocalEngine(2))
    assert two == run(world, tmp_path / "one", maps)


@pytest.mark.parametrize(
    ("selected_on", "expected"), [(None, "image-labels"), ("select", "held-out masks"), ("val", "held-out masks")]
)
def test_a_number_without_masks_has_seen_those_that_chose_its_settings_and_never_its_own(
    world: World, tmp_path: Path, selected_on: str | None, expected: str
) -> None:
    data = Data(format="folder", root=str(world.data.root))
    config = SETTINGS.model_copy(update={"selected_on": selected_on, "data": data})
    result = Result()
    Pipeline(config, Store(tmp_path / "store"), world.engine).measure(result, "proxy")
    assert result.supervision == dict.fromkeys(
        ["proxy/map_agreement", "proxy/crf_agreement", "proxy/classification_map"], expected
    )
    assert set(result.metrics) == set(result.supervision) and "proxy" not in result.iou
    assert result.conditions["proxy"] == {"crf_images": 4}
