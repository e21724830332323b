"""Maps of another program, in each documented layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sfc.errors import UserError
from sfc.runtime.foreign_maps import read_foreign

CLASSES = ("cat", "dog", "cow")
KEYS = np.array([0, 1, 3])
MAPS = np.random.default_rng(0).random((3, 5, 7)).astype(np.float32)


def test_an_array_of_all_classes(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", 4 * MAPS)
    ((name, maps),) = read_foreign(tmp_path, "a", CLASSES, KEYS).items()
    assert name == "maps" and maps.shape == (3, 5, 7)
    for channel, source in ((1, 0), (2, 2)):  # each over its own maximum
        np.testing.assert_allclose(maps[channel], MAPS[source] / MAPS[source].max(), atol=1e-4)
    np.testing.assert_allclose(maps[0], 1 - maps[1:].amax(0), atol=1e-6)


def test_an_array_with_the_background_first(tmp_path: Path) -> None:
    background = np.full((1, 5, 7), 0.25, np.float32)
    background[0, 0, 0] = 0.5
    np.save(tmp_path / "a.npy", np.concatenate([background, MAPS]))
    maps = read_foreign(tmp_path, "a", CLASSES, KEYS)["maps"]
    np.testing.assert_allclose(maps[0], background[0] / 0.5, atol=1e-4)


def test_several_named_maps_of_some_classes(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", keys=np.array([3, 1]), cam=MAPS[:2], other=MAPS[1:])
    maps = read_foreign(tmp_path, "a", CLASSES, KEYS)
    assert list(maps) == ["cam", "other"]
    np.testing.assert_allclose(maps["cam"][1], MAPS[1] / MAPS[1].max(), atol=1e-4)
    np.testing.assert_allclose(maps["cam"][2], MAPS[0] / MAPS[0].max(), atol=1e-4)


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_a_grey_png_a_class(tmp_path: Path, depth: type) -> None:
    (tmp_path / "a").mkdir()
    for c in (0, 2):
        Image.fromarray((MAPS[c] * np.iinfo(depth).max).astype(depth)).save(tmp_path / "a" / f"{CLASSES[c]}.png")
    maps = read_foreign(tmp_path, "a", CLASSES, KEYS)["maps"]
    np.testing.assert_allclose(maps[2], MAPS[2] / MAPS[2].max(), atol=0.01)


def test_an_image_without_a_label_is_background(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", MAPS)
    assert (read_foreign(tmp_path, "a", CLASSES, KEYS[:1])["maps"] == 1).all()


def _pickled(folder: Path) -> None:
    np.save(folder / "a.npy", {"keys": KEYS, "cam": MAPS}, allow_pickle=True)


def _few(folder: Path) -> None:
    np.savez(folder / "a.npz", keys=np.array([1]), cam=MAPS[:1])


def _shape(folder: Path) -> None:
    np.save(folder / "a.npy", MAPS[:2])


def _no_keys(folder: Path) -> None:
    np.savez(folder / "a.npz", cam=MAPS)


def _cut(folder: Path) -> None:
    np.savez(folder / "a.npz", keys=KEYS, cam=MAPS)
    (folder / "a.npz").write_bytes((folder / "a.npz").read_bytes()[:100])


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda folder: None, "there is no .*a.npz"),
        (_pickled, "can't be read: .*allow_pickle"),
        (_few, r"no map of the classes \[3\]"),
        (_shape, "expected 3 or 4 maps"),
        (_no_keys, "can't be read: .*keys"),
        (_cut, "can't be read"),
    ],
)
def test_files_that_are_not_as_described_are_refused_by_name(tmp_path: Path, write, words: str) -> None:
    write(tmp_path)
    with pytest.raises(UserError, match=words):
        read_foreign(tmp_path, "a", CLASSES, KEYS)
