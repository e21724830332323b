"""Pairwise affinity of pixels from an edge map, and the losses that train it (IRN: Ahn, Cho, Kwak, CVPR 2019).

Suffixes: N images, P destinations, h x w the map's size, s x t the sources. A source is a pixel from which every
destination within the radius R lies in the map: rows 0 to h - R, columns R - 1 to w - R, both inclusive.
"""

from __future__ import annotations

from functools import cache
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from sfc.data.images import VOID

EPS = 1e-5
Offset = tuple[int, int]
"""Rows down, columns right."""


class Line(NamedTuple):
    """A destination by its offset from the source, and the pixels between the two, both ends among them."""

    destination: Offset
    pixels: tuple[Offset, ...]


@cache
def lines(radius: int) -> tuple[Line, ...]:
    """Destinations nearer than `radius` in one half plane, with their paths, ordered by the number of pixels. A path is
    every pixel of the bounding rectangle that is less than 1 from the straight line."""
    right = [(0, x) for x in range(1, radius)]
    below = [(y, x) for y in range(1, radius) for x in range(-radius + 1, radius) if x * x + y * y < radius * radius]

    def between(dy: int, dx: int) -> tuple[Offset, ...]:
        rectangle = product(range(dy + 1), range(min(0, dx), max(0, dx) + 1))
        return tuple((y, x) for y, x in rectangle if (dy * x - dx * y) ** 2 < dy * dy + dx * dx)

    return tuple(sorted((Line(d, between(*d)) for d in right + below), key=lambda line: len(line.pixels)))


def seen_from_sources(x: Tensor, offset: Offset, radius: int) -> Tensor:
    """The pixel at an offset from every source: (..., h, w) -> a view (..., s, t)."""
    (dy, dx), margin = offset, radius - 1
    height, width = x.shape[-2] - margin, x.shape[-1] - 2 * margin
    return x[..., dy : dy + height, margin + dx : margin + dx + width]


def pair_affinity(edge: Tensor, radius: int) -> Tensor:
    """1 - the strongest edge on the way to each destination.

    Args:
        edge: (..., h, w) probabilities of an edge.
        radius: R; h >= R and w >= 2 R - 1.

    Returns:
        (P, ..., s, t), destinations in the order of `lines`.
    """
    # max() keeps the winner's index for the backward pass, where amax() would keep every path.
    strongest = [
        torch.stack([seen_from_sources(edge, pixel, radius) for pixel in line.pixels]).max(0).values
        for line in lines(radius)
    ]
    return 1 - torch.stack(strongest)


class Pairs(NamedTuple):
    """Which pairs count, each (P, N, s, t) float32 in {0, 1}; a pair with a void end counts nowhere."""

    background: Tensor
    """Both ends are background."""
    foreground: Tensor
    """Both ends are of one foreground class."""
    negative: Tensor
    """The ends differ."""


def label_pairs(label_Nhw: Tensor, radius: int) -> Pairs:
    """Compare every source's label with those of its destinations. label_Nhw: uint8, 0 = background, 255 = void."""
    source = seen_from_sources(label_Nhw, (0, 0), radius)
    target = torch.stack([seen_from_sources(label_Nhw, line.destination, radius) for line in lines(radius)])
    valid, equal = (source != VOID) & (target != VOID), source == target
    return Pairs(
        (valid & equal & (source == 0)).float(), (valid & equal & (source != 0)).float(), (valid & ~equal).float()
    )


def _masked_mean(loss: Tensor, mask: Tensor) -> Tensor:
    return (loss * mask).sum() / (mask.sum() + EPS)


def affinity_losses(edge_logit_Nhw: Tensor, pairs: Pairs, radius: int) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the affinity.

    Args:
        edge_logit_Nhw: the edge branch.
        pairs: from `label_pairs` at the same radius R.
        radius: R.

    Returns:
        Scalars: positive pairs (background and foreground weigh the same), negative pairs.
    """
    affinity = pair_affinity(edge_logit_Nhw.float().sigmoid(), radius)
    positive, negative = -(affinity + EPS).log(), -(1 + EPS - affinity).log()
    same = (_masked_mean(positive, pairs.background) + _masked_mean(positive, pairs.foreground)) / 2
    return same, _masked_mean(negative, pairs.negative)


def displacement_losses(displacement_N2hw: Tensor, pairs: Pairs, radius: int) -> tuple[Tensor, Tensor]:
    """Displacements to a common centroid: within an object they differ by the offset, within the background by nothing.

    Args:
        displacement_N2hw: (y, x) of every pixel.
        pairs: from `label_pairs` at the same radius R.
        radius: R.

    Returns:
        Scalars: foreground, background.
    """
    displacement = displacement_N2hw.float()
    source = seen_from_sources(displacement, (0, 0), radius)
    foreground, background = displacement.new_zeros(()), displacement.new_zeros(())
    for line, in_foreground, in_background in zip(lines(radius), pairs.foreground, pairs.background, strict=True):
        difference = source - seen_from_sources(displacement, line.destination, radius)
        offset = displacement.new_tensor(line.destination)[:, None, None]
        foreground = foreground + ((difference - offset).abs().sum(1) * in_foreground).sum()
        background = background + (difference.abs().sum(1) * in_background).sum()
    return foreground / (2 * pairs.foreground.sum() + EPS), background / (2 * pairs.background.sum() + EPS)


def irn_losses(edge_logit: Tensor, displacement: Tensor, label_Nhw: Tensor, radius: int) -> dict[str, Tensor]:
    """Scalar losses of IRN by name; `total` = (positive + negative + both of the displacement) / 2.

    Args:
        edge_logit: (N, 1, h, w).
        displacement: (N, 2, h, w).
        label_Nhw: uint8, 255 = void.
        radius: R.
    """
    pairs = label_pairs(label_Nhw, radius)
    positive, negative = affinity_losses(edge_logit[:, 0], pairs, radius)
    foreground, background = displacement_losses(displacement, pairs, radius)
    return {
        "positive": positive,
        "negative": negative,
        "displacement_foreground": foreground,
        "displacement_background": background,
        "total": (positive + negative) / 2 + (foreground + background) / 2,
    }
