"""Seconds of every stage for an image of VOC's and of COCO's size, on this machine's GPU or on one of its cores.

    python benchmarks/stage_costs.py costs.json [--images 4]

Runs voc.yaml and coco14.yaml through all their stages on a few images that it makes: JPEGs of 375 x 500 with 2 labels
each, and of 480 x 640 with 3; networks start from random weights, which take the same time. What it writes is what
benchmarks/scaling.py counts with. Trainings are timed by the last step. On a GPU take 64 images, so that the
batches are the published ones; by default they are half of the images.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from common import blobs, machine, photograph
from PIL import Image

from sfc.config.files import change_config, load_config
from sfc.data.images import write_mask
from sfc.pipeline import Pipeline
from sfc.refine.irn import IRN
from sfc.runtime.engine import Item, LocalEngine, Output, default_device, numerics
from sfc.runtime.store import Store
from sfc.runtime.training import load
from sfc.stages import affinity, edges, evaluation, labels, maps, proxies, seeds
from sfc.stages.spec import Work

SETS = {"voc": (20, 375, 500, 2), "coco14": (80, 480, 640, 3)}
"""Classes, height, width, labels of an image."""
NAMES = {
    maps._infer_shard: "maps",
    seeds._shard: "seeds",
    proxies._scores: "scores",
    proxies._agreement: "agreement",
    affinity._label_shard: "irn labels",
    edges._shard: "edges",
    labels._shard: "labels",
    evaluation._predict: "prediction",
    evaluation._refine: "prediction crf",
}
"""Names in the tables of the functions that stages map over shards."""


CLOCK = time.perf_counter if default_device().type == "cuda" else time.process_time
"""On a core that others may use too, the processor's own time says more."""


class Timed(LocalEngine):
    """Works in this process, and notes when a training made its steps, and seconds and images of what is mapped."""

    def __init__(self) -> None:
        super().__init__(1)
        self.steps: dict[str, list[float]] = defaultdict(list)
        self.seconds: dict[str, float] = defaultdict(float)
        self.images: Counter[str] = Counter()

    def train(self, loop: Callable[..., None], *args: Any, folder: Path) -> None:
        steps = self.steps[folder.parent.name]
        self.watched = lambda: nullcontext(lambda: steps.append(CLOCK()))
        super().train(loop, *args, folder=folder)
        self.watched = lambda: nullcontext(lambda: None)

    def step(self, stage: str) -> float:
        """Seconds of the last step, which has the one before it in the same epoch."""
        return self.steps[stage][-1] - self.steps[stage][-2]

    def map(self, function: Callable[[Item], Output], items: Iterable[Item], *, gpu: bool = False) -> Iterator[Output]:
        assert isinstance(function, partial)
        name = NAMES[function.func]
        items, begin = list(items), CLOCK()
        yield from list(super().map(function, items, gpu=gpu))
        self.seconds[name] += CLOCK() - begin
        self.images[name] += sum(len(cast("range", item)) for item in items)


def make_images(root: Path, images: int, classes: int, height: int, width: int, number: int) -> None:
    """A folder in VOC layout: `images` images in each of train and val, with `number` labels each."""
    rng = np.random.default_rng(0)
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    (root / "classes.txt").write_text("".join(f"c{k}\n" for k in range(1, classes + 1)))
    rows = ["image,labels\n"]
    for split in ("train", "val"):
        names = [f"{split}{i}" for i in range(images)]
        (root / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
        for name in names:
            Image.fromarray(photograph(rng, height, width)).save(root / "JPEGImages" / f"{name}.jpg", quality=95)
            write_mask(root / "SegmentationClass" / f"{name}.png", blobs(rng, height, width, classes + 1, number))
            chosen = rng.choice(np.arange(1, classes + 1), number, replace=False)
            rows.append(f"{name},{' '.join(f'c{k}' for k in sorted(chosen))}\n")
    (root / "image_labels.csv").write_text("".join(rows))


def costs(name: str, images: int, folder: Path) -> dict[str, dict[str, float]]:
    """`seconds` and `bytes` for an image, by part."""
    root = folder / name
    make_images(root, images, *SETS[name])
    config, batch = load_config(f"{name}.yaml"), images // 2
    changes: dict[str, Any] = {f"data.{split}": "train" for split in ("train", "select")}
    changes |= {"data.format": "folder", "data.root": str(root), "backbone.weights": None, "classifier.epochs": 2}
    changes |= {"affinity.epochs": 2, "affinity.batch": min(batch, config.affinity.batch)}
    changes |= {"segmentation.batch": min(batch, config.segmentation.batch), "segmentation.iterations": 4}
    changes |= {"segmentation.backbone.weights": None, "classifier.batch": min(batch, config.classifier.batch)}
    changes |= {"classifier.bank_images": max(1, min(4, batch // 4))}
    changes |= dict.fromkeys(["classifier.lr", "classifier.head_lr", "affinity.lr", "affinity.displacement_lr"], 1e-6)
    config = change_config(config, changes)
    engine, store = Timed(), Store(folder / f"store-{name}")
    pipeline = Pipeline(config, store, engine)
    pipeline.output("proxies", "train")
    pipeline.run()
    seconds = {part: total / engine.images[part] for part, total in engine.seconds.items()}
    section = config.classifier  # its steps have images from the bank too
    in_a_step = {"classifier": section.batch + section.bank_images, "segmentation": config.segmentation.batch}
    in_a_step["affinity"] = config.affinity.batch
    seconds |= {stage: engine.step(stage) / in_a_step[stage] for stage in engine.steps}
    if config.pseudo.method == "irn":
        net = IRN(config.backbone)
        how = numerics(config.affinity.precision, default_device(), net)
        net.load_state_dict(load(pipeline.output("affinity")))
        net, begin = how.place(net), CLOCK()
        affinity.mean_displacement(net, Work(folder, config, {}, pipeline.data, pipeline.train, pipeline.train), how)
        seconds["displacement"] = (CLOCK() - begin) / images
    files = list((root / "JPEGImages").iterdir())
    sizes = {"jpeg": sum(file.stat().st_size for file in files) / len(files)}
    sizes["maps"] = store.manifest(pipeline.output("maps"))["bytes"] / images
    return {"seconds": seconds, "bytes": sizes}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="where the costs go, as JSON")
    parser.add_argument("--images", type=int, default=4, help="of each split, at least 4")
    options = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: 1 if default_device().type == "cpu" else None])
    torch.set_num_threads(1)
    result: dict[str, Any] = {
        "machine": machine(),
        "command": f"python benchmarks/stage_costs.py --images {options.images}",
    }
    with tempfile.TemporaryDirectory() as name:
        for what in SETS:
            result[what] = costs(what, options.images, Path(name))
            print(what, {part: float(f"{value:.3g}") for part, value in result[what]["seconds"].items()}, flush=True)
    options.file.write_text(json.dumps(result, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
