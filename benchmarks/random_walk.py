"""The random walk as steps on the neighbours against the dense formulation: python benchmarks/random_walk.py [--quick].

Each formulation runs in a process of its own, for its time and its peak of memory. The dense one is that of
the published code: the whole (hw)^2 transition matrix, squared until it stands for all steps.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor

from sfc.config import Walk
from sfc.refine.affinity import lines
from sfc.refine.random_walk import random_walk

MAPS = 3
REPEATS = 5


def dense_walk(maps_Cab: Tensor, edge_ab: Tensor, walk: Walk) -> Tensor:
    """The same walk by the transition matrix of all pairs of pixels, in the precision of the edges."""
    height, width = edge_ab.shape
    row, column = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    row, column = row.flatten(), column.flatten()
    affinity = torch.eye(height * width, dtype=edge_ab.dtype)
    for line in lines(walk.radius):
        dy, dx = line.destination
        inside = (row + dy < height) & (column + dx >= 0) & (column + dx < width)
        y, x = row[inside], column[inside]
        on_the_way = torch.stack([edge_ab[y + py, x + px] for py, px in line.pixels])
        source, target = y * width + x, (y + dy) * width + x + dx
        affinity[source, target] = affinity[target, source] = 1 - on_the_way.amax(0)
    transition = affinity**walk.beta
    transition /= transition.sum(0, keepdim=True)
    for _ in range(walk.steps.bit_length() - 1):
        transition = transition @ transition
    return ((maps_Cab * (1 - edge_ab)).flatten(1) @ transition).view_as(maps_Cab)


def inputs(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Smooth maps (C, a, b) and an edge map (a, b) with closed outlines, seeded."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(1, MAPS + 1, 6, 8, generator=generator)
    smooth = torch.nn.functional.interpolate(noise, (height, width), mode="bicubic").clamp(0, 1)[0]
    outline = torch.exp(-(((smooth[0] - 0.5) / 0.05) ** 2))
    return smooth[1:], (0.9 * outline + 0.05 * torch.rand(height, width, generator=generator)).clamp(0, 1)


def measure(kind: str, height: int, width: int, out: Path) -> None:
    """Run one formulation; leave its result in `out` and print its seconds and peak of memory as JSON."""
    torch.set_num_threads(2 if kind == "dense" else 1)  # one, as in the processes that make pseudo-labels
    walk, (maps, edge) = Walk(), inputs(height, width)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = []
    for _ in range(REPEATS if kind == "steps" else 1):
        begin = time.perf_counter()
        if kind == "steps":
            result = random_walk(maps[None], edge[None], radius=walk.radius, beta=walk.beta, steps=walk.steps)[0]
        else:
            result = dense_walk(maps, edge, walk)
        seconds.append(time.perf_counter() - begin)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    torch.save(result.double(), out)
    print(json.dumps({"seconds": sorted(seconds)[len(seconds) // 2], "peak": peak / 2**20, "before": before / 2**20}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="24 x 32 instead of 72 x 96")
    parser.add_argument("--measure", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        kind, height, width, out = options.measure
        measure(kind, int(height), int(width), Path(out))
        return

    def run(kind: str, height: int, width: int, out: Path) -> dict[str, float]:
        words = [sys.executable, __file__, "--measure", kind, str(height), str(width), str(out)]
        return json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)

    size = (24, 32) if options.quick else (72, 96)
    with tempfile.TemporaryDirectory() as name:
        files = {kind: Path(name, f"{kind}.pt") for kind in ("dense", "steps")}
        runs = {kind: run(kind, *size, file) for kind, file in files.items()}
        dense, steps = (torch.load(files[kind], weights_only=True) for kind in ("dense", "steps"))
        large = run("steps", 128, 128, files["steps"])
    title = f"{size[0]} x {size[1]}, {MAPS} maps, {Walk().steps} steps, CPU; dense: 2 threads, steps: 1"
    print(f"{title}\n{'':8}{'seconds':>10}{'peak GiB':>10}")
    for kind, row in runs.items():
        print(f"{kind:8}{row['seconds']:10.3f}{row['peak']:10.2f}")
    print(f"steps are {runs['dense']['seconds'] / runs['steps']['seconds']:.0f} x as fast as dense squaring")
    difference = (steps - dense).abs().max() / dense.abs().max()
    print(
        f"largest difference {difference:.1e} of the largest value, {(steps - dense).norm() / dense.norm():.1e} in norm"
    )
    print(
        f"at 128 x 128: {large['seconds']:.3f} s, peak {large['peak']:.2f} GiB, of which {large['before']:.2f} GiB are "
        "the libraries"
    )


if __name__ == "__main__":
    main()
