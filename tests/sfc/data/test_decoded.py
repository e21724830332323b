"""Decoded images: the same pixels as from the files, kept once, and done without where they can't be kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sfc.data import Dataset
from sfc.data import decoded as module
from sfc.data.dataset import open_folder
from sfc.data.decoded import Decoded


@pytest.fixture
def data(voc: Callable[..., Path], tmp_path: Path) -> Dataset:
    """Three images of different sizes."""
    rng = np.random.default_rng(0)
    images = {f"{i}": rng.integers(0, 256, (20 + i, 30 - i, 3), np.uint8) for i in range(3)}
    root = voc(images, csv=dict.fromkeys(images, "cat"))
    return open_folder(root, cache=tmp_path / "cache")


def test_the_pixels_are_those_of_the_files(data: Dataset) -> None:
    split = data.split("train")
    kept = Decoded.open(data, split)
    assert kept is not None
    for index, name in enumerate(split.ids):
        assert np.array_equal(np.asarray(kept[index]), np.asarray(data.image(name)))


def test_images_are_decoded_once(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    split = data.split("train")
    Decoded.open(data, split)
    monkeypatch.setattr(Dataset, "image", lambda self, name: pytest.fail("decoded again"))
    assert Decoded.open(data, split) is not None


def test_a_split_that_is_too_large_is_not_kept(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LIMIT", 100)
    assert Decoded.open(data, data.split("train")) is None
    assert not list((data.cache or Path()).glob("*.npy"))


def test_without_a_folder_or_room_nothing_is_kept(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    split = data.split("train")
    assert Decoded.open(replace(data, cache=None), split) is None

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np.lib.format, "write_array_header_1_0", full)
    assert Decoded.open(data, split) is None
    assert not list((data.cache or Path()).glob("pixels-*.partial")), "it would keep the disk full"
