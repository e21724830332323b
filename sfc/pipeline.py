"""The order of the stages and the keys of their outputs."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from copy import copy
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch

from sfc.config import SETTINGS_VERSION, Config
from sfc.config.values import differing, restrict
from sfc.data import Dataset, Split, open_dataset
from sfc.errors import UserError
from sfc.results import Result, Supervision, supervision
from sfc.runtime.engine import Engine, LocalEngine, default_device
from sfc.runtime.store import Store, digest
from sfc.runtime.training import WEIGHTS, without_prefix
from sfc.runtime.warn import read_warnings
from sfc.scoring.names import MEASURES, split_of
from sfc.scoring.tally import METRICS
from sfc.stages import affinity, classifier, edges, evaluation, labels, maps, proxies, seeds, segmentation
from sfc.stages.spec import Spec, Work

STAGES: dict[str, Spec] = {
    "classifier": classifier.SPEC,
    "maps": maps.SPEC,
    "seeds": seeds.SPEC,
    "proxies": proxies.SPEC,
    "affinity": affinity.SPEC,
    "edges": edges.SPEC,
    "labels": labels.SPEC,
    "segmentation": segmentation.SPEC,
    "evaluation": evaluation.SPEC,
}
"""Every stage by name, in an order in which each stands behind its inputs."""
Until = Literal["seed", "pseudo", "segmentation"]
"""How far a run goes: seeds, pseudo-labels, or all stages."""
MEASURED: dict[Until, tuple[str, ...]] = {
    "seed": ("seed", "seed_val"),
    "pseudo": ("seed", "seed_val", "pseudo_train"),
    "segmentation": ("seed", "seed_val", "pseudo_train", "val"),
}
"""Prefixes of the numbers of a run."""
PREVIEW_IMAGES = 100


class NotDone(Exception):
    """The store lacks an output, and nothing may be run."""


class Pipeline:
    """One configuration through the stages, each reused where the store has it.

    Args:
        config: all settings.
        store: has the outputs.
        engine: runs the work; None: nothing is run, and an output that the store lacks is `NotDone`.

    Raises:
        UserError: the data can't be opened.
    """

    def __init__(self, config: Config, store: Store, engine: Engine | None) -> None:
        self.config, self.store, self.engine = config, store, engine
        self.data: Dataset = open_dataset(config.data, cache=store.root / "readable")
        self.split: Callable[[str], Split] = cache(self.data.split)
        self._outputs: dict[str, Path] = {}
        self._used: list[Path] = []  # by this configuration, of `_outputs`, which others share

    def changed(self, config: Config) -> Pipeline:
        """Another configuration on the same data, store and engine."""
        other = copy(self)
        other.config, other._used = config, []
        return other

    @property
    def train(self) -> Split:
        return self.split(self.config.data.train)

    def output(self, stage: str, split: str | None = None) -> Path:
        """The finished folder of a stage, made now if the store has none.

        Args:
            stage: a name in `STAGES`.
            split: name of a split; None: the one that trains.

        Raises:
            UserError: the stage needs masks and the split has none, a file of weights is missing, or a stage failed.
            NotDone: there is no engine.
        """
        spec, config = STAGES[stage], self.config
        name = split if split and spec.split == "any" else config.data.train
        if spec.needs_masks(config) and not self.split(name).has_masks:
            raise UserError(f"the split {name} of {self.data.root} has no masks (or not one for each image)")
        inputs = {
            before: self.output(before, name if STAGES[before].split == "any" else None)
            for before in spec.inputs(config)
        }
        settings = restrict(config, spec.reads(config))
        for section in ("classifier", "affinity"):  # networks that are taken as they are
            weights = getattr(settings, section).weights
            if weights is not None and not Path(weights).is_file():
                raise UserError(f"{section}.weights: there is no file {weights}")
        identity = {
            "stage": stage,
            "version": spec.version,
            "settings": differing(settings, content=True),
            "inputs": [f"{folder.parent.name}/{folder.name}" for folder in inputs.values()],
            "data": {s: self.split(s).fingerprint for s in dict.fromkeys((name, config.data.train))},
        }
        key = digest(identity)

        def build(folder: Path) -> dict[str, Any]:
            assert self.engine is not None
            spec.run(Work(folder, settings, inputs, self.data, self.split(name), self.train), self.engine)
            return {"device": str(default_device()), "torch": torch.__version__}

        if key not in self._outputs:
            if self.engine is None and not self.store.has(stage, key):
                raise NotDone(f"{stage} {key}")
            entries = identity | {"images": len(self.split(name)), "settings_version": SETTINGS_VERSION}
            self._outputs[key] = self.store.get(stage, key, entries, build)
        if (folder := self._outputs[key]) not in self._used:
            self._used.append(folder)
        return folder

    def run(self, until: Until = "segmentation") -> Result:
        """Every stage up to `until`, and the numbers of each for which there are masks; no seeds where the masks of the
        training images are the labels."""
        result = Result(label_source=self.data.label_source)
        for prefix in MEASURED[until]:
            stage, split = MEASURES[prefix].stage, split_of(prefix, self.config.data)
            if stage == "seeds" and self.config.pseudo.method == "masks":
                continue
            needs_masks = STAGES[stage].needs_masks(self.config)
            if not needs_masks or (split in self.data.split_names() and self.split(split).has_masks):
                self.measure(result, prefix)
        return result

    def measure(self, result: Result, prefix: str) -> None:
        """Add the numbers under a prefix (`sfc.scoring.names`) to a result, with the masks that each has seen.

        Raises:
            UserError: as `output`.
        """
        split = split_of(prefix, self.config.data)
        folder = result.folders[prefix] = self.output(MEASURES[prefix].stage, split)
        result.warnings.extend(text for text in self.warnings() if text not in result.warnings)
        if (path := folder / METRICS).is_file():
            metrics = json.loads(path.read_text(encoding="utf-8"))
            seen = self.masks_seen(split if "iou" in metrics else None)
            result.add(prefix, metrics, {"": seen, "best": "same masks"})

    def warnings(self) -> list[str]:
        """What stages so far said of outputs that can't be meant."""
        return [text for folder in self._used for text in read_warnings(folder)]

    def masks_seen(self, split: str | None) -> Supervision:
        """The masks that a number on a split has seen; None: a number that is computed without masks. Splits that
        share images count as one: VOC's train_aug holds train under another name."""
        chosen = self.config.selected_on
        shared = False
        if split is not None and chosen in self.data.split_names():
            shared = not set(self.data.ids(chosen)).isdisjoint(self.data.ids(split))
        return supervision(self.config, split, tuned_here=shared)

    def preview(self, weights: dict[str, torch.Tensor], prefix: str, split: Split) -> dict[str, Any]:
        """Numbers of a classifier in training, from maps at one scale of the first images of a split.

        Args:
            weights: of the training step, from `Context.report`.
            prefix: `seed` or `proxy`.
            split: with masks for `seed`.

        Returns:
            Content of the stage's metrics.json.
        """
        few = split.first(PREVIEW_IMAGES)
        cam = self.config.cam.model_copy(update={"scales": (1.0,), "mirror": False})
        settings, engine = self.config.model_copy(update={"cam": cam}), LocalEngine(1)
        with tempfile.TemporaryDirectory() as name:
            stage = MEASURES[prefix].stage
            folders = {part: Path(name, part) for part in ("classifier", "maps", stage)}
            for folder in folders.values():
                folder.mkdir()
            torch.save(without_prefix(weights, "method."), folders["classifier"] / WEIGHTS)
            for part in ("maps", stage):
                STAGES[part].run(Work(folders[part], settings, folders, self.data, few, self.train), engine)
            content: dict[str, Any] = json.loads((folders[stage] / METRICS).read_text(encoding="utf-8"))
        return content
