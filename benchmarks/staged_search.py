"""What searching the later stages inside each trial saves: python benchmarks/staged_search.py [--seeds 3].

The default space without its start points (which were found by hand), searched in two levels and flat: the same
parameters, sampler and stopping. For each seed of the sampler it prints the seconds until the best complete trial is as
good as the worse of both searches' ends, and seed mIoU on val, whose masks choose nothing, of both ends.
"""

import argparse
import os
import tempfile
from pathlib import Path

import numpy as np
import torch
import yaml
from common import machine
from rich.console import Console

from sfc.runtime.engine import LocalEngine
from tune import search
from tune.cluster.configurations import Goal, run_config
from tune.space.space_file import SPACES
from tune.study.study import best_config, complete, load_study

TRIALS = {"staged": 12, "flat": 30}


def space_file(folder: Path, kind: str, seed: int) -> Path:
    """The default space on a budget."""
    space = yaml.safe_load((SPACES / "msdw.yaml").read_text(encoding="utf-8"))
    space["start"] = []
    space["budget"] = {"trials": TRIALS[kind], "inner": 10 if kind == "staged" else 0, "seed": seed}
    path = folder / f"{kind}.yaml"
    path.write_text(yaml.safe_dump(space, sort_keys=False), encoding="utf-8")
    return path


def run(folder: Path, kind: str, seed: int) -> tuple[list[tuple[float, float]], float]:
    """Search: (seconds since the start, best so far) of each complete trial, and seed mIoU on val of the end."""
    results = folder / f"{kind}-{seed}"
    words = ["--space", str(space_file(folder, kind, seed)), "--study", kind, "--results", str(results)]
    options = search.parser().parse_intermixed_args(words)
    options.words = words
    search.search(options, Console(quiet=True), final=False)
    study = load_study(kind, results)
    begin = min(t.user_attrs["started"] for t in study.trials if "started" in t.user_attrs)
    ended = sorted((t.user_attrs["started"] + t.user_attrs["seconds"] - begin, t.value or 0.0) for t in complete(study))
    best = np.maximum.accumulate([value for _, value in ended])
    numbers = run_config(best_config(study), results / "store", LocalEngine(1), Goal(sweep=False, until="seed"))
    return [(at, float(value)) for (at, _), value in zip(ended, best, strict=True)], numbers["metrics"]["seed_val/miou"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    seeds = parser.parse_args().seeds
    torch.set_num_threads(1)
    print(machine(), f"trials: {TRIALS}")
    ratios, gains = [], []
    with tempfile.TemporaryDirectory() as name:
        os.chdir(name)
        for seed in range(seeds):
            curves, val = {}, {}
            for kind in TRIALS:
                curves[kind], val[kind] = run(Path(name), kind, seed)
            reached = min(curve[-1][1] for curve in curves.values())
            first = {kind: next(at for at, value in curve if value >= reached) for kind, curve in curves.items()}
            ratios.append(first["flat"] / first["staged"])
            gains.append(val["staged"] - val["flat"])
            ends = ", ".join(f"{k} {c[-1][1]:.4f} after {c[-1][0]:.0f} s, val {val[k]:.4f}" for k, c in curves.items())
            at = ", ".join(f"{kind} {seconds:.0f} s" for kind, seconds in first.items())
            print(f"seed {seed}: {ends}; {reached:.4f} is reached by {at}: ratio {ratios[-1]:.2f}", flush=True)
    print(f"flat / staged, time to the same objective: median {np.median(ratios):.2f}, all {np.round(ratios, 2)}")
    print(f"staged - flat, val seed mIoU of the ends in points: {np.round(100 * np.array(gains), 2)}")


if __name__ == "__main__":
    main()
