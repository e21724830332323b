"""The random walk against the whole transition matrix, and what must hold whatever the maps."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.random_walk import dense_walk
from sfc.config import Walk
from sfc.refine.random_walk import (
    chebyshev_power,
    offsets,
    random_walk,
    step_matrix,
    step_weights,
    walk_labels,
    walk_scores,
)


def maps_and_edge(number: int, channels: int, height: int, width: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.rand(number, channels, height, width, generator=generator),
        torch.rand(number, height, width, generator=generator) ** 3,
    )


def walked(maps: Tensor, edge: Tensor, walk: Walk) -> Tensor:
    return random_walk(maps, edge, radius=walk.radius, beta=walk.beta, steps=walk.steps)


@pytest.mark.parametrize("size", [(12, 15), (7, 6), (3, 20), (20, 2), (1, 9), (1, 1)])
@pytest.mark.parametrize("change", [{}, {"radius": 3, "beta": 2.0}, {"radius": 8, "steps": 16}, {"radius": 1}])
def test_steps_are_powers_of_the_transition_matrix(size: tuple[int, int], change: dict[str, float]) -> None:
    walk = Walk(**change)
    maps, edge = maps_and_edge(2, 3, *size)
    found = walked(maps, edge, walk)
    for one, its_edge, its_maps in zip(found, edge, maps, strict=True):
        torch.testing.assert_close(one, dense_walk(its_maps.double(), its_edge.double(), walk), rtol=1e-6, atol=1e-9)


def test_a_machine_without_mkl_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    maps, edge = maps_and_edge(2, 3, 9, 11)
    expected = walked(maps, edge, Walk(steps=5))
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: False)
    assert step_matrix(edge, 5, 10.0).layout == torch.sparse_coo
    torch.testing.assert_close(walked(maps, edge, Walk(steps=5)), expected, rtol=1e-9, atol=0)


def test_each_image_of_a_batch_walks_alone() -> None:
    maps, edge = maps_and_edge(3, 2, 10, 13)
    together = walked(maps, edge, Walk(steps=31))
    for i in range(3):
        alone = walked(maps[i : i + 1], edge[i : i + 1], Walk(steps=31))
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-9, atol=0)


def test_weights_add_up_to_one_and_reach_69_neighbours_none_outside() -> None:
    _, edge = maps_and_edge(1, 1, 12, 14)
    weights = step_weights(edge, 5, 10.0)
    assert weights.shape == (1, 69, 12, 14) and len(set(offsets(5))) == 69
    torch.testing.assert_close(weights.sum(1), torch.ones(1, 12, 14, dtype=torch.float64))
    for (dy, dx), weight in zip(offsets(5), weights.unbind(1), strict=True):
        rows, columns = torch.arange(12)[:, None] + dy, torch.arange(14) + dx
        outside = (rows < 0) | (rows >= 12) | (columns < 0) | (columns >= 14)
        assert (weight[0][outside] == 0).all() and ((weight[0][~outside] > 0).any() or outside.all())


def test_nothing_passes_a_closed_edge() -> None:
    edge = torch.zeros(1, 16, 24)
    edge[:, :, 12] = 1
    maps = torch.zeros(1, 1, 16, 24)
    maps[..., :12] = torch.rand(16, 12)
    found = walked(maps, edge, Walk())
    assert (found[..., 12:] == 0).all()
    inside = found[..., :12]
    assert inside.max() - inside.min() < 0.1 * (maps[..., :12].max() - maps[..., :12].min())


def test_no_steps_return_the_maps_off_the_edges() -> None:
    maps, edge = maps_and_edge(1, 2, 5, 6)
    torch.testing.assert_close(walked(maps, edge, Walk(steps=0)), (maps * (1 - edge)).double())


def test_a_constant_map_without_edges_stays() -> None:
    found = walked(torch.full((1, 2, 9, 9), 0.3), torch.zeros(1, 9, 9), Walk())
    torch.testing.assert_close(found, torch.full_like(found, 0.3), atol=1e-7, rtol=0)


@pytest.mark.parametrize("walks", ["both", "foreground", "joint"])
@pytest.mark.parametrize(("height", "width"), [(33, 46), (1, 1), (4, 7)])
def test_scores_have_the_image_s_size_and_do_not_depend_on_the_maps_scale(walks: str, height: int, width: int) -> None:
    maps = torch.rand(2, 4, height, width, generator=torch.Generator().manual_seed(1))
    edge = torch.rand(2, -(-height // 4), -(-width // 4), generator=torch.Generator().manual_seed(2)) / 2
    section = Walk(walks=walks, steps=20)
    scores = walk_scores(maps, edge, section)
    assert scores.shape == maps.shape and torch.isfinite(scores).all()
    torch.testing.assert_close(scores, walk_scores(3 * maps, edge, section), rtol=1e-4, atol=1e-5)
    labels = walk_labels(maps, edge, section)
    assert labels.dtype == torch.uint8 and labels.shape == (2, height, width)


def test_both_walks_are_the_sum_of_each() -> None:
    maps, edge = torch.rand(1, 3, 20, 24), torch.rand(1, 5, 6) / 2
    one, two, both = (walk_scores(maps, edge, Walk(walks=w, steps=9)) for w in ("foreground", "joint", "both"))
    torch.testing.assert_close(one + two, both)
    assert (one[:, 0] == Walk().background).all() and one[:, 1:].max() == 1 and two.max() == 1


def test_the_background_is_a_setting() -> None:
    maps, edge = torch.rand(1, 3, 20, 24), torch.rand(1, 5, 6) / 2
    parts = [
        float((walk_labels(maps, edge, Walk(walks="foreground", background=b, steps=2)) == 0).float().mean())
        for b in (0.0, 0.7, 2.0)
    ]
    assert parts[0] == 0 and 0 < parts[1] < 1 and parts[2] == 1


@pytest.mark.parametrize("walks", ["both", "foreground", "joint"])
def test_an_image_without_labels_or_with_empty_maps_is_background(walks: str) -> None:
    edge, section = torch.rand(1, 5, 6), Walk(walks=walks, steps=3)
    assert (walk_labels(torch.rand(1, 1, 20, 24), edge, section) == 0).all()
    empty = torch.zeros(1, 3, 20, 24)
    empty[:, 0] = 0.4
    assert (walk_labels(empty, edge, section) == 0).all()
    assert (walk_labels(torch.zeros(1, 3, 20, 24), torch.ones(1, 5, 6), section) == 0).all()


def test_a_class_without_a_seed_gets_no_pixel_and_disturbs_none() -> None:
    maps, edge = torch.rand(1, 3, 20, 24), torch.rand(1, 5, 6) / 2
    more = torch.cat([maps, torch.zeros(1, 1, 20, 24)], 1)
    assert torch.equal(walk_labels(more, edge, Walk(steps=9)), walk_labels(maps, edge, Walk(steps=9)))


@pytest.mark.parametrize("steps", [0, 1, 2, 7, 256, 1000])
def test_the_short_sum_of_polynomials_is_the_power(steps: int) -> None:
    coefficients = chebyshev_power(steps)
    t = np.cos(np.linspace(0, np.pi, 401))
    assert np.abs(np.polynomial.chebyshev.chebval(t, coefficients) - t**steps).max() < 2e-8
    assert len(coefficients) <= min(steps, math.sqrt(2 * steps * math.log(2e8))) + 1
