"""Dense CRF over 64 images of 375 x 500: one process against all cores: python benchmarks/crf.py [PRESET] [IMAGES]

Rates count the CRFs alone: what starting the processes costs is printed beside them. So are the seconds of processor
time, which on a busy machine say more about what one process costs another than the rates do.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

import numpy as np
from common import blobs, machine, photograph, verdict

from sfc.refine.crf import PRESETS, crf_probabilities
from sfc.runtime.engine import LocalEngine
from sfc.runtime.machine import available_cpus

CHANNELS = 6


def scene(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Image (H, W, 3) uint8 and probabilities (K, H, W) float32."""
    rng = np.random.default_rng(number)
    mask = blobs(rng, 375, 500, CHANNELS)
    logits = 3 * (np.arange(CHANNELS)[:, None, None] == mask) + rng.normal(0, 1, (CHANNELS, 375, 500))
    probability = np.exp(logits) / np.exp(logits).sum(0)
    return photograph(rng, 375, 500), probability.astype(np.float32)


def work(indices: Sequence[int]) -> tuple[float, float, float, int]:
    """CRFs of some images: when they began and ended, seconds of the processor, pixels that are foreground."""
    scenes = [scene(i) for i in indices]
    begin, busy = time.time(), time.process_time()
    foreground = sum(int((crf_probabilities(*s, PRESETS[PRESET]) > 0).sum()) for s in scenes)
    return begin, time.time(), time.process_time() - busy, foreground


PRESET, IMAGES = sys.argv[1] if len(sys.argv) > 1 else "deeplab", int(sys.argv[2]) if len(sys.argv) > 2 else 64


def main() -> None:
    cores = available_cpus()
    pieces = [range(start, IMAGES, cores) for start in range(cores)]
    rates = {}
    for processes, items in ((1, [range(IMAGES)]), (cores, pieces)):
        begin = time.time()
        parts = list(LocalEngine(processes).map(work, items))
        first, last = min(p[0] for p in parts), max(p[1] for p in parts)
        busy, foreground = sum(p[2] for p in parts), sum(p[3] for p in parts)
        rates[processes] = IMAGES / (last - first), IMAGES / (time.time() - begin), busy, foreground
    (one, one_all, one_busy, foreground), (many, many_all, many_busy, same) = rates[1], rates[cores]
    assert foreground == same, "the number of processes changed the labels"
    print(f"{IMAGES} images of 375 x 500, {CHANNELS} classes, preset {PRESET}; {machine()}")
    print(f"one process {one:.2f} images/s, {one_all:.2f} with its start; {one_busy:.1f} s of the processor")
    print(f"{cores} processes {many:.2f} images/s, {many_all:.2f} with theirs; {many_busy:.1f} s of the processor")
    print(verdict(f"rate over one process's, per core of {cores}", many / one / cores, 0.9, at_most=False))


if __name__ == "__main__":
    main()
