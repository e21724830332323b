"""Random walk over a map, held back by edges (IRN: Ahn, Cho, Kwak, CVPR 2019).

A step is a weighted mean over the pixels nearer than the radius (69 of them at the published 5), so the walk is a chain
of sparse products: squaring the dense (hw)^2 transition matrix would take long and much memory. The products are
float64, since 256 of them in float32 collect an error of 1e-4.

Suffixes: N images, C maps, K channels with the background first, O offsets, a x b a quarter of the image, rounded up.
"""

from __future__ import annotations

import math
import warnings
from functools import cache, lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from sfc.config import Walk
from sfc.method.cam import resize
from sfc.refine.affinity import Offset, lines, pair_affinity

TOLERANCE = 1e-8
"""Largest error allowed between the polynomial walk and the step-by-step walk."""


@cache
def offsets(radius: int) -> tuple[Offset, ...]:
    """Offsets of all pixels nearer than `radius`, the pixel itself among them, row by row."""
    half = [line.destination for line in lines(radius)]
    return tuple(sorted([(0, 0), *half, *((-y, -x) for y, x in half)]))


def step_weights(edge_Nab: Tensor, radius: int, beta: float) -> Tensor:
    """Weight of each neighbour in a pixel's next value: column j of the transition matrix, by offset from j.

    Args:
        edge_Nab: probabilities of an edge.
        radius: neighbours are nearer than this.
        beta: power of the affinity, > 0.

    Returns:
        (N, O, a, b) float64 in [0, 1] by `offsets`, with a sum of 1 over them. Neighbours outside the image weigh 0.
    """
    margin, (height, width) = radius - 1, edge_Nab.shape[-2:]
    # An edge all around makes every pixel a source, and every way out of the image impassable.
    walled = F.pad(edge_Nab.double(), (margin, margin, 0, margin), value=1.0)
    affinity = pair_affinity(walled, radius) ** beta if radius > 1 else torch.empty(0)
    weights = {(0, 0): torch.ones_like(edge_Nab, dtype=torch.float64)}
    for line, weight in zip(lines(radius), affinity, strict=True):
        dy, dx = line.destination
        weights[dy, dx] = weight
        # The affinity is symmetric: the same pair has the opposite offset at its destination.
        padded = F.pad(weight, (margin, margin, margin, 0))
        weights[-dy, -dx] = padded[:, margin - dy :, margin - dx :][:, :height, :width]
    stacked = torch.stack([weights[offset] for offset in offsets(radius)], 1)
    return stacked / stacked.sum(1, keepdim=True)


@lru_cache(maxsize=8)
def _pattern(height: int, width: int, radius: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Entries of a step's matrix that are not zero, for maps of one size; most images share a few sizes.

    Returns:
        Start of each row (hw + 1,) and column of each entry, int32, as in compressed sparse rows; position of each
        entry in a flattened (O, h, w), int64.
    """
    dy, dx = torch.tensor(offsets(radius), device=device).unbind(1)
    y = torch.arange(height, device=device)[:, None, None] + dy
    x = torch.arange(width, device=device)[:, None] + dx
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    column = (y * width + x)[inside]
    pixel, offset = inside.flatten(0, 1).nonzero().unbind(1)
    start = F.pad(inside.flatten(0, 1).sum(1).cumsum(0), (1, 0))
    return start.int(), column.int(), offset * (height * width) + pixel


def step_matrix(edge_Nab: Tensor, radius: int, beta: float) -> Tensor:
    """The step of `step_weights` as a sparse matrix (N hw, N hw) float64, one block an image, for maps as columns."""
    number, pixels = len(edge_Nab), edge_Nab[0].numel()
    start, column, position = _pattern(*edge_Nab.shape[-2:], radius, edge_Nab.device)
    image = torch.arange(number, dtype=torch.int32, device=edge_Nab.device)[:, None]
    starts = torch.cat([(start[:-1] + image * len(column)).flatten(), start[-1:] * number])
    values = step_weights(edge_Nab, radius, beta).flatten(1)[:, position].flatten()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        size = (number * pixels, number * pixels)
        columns = (column + image * pixels).flatten()
        matrix = torch.sparse_csr_tensor(starts, columns, values, size, check_invariants=False)
        # Without MKL torch multiplies on a CPU by another layout alone, which is slower.
        return matrix if matrix.is_cuda or torch.backends.mkl.is_available() else matrix.to_sparse_coo()


def chebyshev_power(steps: int, tolerance: float = TOLERANCE) -> list[float]:
    """Coefficients c_k of the shortest sum of Chebyshev polynomials that is t^steps on [-1, 1] within `tolerance`.

    t^n = 2^(1-n) sum of C(n, (n-k)/2) T_k(t), k of n's parity, half of it for k = 0. The coefficients add up to 1, so
    the error without the last ones is at most their sum: about sqrt(2 n log(2 / tolerance)) are enough (Sachdeva and
    Vishnoi, "Faster Algorithms via Approximation Theory", 2014, theorem 3.3).
    """
    coefficients = [0.0] * (steps + 1)
    for k in range(steps % 2, steps + 1, 2):
        coefficients[k] = math.comb(steps, (steps - k) // 2) / (1 << steps) * (2 if k else 1)
    left_out = 0.0
    while len(coefficients) > 1 and left_out + coefficients[-1] <= tolerance:
        left_out += coefficients.pop()
    return coefficients


def random_walk(maps_NCab: Tensor, edge_Nab: Tensor, *, radius: int, beta: float, steps: int) -> Tensor:
    """x T^steps, with x the maps off the edges and T the column-normalised transition matrix.

    T is similar to a symmetric matrix with eigenvalues in [-1, 1] (the affinity between the roots of its column sums),
    so T^steps is a short sum of Chebyshev polynomials: 90 products for the 256 steps.

    Args:
        maps_NCab: maps, >= 0.
        edge_Nab: probabilities of an edge, on the same device.
        radius, beta: as in `step_weights`.
        steps: number of steps.

    Returns:
        (N, C, a, b) float64.
    """
    number, channels, height, width = maps_NCab.shape
    step = step_matrix(edge_Nab, radius, beta)
    x = (maps_NCab.double() * (1 - edge_Nab[:, None].double())).movedim(1, -1)
    x = x.reshape(number * height * width, channels)
    coefficients = chebyshev_power(steps)
    total, before, now = coefficients[0] * x, x, x
    for k, coefficient in enumerate(coefficients[1:], start=1):  # T_k+1(t) = 2 t T_k(t) - T_k-1(t)
        before, now = now, step @ x if k == 1 else torch.addmm(before, step, now, beta=-1, alpha=2)
        if coefficient:
            total += coefficient * now
    # Without the last polynomials some values lie just below 0.
    return total.clamp_(min=0).view(number, height, width, channels).movedim(-1, 1).contiguous()


def walk_scores(fused_NKHW: Tensor, edge_Nab: Tensor, section: Walk) -> Tensor:
    """Scores of every channel after the configured walk or walks.

    The `foreground` walk spreads the foreground maps, and a constant background is put in front of the result; the
    `joint` walk spreads the background's map with the others; `both` adds the two, as published. Each result is divided
    by its maximum, so the scale of the maps does not matter.

    Args:
        fused_NKHW: fused maps of images of one size and number of channels, >= 0.
        edge_Nab: probabilities of an edge.
        section: the walks.

    Returns:
        (N, K, H, W) float64.
    """
    height, width = fused_NKHW.shape[-2:]
    maps = resize(fused_NKHW.float(), (edge_Nab.shape[-2], edge_Nab.shape[-1]), align_corners=False)
    starts = {"foreground": maps[:, 1:] ** section.power, "joint": maps**section.joint_power}
    chosen = [name for name in starts if section.walks in (name, "both")]
    # The walks share a transition matrix, so their maps go through it together.
    together = torch.cat([starts[name] for name in chosen], 1)
    spread = random_walk(together, edge_Nab, radius=section.radius, beta=section.beta, steps=section.steps)
    total = torch.zeros_like(fused_NKHW, dtype=torch.float64)
    for name, part in zip(chosen, spread.split([starts[name].shape[1] for name in chosen], 1), strict=True):
        if not part.numel():  # no foreground
            continue
        large = F.interpolate(part, scale_factor=4, mode="bilinear", align_corners=False)[..., :height, :width]
        large = large / large.amax(dim=(1, 2, 3), keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
        if name == "foreground":
            large = F.pad(large, (0, 0, 0, 0, 1, 0), value=section.background)
        total += large
    return total


def walk_labels(fused_NKHW: Tensor, edge_Nab: Tensor, section: Walk) -> Tensor:
    """Pseudo-labels (N, H, W) uint8, indices into the K channels; arguments as in `walk_scores`."""
    return walk_scores(fused_NKHW, edge_Nab, section).max(1).indices.to(torch.uint8)
