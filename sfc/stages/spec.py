"""What a stage declares, and what it gets. The pipeline, the key of an output, estimates and tables read the former."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sfc.config import Config, Training
from sfc.data import Dataset, Split
from sfc.data.crops import Augmentation, Crops
from sfc.method.protocol import TrainingSet
from sfc.method.weighting import resampling_term
from sfc.runtime.engine import SHARD, Engine, Output, shards
from sfc.runtime.map_files import ImageMaps, load_maps

LABELS, PREDICTIONS = "labels", "predictions"
"""Folders of label maps in the outputs of the stages labels (and affinity) and evaluation."""
METHOD = ("backbone", "classifier.method", "classifier.options", "classifier.batch", "classifier.bank_images")
"""Settings from which a trained method is built again; the last two are in its training set."""


@dataclass(frozen=True)
class Work:
    """Everything that a run of a stage gets, and so all that can change its output."""

    folder: Path
    """Where the output goes; it may hold what an interrupted run left."""
    settings: Config
    """The settings that the stage reads; all others have their defaults."""
    inputs: Mapping[str, Path]
    """Folders of the stages before it, by stage."""
    data: Dataset
    split: Split
    """The images that it goes over."""
    train: Split
    """The images that train, whose labels give the counts of the classes."""

    @property
    def counts(self) -> np.ndarray:
        """(C,) training images of each foreground class."""
        counts: np.ndarray = self.train.labels.sum(0)
        return counts

    def training_set(self) -> TrainingSet:
        """The part of the training images that a method may use."""
        section, classes = self.settings.classifier, self.data.classes
        resampled = resampling_term(len(self.train), section.batch, section.bank_images, len(classes))
        return TrainingSet(classes, tuple(self.counts.tolist()), resampled)

    def crops(self, section: Training, masks: Path | None = None, **more: Any) -> Crops:
        """Training crops of the split by a section's size and mirroring; `more` is for `Augmentation`."""
        augmentation = Augmentation(section.crop, section.flip, **more)
        return Crops(self.data, self.split, augmentation, seed=self.settings.seed, masks=masks)

    def missing(self, indices: Iterable[int], below: str = "", ending: str = ".npz") -> Iterator[tuple[int, str, Path]]:
        """Index, name and output file of each of some images for which an interrupted run left no file."""
        for i in indices:
            path = self.folder / below / f"{self.split.ids[i]}{ending}"
            if not path.is_file():
                yield i, self.split.ids[i], path

    def image_maps(self, name: str) -> ImageMaps:
        """The maps of an image from the stage maps."""
        return load_maps(self.inputs["maps"] / f"{name}.npz")

    def over_images(
        self, engine: Engine, function: Callable[..., Output], *, gpu: bool = False, size: int = SHARD
    ) -> list[Output]:
        """`function(indices, work)` for all images of the split, `size` at a time, in the engine's processes."""
        return list(engine.map(partial(function, work=self), shards(len(self.split), size), gpu=gpu))


@dataclass(frozen=True)
class Spec:
    """A stage, as everything around it knows it."""

    version: int
    """Raised when the code gives another output for the same inputs."""
    run: Callable[[Work, Engine], None]
    reads: Callable[[Config], Sequence[str]]
    """Settings that its output depends on, sections or single ones, under a configuration."""
    inputs: Callable[[Config], Sequence[str]] = lambda config: ()
    """Stages before it."""
    split: Literal["train", "any"] = "any"
    """The split that it goes over: the one that trains, or any, each with an output of its own."""
    trains: Literal["classifier", "affinity", "segmentation"] | None = None
    """Section of the training that it is; its time grows with the epochs."""
    needs_masks: Callable[[Config], bool] = lambda config: False
