"""Pixel correlation, forward and backward: by automatic differentiation, as published, and with a gradient of its own.

    python benchmarks/pixel_correlation.py

On the three networks' sizes of map and feature; values and gradients are compared.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from common import in_turn, machine, verdict
from torch import Tensor
from training_step import published_correlation

from sfc.method.cam import EPS
from sfc.method.correlation import pixel_correlation
from sfc.runtime.machine import keep_freed_memory

SIZES = {"small": (10, 11, 16, 48), "mobilenet_v2": (20, 13, 14, 320), "resnet50": (4, 21, 24, 2048)}
"""Images, channels of the map, its side, features."""


def automatic(cam: Tensor, feature: Tensor) -> Tensor:
    """As this project had it before: the norms read off F^T F, gradients by automatic differentiation."""
    vectors = feature.flatten(2)
    product = vectors.transpose(1, 2) @ vectors
    norm = product.diagonal(dim1=1, dim2=2).clamp(min=1e-30).sqrt() + EPS
    affinity = product.relu() / (norm[:, :, None] * norm[:, None, :])
    column_sum = affinity.sum(dim=1, keepdim=True) + EPS
    spread = cam.flatten(2)
    for _ in range(2):
        spread = (spread @ affinity) / column_sum
    return spread.view_as(cam)


def run(function: Callable[[Tensor, Tensor], Tensor], cam: Tensor, feature: Tensor) -> list[Tensor]:
    """Value and gradients."""
    value = function(cam, feature)
    return [value.detach(), *torch.autograd.grad((value * value).sum(), (cam, feature))]


def main() -> None:
    keep_freed_memory()
    ways = {"automatic": automatic, "published": published_correlation, "ours": pixel_correlation}
    print(machine())
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for name, (images, channels, side, features) in SIZES.items():
            torch.manual_seed(0)
            cam = torch.rand(images, channels, side, side, requires_grad=True)
            feature = torch.randn(images, features, side, side, requires_grad=True)
            calls = {way: partial(run, function, cam, feature) for way, function in ways.items()}
            seconds = in_turn(calls, rounds=20, warm=3)
            pairs = zip(calls["ours"](), calls["automatic"](), strict=True)
            apart = max(float((a - b).norm() / b.norm()) for a, b in pairs)
            times = ", ".join(f"{way} {1000 * value:.2f} ms" for way, value in seconds.items())
            print(f"{name}, {threads} threads: {times}; apart {apart:.1e}")
            print("  " + verdict("automatic over ours", seconds["automatic"] / seconds["ours"], 1.8, at_most=False))


if __name__ == "__main__":
    main()
