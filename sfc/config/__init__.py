"""The settings, as frozen sections; each stands for one part of the work. Imports no torch.

YAML in and out is in `sfc.config.files`. Lengths are pixels, rates are per step, fractions lie in [0, 1].
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from sfc.config.base import SCALE_PRESETS, SETTINGS_VERSION, Count, Optimiser, Precision, Section, Training
from sfc.config.classifier import BACKBONES, METHODS, Backbone, Cam, Classifier, MapsOptions, NoOptions, SfcOptions
from sfc.config.data import FORMATS, Data, Synthetic
from sfc.config.labels import RULE, Affinity, Crf, Pseudo, Walk
from sfc.config.segmentation import Evaluation, Segmentation

__all__ = [
    "BACKBONES",
    "FORMATS",
    "METHODS",
    "RULE",
    "SCALE_PRESETS",
    "SETTINGS_VERSION",
    "Affinity",
    "Backbone",
    "Cam",
    "Classifier",
    "Config",
    "Count",
    "Crf",
    "Data",
    "Evaluation",
    "MapsOptions",
    "NoOptions",
    "Optimiser",
    "Precision",
    "Pseudo",
    "Section",
    "Segmentation",
    "SfcOptions",
    "Synthetic",
    "Training",
    "Walk",
]


class Config(Section):
    """Everything that a result depends on."""

    seed: Annotated[int, Field(ge=0, lt=2**32)] = 10
    """Start of everything random."""
    selected_on: str | None = None
    """Split whose masks chose these settings; written by a search, and said with every number."""
    data: Data = Data()
    backbone: Backbone = Backbone()
    classifier: Classifier = Classifier()
    cam: Cam = Cam()
    affinity: Affinity = Affinity()
    pseudo: Pseudo = Pseudo()
    segmentation: Segmentation = Segmentation()
    evaluation: Evaluation = Evaluation()

    @model_validator(mode="after")
    def _stages_that_fit(self) -> Config:
        if self.classifier.method == "maps":
            if self.segmentation.start == "classifier":
                raise ValueError("segmentation.start: the method maps trains no classifier to start from")
            if self.pseudo.method == "irn" and not (self.backbone.weights or self.affinity.weights):
                raise ValueError(
                    "pseudo.method: IRN's backbone has the classifier's weights unless backbone.weights names others, "
                    "and the method maps trains no classifier"
                )
        if self.pseudo.method == "irn" and self.backbone.name.startswith("timm/"):
            raise ValueError(
                f"pseudo.method: irn can't take {self.backbone.name}, which has no stages of its own: use "
                "pseudo.method=crf or a backbone of torchvision's"
            )
        return self
