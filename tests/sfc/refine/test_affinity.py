"""Paths, pair affinities and the losses of IRN, against loops over pairs."""

from __future__ import annotations

import math

import pytest
import torch

from sfc.data.images import VOID
from sfc.refine.affinity import EPS, affinity_losses, displacement_losses, irn_losses, label_pairs, lines, pair_affinity

RADIUS = 4


@pytest.mark.parametrize(("radius", "destinations"), [(1, 0), (2, 4), (5, 34), (10, 152)])
def test_destinations_lie_in_the_radius_in_one_half_plane(radius: int, destinations: int) -> None:
    found = [line.destination for line in lines(radius)]
    assert len(set(found)) == len(found) == destinations
    for y, x in found:
        assert y * y + x * x < radius * radius and (y > 0 or (y == 0 and x > 0)) and (-y, -x) not in found


def test_a_path_joins_its_ends_inside_their_rectangle() -> None:
    for (dy, dx), pixels in lines(10):
        assert (0, 0) in pixels and (dy, dx) in pixels and len(set(pixels)) == len(pixels)
        for y, x in pixels:
            assert 0 <= y <= dy and min(0, dx) <= x <= max(0, dx)
            assert abs(dy * x - dx * y) / math.hypot(dy, dx) < 1
    lengths = [len(line.pixels) for line in lines(10)]
    assert lengths == sorted(lengths)


@pytest.fixture
def scene() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(0, 3, (2, 9, 10), generator=generator).to(torch.uint8)
    label[torch.rand(label.shape, generator=generator) < 0.2] = VOID
    return torch.randn(2, 1, 9, 10, generator=generator), torch.randn(2, 2, 9, 10, generator=generator), label


def test_losses_are_the_means_over_pairs(scene) -> None:
    logit, displacement, label = scene
    edge = logit.sigmoid()
    sums = {"background": [0.0] * 3, "foreground": [0.0] * 3, "negative": [0.0, 0.0, 0.0]}
    for n in range(2):
        for y in range(9 - RADIUS + 1):
            for x in range(RADIUS - 1, 10 - RADIUS + 1):
                for (dy, dx), pixels in lines(RADIUS):
                    one, two = int(label[n, y, x]), int(label[n, y + dy, x + dx])
                    if VOID in (one, two):
                        continue
                    affinity = 1 - max(float(edge[n, 0, y + py, x + px]) for py, px in pixels)
                    moved = displacement[n, :, y, x] - displacement[n, :, y + dy, x + dx]
                    kind = "negative" if one != two else "foreground" if one else "background"
                    off = torch.tensor([dy, dx]) if kind == "foreground" else 0
                    loss = -math.log(1 + EPS - affinity) if kind == "negative" else -math.log(affinity + EPS)
                    for i, value in enumerate((1, loss, float((moved - off).abs().sum()))):
                        sums[kind][i] += value
    found = irn_losses(logit, displacement, label, RADIUS)
    assert min(counts[0] for counts in sums.values()) > 20
    mean = {kind: total / (count + EPS) for kind, (count, total, _) in sums.items()}
    expected = {
        "positive": (mean["background"] + mean["foreground"]) / 2,
        "negative": mean["negative"],
        "displacement_foreground": sums["foreground"][2] / (2 * sums["foreground"][0] + EPS),
        "displacement_background": sums["background"][2] / (2 * sums["background"][0] + EPS),
    }
    pairs = list(expected.values())
    expected["total"] = sum(pairs) / 2
    assert {name: float(loss) for name, loss in found.items()} == pytest.approx(expected, rel=1e-5)


def test_affinity_is_cut_by_the_strongest_edge_on_the_way() -> None:
    edge = torch.zeros(8, 13)
    edge[:, 6] = 0.75
    affinity = pair_affinity(edge, RADIUS)
    for (_, dx), values in zip([line.destination for line in lines(RADIUS)], affinity, strict=True):
        source = torch.arange(RADIUS - 1, 13 - RADIUS + 1)
        crosses = (torch.minimum(source, source + dx) <= 6) & (torch.maximum(source, source + dx) >= 6)
        assert torch.equal(values < 1, crosses.expand_as(values)) and values.min() >= 0.25


def test_labels_that_are_all_void_give_no_loss_and_no_gradient(scene) -> None:
    logit, displacement, label = scene
    logit.requires_grad_()
    displacement.requires_grad_()
    losses = irn_losses(logit, displacement, torch.full_like(label, VOID), RADIUS)
    assert all(float(loss.detach()) == 0 for loss in losses.values())
    losses["total"].backward()
    assert not logit.grad.any() and not displacement.grad.any()


def test_a_common_centroid_has_no_displacement_loss() -> None:
    y, x = torch.meshgrid(torch.arange(9.0), torch.arange(10.0), indexing="ij")
    to_centroid = torch.stack([4 - y, 5 - x])[None]
    pairs = label_pairs(torch.ones(1, 9, 10, dtype=torch.uint8), RADIUS)
    foreground, background = displacement_losses(to_centroid, pairs, RADIUS)
    assert float(foreground) == pytest.approx(0, abs=1e-6) and float(background) == 0
    foreground, _ = displacement_losses(-to_centroid, pairs, RADIUS)
    assert float(foreground) > 1


def test_right_edges_cost_less_than_wrong_ones() -> None:
    label = torch.zeros(1, 12, 14, dtype=torch.uint8)
    label[..., 7:] = 1
    pairs = label_pairs(label, RADIUS)
    right = torch.full((1, 12, 14), -6.0)
    right[..., 6:8] = 6
    good, bad = (sum(map(float, affinity_losses(logit, pairs, RADIUS))) for logit in (right, -right))
    assert good < 0.5 * bad


@pytest.mark.parametrize("extreme", [-1e4, 1e4])
def test_saturated_edges_have_finite_losses_and_gradients(scene, extreme: float) -> None:
    _, displacement, label = scene
    logit = torch.full((2, 1, 9, 10), extreme, requires_grad=True)
    loss = irn_losses(logit, displacement, label, RADIUS)["total"]
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(logit.grad).all()
