"""Images a second of the data loader against those of the training step: python benchmarks/loader.py [--gpu]

JPEGs of VOC's size, the published augmentation at crop 512, read as the training reads them. The step is that of
benchmarks/training_step.py (on a CPU 384 x 384, which is faster than 512 x 512 and so the harder comparison).
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from common import in_turn, machine, photograph, verdict
from PIL import Image
from torch.utils.data import DataLoader
from training_step import step

from sfc.config import Classifier
from sfc.data.crops import Augmentation, Crops
from sfc.data.dataset import open_folder
from sfc.method.image_bank import Recipe
from sfc.runtime.machine import available_cpus

IMAGES, BATCH = 160, 20


def generate(root: Path) -> None:
    for folder in ("JPEGImages", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    rng = np.random.default_rng(0)
    names = [f"{i:03d}" for i in range(IMAGES)]
    different = [photograph(rng, *((375, 500) if i % 4 else (500, 375))) for i in range(16)]
    for i, name in enumerate(names):
        Image.fromarray(different[i % 16]).save(root / f"JPEGImages/{name}.jpg", quality=90)
    (root / "ImageSets/Segmentation/train.txt").write_text("\n".join(names))
    (root / "classes.txt").write_text("thing\n")
    (root / "image_labels.csv").write_text("image,labels\n" + "".join(f"{name},thing\n" for name in names))


def rate(crops: Crops, workers: int) -> float:
    """Images a second of a second pass, so that starting the workers does not count."""
    batches = [[Recipe(i, 0) for i in range(start, start + BATCH)] for start in range(0, IMAGES, BATCH)]
    loader = DataLoader(crops, batch_sampler=batches, num_workers=workers, persistent_workers=workers > 0)
    for _ in loader:
        pass
    begin = time.perf_counter()
    for _ in loader:
        pass
    return IMAGES / (time.perf_counter() - begin)


def main() -> None:
    gpu, cores = "--gpu" in sys.argv, available_cpus()
    torch.set_num_threads(cores)
    workers = min(8, cores)
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        data, section = open_folder(Path(folder)), Classifier()
        crops = Crops(data, data.split("train"), Augmentation(512, flip=True, resize_long=section.resize_long), seed=0)
        alone, together = rate(crops, 0), rate(crops, workers)
    seconds = in_turn({"step": step("sfc", gpu)}, rounds=20 if gpu else 3)["step"]
    trained = (20 if gpu else 4) / seconds
    print(f"JPEGs of 375 x 500, crop 512; {machine()}")
    print(f"loader: {alone:.1f} images/s in the training process, {together:.1f} with {workers} workers")
    print(f"training step: {trained:.1f} images/s")
    used = together if gpu else alone  # `LocalEngine` reads in the training process where there is no GPU
    print(verdict("loader over training step", used / trained, 1, at_most=False))


if __name__ == "__main__":
    main()
