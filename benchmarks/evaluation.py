"""Evaluation of 1,449 label maps of VOC's size, read from PNG files: python benchmarks/evaluation.py [MAPS]

Through the stage's own function, in as many threads as there are cores; beside it a confusion matrix as it is often
written, over int64 indices of the counted pixels, for one process.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from common import blobs, in_turn, machine, photograph, verdict
from PIL import Image

from sfc.data.dataset import Dataset, open_folder
from sfc.data.images import write_mask
from sfc.scoring.metrics import confusion
from sfc.stages.evaluation import count

CHANNELS, BOUND = 21, 10.0


def generate(root: Path, number: int) -> Dataset:
    """A split `val` of images with masks, and predictions that differ from them; 40 different ones, repeated."""
    rng = np.random.default_rng(0)
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation", "predictions"):
        (root / folder).mkdir(parents=True)
    names = [f"{i:04d}" for i in range(number)]
    (root / "ImageSets/Segmentation/val.txt").write_text("\n".join(names))
    (root / "classes.txt").write_text("\n".join(f"class{k}" for k in range(1, CHANNELS)))
    different = names[:40]
    for i, name in enumerate(names):
        files = [
            root / folder / f"{name}.{kind}"
            for folder, kind in (("JPEGImages", "jpg"), ("SegmentationClass", "png"), ("predictions", "png"))
        ]
        if name not in different:
            for file in files:
                file.write_bytes((file.parent / f"{different[i % 40]}{file.suffix}").read_bytes())
            continue
        size = (375, 500) if i % 4 else (500, 375)
        mask = blobs(rng, *size, CHANNELS)
        Image.fromarray(photograph(rng, *size)).save(files[0], quality=90)
        write_mask(files[1], mask)
        predicted = np.where(mask == 255, 0, np.roll(mask, int(rng.integers(1, 9)), int(rng.integers(2))))
        write_mask(files[2], np.where(predicted == 255, 0, predicted).astype(np.uint8))
    return open_folder(root)


def by_indices(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """The usual confusion matrix."""
    counted = truth != 255
    index = CHANNELS * truth[counted].astype(np.int64) + predicted[counted]
    return np.bincount(index, minlength=CHANNELS**2).reshape(CHANNELS, CHANNELS)


def main() -> None:
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 1449
    rng = np.random.default_rng(1)
    truth, predicted = blobs(rng, 375, 500, CHANNELS), rng.integers(0, CHANNELS, (375, 500)).astype(np.uint8)
    pair = in_turn(
        {"usual": lambda: by_indices(truth, predicted), "ours": lambda: confusion(truth, predicted, CHANNELS)}, 50
    )
    with tempfile.TemporaryDirectory() as folder:
        data = generate(Path(folder), number)
        split = data.split("val")
        seconds = []
        for _ in range(3):
            begin = time.perf_counter()
            count(data.root / "predictions", data, split).write(data.root, np.arange(1, CHANNELS))
            seconds.append(time.perf_counter() - begin)
    print(f"{number} label maps of 375 x 500; {machine()}")
    print(f"one confusion matrix: usual {pair['usual'] * 1000:.2f} ms, ours {pair['ours'] * 1000:.2f} ms")
    print(verdict("seconds", float(np.median(seconds)), BOUND))


if __name__ == "__main__":
    main()
