"""What the benchmarks share: times in turn, so that a change of the machine's speed meets all, and the machine."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch

from sfc.runtime.machine import available_cpus


def in_turn(calls: Mapping[str, Callable[[], object]], rounds: int, warm: int = 1) -> dict[str, float]:
    """Median seconds of each call over `rounds`, after `warm` that do not count."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(warm + rounds):
        for name, call in calls.items():
            begin = time.perf_counter()
            call()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if number >= warm:
                seconds[name].append(time.perf_counter() - begin)
    return {name: float(np.median(values)) for name, values in seconds.items()}


def machine() -> str:
    """Processor, cores that may be used, GPU, torch."""
    cpuinfo = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{names[0] if names else platform.machine()}, {available_cpus()} cores{gpu}, torch {torch.__version__}"


def verdict(what: str, value: float, bound: float, *, at_most: bool = True) -> str:
    """`what: value (at most bound: met)`."""
    met = value <= bound if at_most else value >= bound
    side = "at most" if at_most else "at least"
    return f"{what}: {value:.4g} ({side} {bound:g}: {'met' if met else 'MISSED'})"


def photograph(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """(H, W, 3) uint8 with edges, gradients and grain, so that JPEG and CRF have a photograph's work."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    image = 90 + 40 * np.sin(x[..., None] / rng.uniform(20, 90, 3) + y[..., None] / rng.uniform(20, 90, 3))
    for _ in range(25):
        cy, cx, r = rng.uniform(0, height), rng.uniform(0, width), rng.uniform(8, height / 3)
        image[(y - cy) ** 2 + (x - cx) ** 2 < r * r] += rng.uniform(-60, 60, 3)
    return np.clip(image + rng.normal(0, 8, image.shape), 0, 255).astype(np.uint8)


def blobs(rng: np.random.Generator, height: int, width: int, channels: int, labels: int = 2) -> np.ndarray:
    """(H, W) uint8 label map as VOC's: background, a few ellipses of few classes, each with a rim of void."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    mask = np.zeros((height, width), np.uint8)
    for k in rng.integers(1, channels, labels):
        cy, cx = rng.uniform(0, height), rng.uniform(0, width)
        distance = np.hypot((y - cy) / rng.uniform(40, height / 2), (x - cx) / rng.uniform(40, width / 2))
        mask[distance < 1.05] = 255
        mask[distance < 1] = k
    return mask
