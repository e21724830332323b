"""What is kept of label maps against masks, and what can be computed from it again."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from sfc.runtime.engine import LocalEngine
from sfc.scoring.metrics import confusion, pixel_counts, summarise, summarise_pixels
from sfc.scoring.tally import Tally, merge, read_images, recompute

COUNTS = np.array([40, 10, 20])
NAMES = ["a", "b", "c", "d", "e"]


@pytest.fixture
def images() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    return {
        name: tuple(
            rng.choice([0, 1, 2, 3, 255], (7 + i, 9), p=[0.4, 0.2, 0.2, 0.1, 0.1]).astype(np.uint8) for _ in "tp"
        )
        for i, name in enumerate(NAMES)
    }


def tally(images: dict, names: list[str] = NAMES) -> Tally:
    made = Tally(4)
    for name in names:
        made.add(name, *images[name])
    return made


def test_everything_follows_from_the_counts_of_each_image(images, tmp_path: Path) -> None:
    tally(images).write(tmp_path, COUNTS, note={"kept": True})
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics.pop("note") == {"kept": True}
    assert recompute(tmp_path) == metrics
    assert 0 < metrics["coverage"] < 1 and {"miou", "miou_head", "miou_middle", "miou_tail", "accuracy"} < set(metrics)
    matrix = np.load(tmp_path / "confusion.npy")
    assert np.array_equal(matrix, sum(confusion(*image, 4) for image in images.values()))


def test_a_part_of_the_images_can_be_counted_alone(images, tmp_path: Path) -> None:
    tally(images).write(tmp_path, COUNTS)
    chosen = ["d", "b"]
    expected = summarise(sum(confusion(*images[name], 4) for name in chosen), COUNTS)
    found = recompute(tmp_path, chosen)
    assert {name: found[name] for name in expected} == expected
    with pytest.raises(KeyError, match="nobody"):
        recompute(tmp_path, ["a", "nobody"])


def test_the_counts_on_disk_are_small_plain_and_exact(images, tmp_path: Path) -> None:
    tally(images).write(tmp_path, COUNTS)
    names, pixels, counts = read_images(tmp_path)
    assert names == NAMES and counts.tolist() == COUNTS.tolist()
    assert pixels.dtype == np.uint32 and pixels.shape == (5, 4, 3)
    for name, (hit, predicted, true) in zip(names, np.moveaxis(pixels, -1, 1), strict=True):
        truth, label = images[name]
        for k in range(4):
            expected = ((truth == k) & (label == k)).sum(), ((label == k) & (truth != 255)).sum(), (truth == k).sum()
            assert (hit[k], predicted[k], true[k]) == expected


def test_tallies_of_shards_are_the_tally_of_all(images) -> None:
    parts = list(LocalEngine(2).map(partial(tally, images), [NAMES[:2], NAMES[2:]]))  # from other processes
    whole, merged = tally(images), merge(parts)
    assert np.array_equal(merged.matrix, whole.matrix) and list(merged.images) == NAMES


def test_sums_of_many_large_images_do_not_overflow(tmp_path: Path) -> None:
    made = Tally(2)
    made.add("a", np.zeros((2, 2), np.uint8), np.zeros((2, 2), np.uint8))
    for i in range(3):
        made.images[f"{i}"] = np.full((2, 3), 2**32 - 1, np.uint32)
    made.write(tmp_path, np.array([1]))
    assert recompute(tmp_path)["miou"] == 1


def test_both_ways_to_summarise_agree(images) -> None:
    matrix = tally(images).matrix
    assert summarise(matrix, COUNTS) == summarise_pixels(pixel_counts(matrix), COUNTS)
    assert "coverage" not in summarise(matrix[:, :4], COUNTS)


def test_tallies_that_another_process_sent_read_only_are_merged() -> None:
    parts = []
    for name in ("a", "b"):
        part = Tally(2)
        part.add(name, np.zeros((2, 2), np.uint8), np.zeros((2, 2), np.uint8))
        part.matrix.flags.writeable = False
        parts.append(part)
    merged = merge(parts)
    assert merged.matrix[0, 0] == 8 and list(merged.images) == ["a", "b"]
    assert parts[0].matrix[0, 0] == 4
