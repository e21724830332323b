"""Maps on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from sfc.runtime.map_files import load_maps, save_maps, sum_scales


def random_maps(
    channels: int, sizes: list[tuple[int, int]], names: tuple[str, ...] = ("classifier", "prototype")
) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [{name: torch.rand(channels, *size, generator=generator) for name in names} for size in sizes]


@pytest.mark.parametrize("names", [("classifier", "prototype"), ("z",), ("b", "a", "c_1")])
def test_what_is_loaded_is_what_was_saved_within_float16(tmp_path: Path, names: tuple[str, ...]) -> None:
    keys, maps = np.array([0, 3, 17]), random_maps(3, [(6, 9), (3, 4), (9, 13), (12, 18)], names)
    save_maps(tmp_path / "a.npz", keys, (96, 140), maps)
    loaded = load_maps(tmp_path / "a.npz")
    assert loaded.keys.tolist() == [0, 3, 17] and tuple(loaded.maps) == names and loaded.size == (96, 140)
    for name, got in loaded.maps.items():
        expected = sum_scales([scale[name] for scale in maps], (96, 140))
        assert got.shape == (3, 96, 140) and got.dtype == torch.float32
        torch.testing.assert_close(got, expected, atol=2e-3, rtol=0)
        assert (got - expected).abs().max() > 0
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]


def test_scales_are_summed_at_image_size_and_divided_by_the_maximum() -> None:
    one, two = torch.rand(2, 4, 4), torch.rand(2, 2, 2)
    whole = sum_scales([one, two], (8, 8))
    torch.testing.assert_close(whole.amax((1, 2)), torch.ones(2), atol=1e-4, rtol=0)
    up = [torch.nn.functional.interpolate(m[None], (8, 8), mode="bilinear")[0] for m in (one, two)]
    torch.testing.assert_close(whole, (up[0] + up[1]) / ((up[0] + up[1]).amax((1, 2), keepdim=True) + 1e-5))


def test_a_file_takes_less_than_a_twentieth_of_the_maps_at_full_resolution(tmp_path: Path) -> None:
    height, width, channels = 320, 480, 4
    sizes = [(-(-round(height * s) // 16), -(-round(width * s) // 16)) for s in (1, 0.5, 1.5, 2)]
    save_maps(tmp_path / "a.npz", np.arange(channels), (height, width), random_maps(channels, sizes))
    full = 2 * channels * height * width * 4
    assert (tmp_path / "a.npz").stat().st_size < full / 20
    assert sum(m.nbytes for m in load_maps(tmp_path / "a.npz").maps.values()) == full


def test_a_map_of_zeros_stays_one(tmp_path: Path) -> None:
    save_maps(tmp_path / "a.npz", np.array([0]), (5, 7), [{"classifier": torch.zeros(1, 1, 1)}])
    cam = load_maps(tmp_path / "a.npz").maps["classifier"]
    assert (cam == 0).all() and cam.shape == (1, 5, 7)
