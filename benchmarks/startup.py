"""What a command costs before and beside its work: python benchmarks/startup.py

`--help` of two commands; a search of tiny trials from its start to the first training; and the same search once more,
with nothing left to do. Each command is a process of its own, as a user starts it.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from common import machine, verdict

ROOT = Path(__file__).resolve().parents[1]
SEARCH = [sys.executable, str(ROOT / "tune" / "search.py")]
SPACE = """
base: synthetic.yaml
parameters: {classifier.options.prototype_weight: {uniform: [0.0, 2.0]}}
published: {classifier.options.prototype_weight: 1.6}
asha: null
budget: {trials: 2, inner: 1}
confirm: []
compare: {seeds: 1, upper_bound: false}
"""
SETTINGS = [
    "classifier.epochs=1",
    "cam.scales=[1.0]",
    "segmentation.epochs=1",
    "evaluation.scales=[1.0]",
    *(f"data.synthetic.{split}={images}" for split, images in (("train", 48), ("select", 12), ("val", 12))),
]
ROUNDS = 3


def seconds(command: list[str], folder: Path) -> tuple[float, float]:
    """Wall and processor seconds of a command."""
    begin, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    busy = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.monotonic() - begin, busy


def first_training(command: list[str], folder: Path) -> float:
    """Seconds from a command's start until its first trial trains; the command then runs to its end."""
    begin = time.monotonic()
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list((folder / "results" / "store" / "classifier").glob("*.partial")):
        assert process.poll() is None, "the search failed"
        time.sleep(0.02)
    started = time.monotonic() - begin
    assert process.wait() == 0
    return started


def main() -> None:
    print(machine())
    starts, again, busy = [], [], []
    with tempfile.TemporaryDirectory() as name:
        for command in ([*SEARCH, "--help"], [sys.executable, "-m", "sfc", "--help"]):
            median = float(np.median([seconds(command, ROOT)[0] for _ in range(5)]))
            print(verdict(f"{' '.join(command[1:]).replace(f'{ROOT}/', '')}, s", median, 0.7))
        for number in range(ROUNDS):
            folder = Path(name, str(number))
            folder.mkdir()
            (folder / "tiny.yaml").write_text(SPACE)
            command = [*SEARCH, "--space", "tiny.yaml", *SETTINGS]
            starts.append(first_training(command, folder))
            wall, processor = seconds(command, folder)
            again.append(wall)
            busy.append(processor)
    print(verdict(f"start of a search to its first training, s, median of {ROUNDS}", float(np.median(starts)), 10))
    print(verdict(f"the same search again, s, median of {ROUNDS}", float(np.median(again)), 8))
    print(f"  of which the processor worked {np.median(busy):.1f} s")


if __name__ == "__main__":
    main()
