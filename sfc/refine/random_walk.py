"""Random walk over a map, held back by edges (IRN: Ahn, Cho, Kwak, CVPR 2019; method.md section 3).

A step is a weighted mean over the pixels nearer than the radius (69 of them at the published 5), so the walk is applied
step by step: the (hw)^2 transition matrix, whose repeated squaring takes minutes, is never built. Steps are taken in
float64, since 256 of them in float32 collect an error of 1e-4. Suffixes: N images, C maps, K channels with the
background first, a x b a quarter of the image, rounded up.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sfc.affinity import Offset, lines, pair_affinity
from sfc.cam import resize
from sfc.config import Walk

PIECE = 32_768
"""Elements up to which torch works in one thread."""


def step_weights(edge_Nab: Tensor, radius: int, beta: float) -> dict[Offset, Tensor]:
    """Part that each neighbour has in a pixel's next value: column j of the transition matrix, by offset from j.

    Args:
        edge_Nab: probabilities of an edge.
        radius: neighbours are nearer than this.
        beta: power of the affinity, > 0.

    Returns:
        For each offset, (0, 0) first, weights (N, a, b) float64 in [0, 1]; over the offsets they add up to 1.
        Neighbours outside the image weigh 0.
    """
    margin, (height, width) = radius - 1, edge_Nab.shape[-2:]
    # An edge all around makes every pixel a source, and every way out of the image impassable.
    walled = F.pad(edge_Nab.double(), (margin, margin, 0, margin), value=1.0)
    affinity = pair_affinity(walled, radius) ** beta if radius > 1 else []
    weights = {(0, 0): torch.ones_like(edge_Nab, dtype=torch.float64)}
    for line, there in zip(lines(radius), affinity, strict=True):
        dy, dx = line.destination
        weights[dy, dx] = there
        # The affinity is symmetric: seen from the destination, the same pair has the opposite offset.
        room = F.pad(there, (margin, margin, margin, 0))
        weights[-dy, -dx] = room[:, margin - dy :, margin - dx :][:, :height, :width]
    total = torch.stack(list(weights.values())).sum(0)
    return {offset: weight / total for offset, weight in weights.items()}


def random_walk(maps_NCab: Tensor, edge_Nab: Tensor, *, radius: int, beta: float, steps: int) -> Tensor:
    """x T^steps, with x the maps off the edges and T the column-normalised transition matrix.

    Args:
        maps_NCab: maps, >= 0.
        edge_Nab: probabilities of an edge, on the same device.
        radius, beta: of `step_weights`.
        steps: how many.

    Returns:
        (N, C, a, b) float64.
    """
    (number, channels, height, width), margin = maps_NCab.shape, radius - 1
    # Rows lie one after another with `margin` empty pixels between them, so that each neighbour is one contiguous
    # slice. What a slice reads outside the image has weight 0.
    pitch = width + margin
    length, first = height * pitch, margin * pitch + margin
    spread = {o: F.pad(w, (0, margin)).view(number, 1, length) for o, w in step_weights(edge_Nab, radius, beta).items()}
    even, odd = maps_NCab.new_zeros(2, number, channels, length + 2 * first, dtype=torch.float64)
    start = F.pad(maps_NCab.double() * (1 - edge_Nab[:, None].double()), (0, margin))
    even[..., first : first + length] = start.view(number, channels, length)
    # On a CPU, pieces so small that torch does not split them over threads, whose hand-overs would cost more than they
    # gain, and that the target stays in the cache while its neighbours are added. A GPU takes all at once.
    piece = max(1, PIECE // max(1, number * channels)) if even.device.type == "cpu" else length

    def plan(source: Tensor, target: Tensor) -> list[tuple[Tensor, list[tuple[Tensor, Tensor]]]]:
        """Views for one step: each piece of the target with its neighbours' weights and values."""
        pieces = []
        for begin in range(0, length, piece):
            size = min(piece, length - begin)
            at = {o: first + begin + o[0] * pitch + o[1] for o in spread}
            neighbours = [(w[..., begin : begin + size], source[..., at[o] : at[o] + size]) for o, w in spread.items()]
            pieces.append((target[..., at[0, 0] : at[0, 0] + size], neighbours))
        return pieces

    plans = plan(even, odd), plan(odd, even)
    for step in range(steps):
        for target, ((weight, value), *others) in plans[step % 2]:
            torch.mul(weight, value, out=target)
            for weight, value in others:
                target.addcmul_(weight, value)
    last = (even, odd)[steps % 2][..., first : first + length]
    return last.reshape(number, channels, height, pitch)[..., :width].contiguous()


def walk_scores(fused_NKHW: Tensor, edge_Nab: Tensor, section: Walk) -> Tensor:
    """Scores of every channel after the configured walk or walks.

    The `foreground` walk spreads the foreground maps, and a constant background is put in front of the result; the
    `joint` walk spreads the background's map with the others; `both` adds the two, as published. Each is divided by
    its one maximum, so the scale of the maps does not matter.

    Args:
        fused_NKHW: fused maps of images of one size and number of channels, >= 0.
        edge_Nab: their edges.
        section: how.

    Returns:
        (N, K, H, W) float64.
    """
    height, width = fused_NKHW.shape[-2:]
    maps = resize(fused_NKHW.float(), (edge_Nab.shape[-2], edge_Nab.shape[-1]), align_corners=False)
    starts = {"foreground": maps[:, 1:] ** section.power, "joint": maps**section.joint_power}
    chosen = [name for name in starts if section.walks in (name, "both")]
    # The walks share a transition matrix, so their maps go through it together.
    spread = random_walk(
        torch.cat([starts[name] for name in chosen], 1),
        edge_Nab,
        radius=section.radius,
        beta=section.beta,
        steps=section.steps,
    )
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
    return walk_scores(fused_NKHW, edge_Nab, section).argmax(1).to(torch.uint8)
