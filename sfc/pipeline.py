"""The order of the stages, and what each depends on: the only place that knows either."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import torch

from sfc.config import Affinity, Backbone, Classifier, Config
from sfc.data import Dataset, Split, open_dataset
from sfc.errors import UserError
from sfc.runtime.engine import Engine, default_device
from sfc.runtime.store import Store, digest
from sfc.stages import affinity, classifier, evaluation, segmentation
from sfc.stages import edges as edge
from sfc.stages import labels as pseudo
from sfc.stages import maps as cam
from sfc.stages import proxies as proxy
from sfc.stages import seeds as seed

RULE = {"fusion", "background", "threshold", "offset"}
"""Settings of the section pseudo that make seeds of maps."""
CONDITIONS = ("test_time", "initialisation", "crf_images")
"""Entries of metrics.json that are no numbers to compare."""

Supervision = Literal["image-labels", "held-out masks", "same masks"]
Until = Literal["seed", "pseudo", "segmentation"]
"""How far a run goes: seeds, pseudo-labels, or all stages."""


@dataclass(frozen=True)
class Result:
    """What a run gives: numbers by name, the masks that each has seen, and where the outputs are."""

    metrics: dict[str, float] = field(default_factory=dict)
    """`seed/...` on the select split, `seed_val/...` on val, `pseudo/...` on train, `val/...` of the segmentation,
    `proxy/...` without masks."""
    supervision: dict[str, Supervision] = field(default_factory=dict)
    """The same names."""
    iou: dict[str, list[float]] = field(default_factory=dict)
    """By class, background first; `seed`, `seed_val`, `pseudo`, `val`."""
    folders: dict[str, Path] = field(default_factory=dict)
    """Outputs by stage."""
    conditions: dict[str, dict[str, Any]] = field(default_factory=dict)
    """How the numbers under a first name came about, where that is not in the settings' names: `test_time`, the
    presets and scales of `val`; `initialisation`, what its network started from; `crf_images`, how many images the
    CRF of `proxy` saw."""
    label_source: str = ""
    """Where the image labels come from: csv, xml or masks."""


def supervision(config: Config, split: str | None, *, tuned_here: bool = False) -> Supervision:
    """Which masks a number on `split` has seen (method.md section 5): none, those of other images, or its own.

    `split` None: the number is computed without masks. It has none of its own that could be the same; where masks
    chose the settings it has seen those, on whatever images, and is no longer one from image labels alone.
    """
    if tuned_here or (split is not None and config.selected_on == split):
        return "same masks"
    return "image-labels" if config.selected_on is None else "held-out masks"


def by_content(section: Backbone | Classifier | Affinity) -> dict[str, Any]:
    """A section for a key: a file of weights is named by its content instead of its place."""
    values = section.model_dump(mode="json")
    if section.weights and Path(section.weights).is_file():
        with Path(section.weights).open("rb") as file:
            values["weights"] = hashlib.file_digest(file, "sha256").hexdigest()[:16]
    return values


class Pipeline:
    """One configuration through the stages, each reused where the store has it.

    Args:
        config: all settings.
        store: where outputs are.
        engine: what runs the work.

    Raises:
        UserError: the data can't be opened.
    """

    def __init__(self, config: Config, store: Store, engine: Engine) -> None:
        self.config, self.store, self.engine = config, store, engine
        self.data: Dataset = open_dataset(config.data, cache=store.root / "readable")
        self.split: Callable[[str], Split] = cache(self.data.split)
        self._by_content = cache(by_content)
        self._done: dict[str, Path] = {}

    def changed(self, config: Config) -> Pipeline:
        """Another configuration on the same data, store and engine."""
        other = copy(self)
        other.config = config
        return other

    @property
    def train(self) -> Split:
        return self.split(self.config.data.train)

    def _trained(self, name: Literal["classifier", "affinity"]) -> dict[str, Any]:
        """The section of a network that a file may give.

        Raises:
            UserError: there is no such file.
        """
        section: Classifier | Affinity = getattr(self.config, name)
        if section.weights is not None and not Path(section.weights).is_file():
            raise UserError(f"{name}.weights: there is no file {section.weights}")
        return self._by_content(section)

    @property
    def segmentation_backbone(self) -> Backbone:
        """The segmentation model's own backbone, or the classifier's."""
        return self.config.segmentation.backbone or self.config.backbone

    def _get(
        self,
        stage: ModuleType,
        split: str,
        settings: dict[str, Any],
        inputs: list[Path],
        *,
        also: Sequence[str] = (),
        **arguments: Any,
    ) -> Path:
        """The output of a stage over a split, by its `run` where the store has none.

        Args:
            stage: its module.
            split: whose images it goes over.
            settings: what its output depends on, beside the version of its code, the inputs and the data.
            inputs: folders of the stages before it.
            also: further splits that the output depends on.
            arguments: of its `run`, beside those that every stage has.
        """
        identity = {
            "version": stage.VERSION,
            "settings": settings,
            "inputs": [f"{folder.parent.name}/{folder.name}" for folder in inputs],
            "data": {name: self.split(name).fingerprint for name in (split, *also)},
        }
        key = digest(identity)

        def build(folder: Path) -> dict[str, Any]:
            stage.run(folder, self.engine, data=self.data, split=self.split(split), **arguments)
            return {"device": str(default_device()), "torch": torch.__version__}

        if key not in self._done:
            name = stage.__name__.rpartition(".")[2]
            said = identity | {"images": len(self.split(split))}
            self._done[key] = self.store.get(name, key, said, build)
        return self._done[key]

    def classifier(self) -> Path:
        """The trained network."""
        config = self.config
        return self._get(
            classifier,
            config.data.train,
            {
                "classifier": self._trained("classifier"),
                "backbone": self._by_content(config.backbone),
                "seed": config.seed,
            },
            [],
            section=config.classifier,
            backbone=config.backbone,
            seed=config.seed,
        )

    def cam(self, split: str) -> Path:
        """Maps of a split."""
        config, network = self.config, self.classifier()
        return self._get(
            cam,
            split,
            {"cam": config.cam.model_dump(mode="json")},
            [network],
            section=config.cam,
            backbone=config.backbone,
            classifier=network,
        )

    def seed(self, split: str) -> Path:
        """Quality of the seeds of a split with masks.

        Raises:
            UserError: the split has no masks.
        """
        if not self.split(split).has_masks:
            raise UserError(f"the split {split} of {self.data.root} has no masks (or not one for each image)")
        config, maps = self.config, self.cam(split)
        return self._get(
            seed,
            split,
            config.pseudo.model_dump(mode="json", include=RULE),
            [maps],
            also=[self.train.name],
            section=config.pseudo,
            maps=maps,
            counts=self.train.labels.sum(0),
        )

    def proxy(self, split: str) -> Path:
        """What can be said of the classifier and the maps of a split without a mask."""
        config, network, maps = self.config, self.classifier(), self.cam(split)
        return self._get(
            proxy,
            split,
            config.pseudo.model_dump(mode="json", include=RULE | {"crf"}) | {"precision": config.cam.precision},
            [network, maps],
            section=config.pseudo,
            cam=config.cam,
            backbone=config.backbone,
            classifier=network,
            maps=maps,
        )

    def affinity(self) -> Path:
        """The trained IRN."""
        config, network, maps = self.config, self.classifier(), self.cam(self.config.data.train)
        return self._get(
            affinity,
            config.data.train,
            {
                "affinity": self._trained("affinity"),
                "pseudo": config.pseudo.model_dump(mode="json", include=RULE | {"crf"}),
                "backbone": self._by_content(config.backbone),
                "seed": config.seed,
            },
            [network, maps],
            section=config.affinity,
            pseudo=config.pseudo,
            backbone=config.backbone,
            classifier=network,
            maps=maps,
            seed=config.seed,
        )

    def edge(self, split: str) -> Path:
        """Edges of a split."""
        config, network = self.config, self.affinity()
        return self._get(
            edge,
            split,
            config.affinity.model_dump(mode="json", include={"crop", "precision"}),
            [network],
            section=config.affinity,
            backbone=config.backbone,
            affinity=network,
        )

    def pseudo(self) -> Path:
        """Pseudo-labels of the training split."""
        config, maps = self.config, self.cam(self.config.data.train)
        walks = config.pseudo.method == "irn"
        edges = self.edge(config.data.train) if walks else None
        return self._get(
            pseudo,
            config.data.train,
            {"pseudo": config.pseudo.model_dump(mode="json", exclude=None if walks else {"walk"})},
            [maps, edges] if edges else [maps],
            section=config.pseudo,
            maps=maps,
            edges=edges,
            counts=self.train.labels.sum(0),
        )

    def segmentation(self) -> Path:
        """The trained segmentation model."""
        config, labels = self.config, self.pseudo()
        return self._get(
            segmentation,
            config.data.train,
            {
                "segmentation": config.segmentation.model_dump(mode="json", exclude={"backbone"}),
                "backbone": self._by_content(self.segmentation_backbone),
                "seed": config.seed,
            },
            [labels],
            section=config.segmentation,
            backbone=self.segmentation_backbone,
            labels=labels / pseudo.LABELS,
            start=self.classifier() if config.segmentation.start == "classifier" else None,
            seed=config.seed,
        )

    def evaluation(self) -> Path:
        """Predictions on the reporting split."""
        config, model = self.config, self.segmentation()
        return self._get(
            evaluation,
            config.data.val,
            {"evaluation": config.evaluation.model_dump(mode="json")},
            [model],
            section=config.evaluation,
            segmentation=config.segmentation,
            backbone=self.segmentation_backbone,
            model=model,
            counts=self.train.labels.sum(0),
        )

    def run(self, until: Until = "segmentation") -> Result:
        """Every stage up to `until`, and the numbers of each for which there are masks."""
        result = Result(label_source=self.data.label_source)
        splits = self.config.data
        for name, split in (("seed", splits.select), ("seed_val", splits.val)):
            if split in self.data.split_names() and self.split(split).has_masks:
                self.collect(result, name, self.seed(split), split)
        if until != "seed":
            self.collect(result, "pseudo", self.pseudo(), splits.train)
        if until == "segmentation":
            self.collect(result, "val", self.evaluation(), splits.val)
        return result

    def _chosen_on(self, split: str) -> bool:
        """Whether masks of images of this split chose the settings: VOC's train_aug holds train under another name."""
        chosen = self.config.selected_on
        return chosen in self.data.split_names() and not set(self.data.ids(chosen)).isdisjoint(self.data.ids(split))

    def collect(self, result: Result, name: str, folder: Path, split: str) -> None:
        """Add the numbers in a stage's folder to a result, under a name, with the supervision of each."""
        result.folders[name] = folder
        path = folder / "metrics.json"
        if not path.is_file():
            return
        metrics = json.loads(path.read_text(encoding="utf-8"))
        best = metrics.pop("best", {})
        measured_on = None
        if "iou" in metrics:  # held against masks
            result.iou[name] = metrics.pop("iou")
            measured_on = split
        best.pop("iou", None)
        result.conditions[name] = {key: metrics.pop(key) for key in CONDITIONS if key in metrics}
        for prefix, numbers, tuned_here in (
            (f"{name}/", metrics, measured_on is not None and self._chosen_on(measured_on)),
            (f"{name}/best_", best, True),
        ):
            for key, value in numbers.items():
                result.metrics[prefix + key] = value
                result.supervision[prefix + key] = supervision(self.config, measured_on, tuned_here=tuned_here)
