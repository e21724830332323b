"""Settings of the segmentation model and its evaluation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from sfc.config.base import (
    SCALE_PRESETS,
    Count,
    Factors,
    NotNegative,
    Positive,
    Precision,
    Section,
    TestScales,
    Training,
    check_range,
)
from sfc.config.classifier import Backbone


class Segmentation(Training):
    """Training of the segmentation model on pseudo-labels."""

    architecture: Literal["deeplabv3", "deeplabv2"] = "deeplabv3"
    """`deeplabv2`: output stride 8, summed branches, the head's bias at twice `head_lr` without weight decay."""
    backbone: Backbone | None = None
    """A network and weights of its own; None: the classifier's section. What is not said here has its default."""
    loss: Literal["cross_entropy", "balanced"] = "cross_entropy"
    """`balanced`: the mean over background pixels and the mean over foreground pixels, averaged."""
    bank_images: Annotated[int, Field(ge=0)] = 0
    """Images of the image bank in each step beside the batch: each class, however rare, is drawn as often."""
    epochs: Count = 10
    iterations: Count | None = None
    """Steps in all, for published schedules; None: as many as `epochs` has."""
    batch: Annotated[int, Field(ge=2)] = 10
    micro_batch: Annotated[int, Field(ge=2)] | None = None
    """As `classifier.micro_batch`."""
    crop: Annotated[int, Field(ge=32)] = 321
    resize: Factors | None = (0.5, 1.5)
    """The image is resized by a random factor in this range."""
    lr: Positive = 7e-3
    head_lr: Positive = 7e-2
    weight_decay: NotNegative = 5e-4
    clip: Positive | None = 10.0
    rates: Annotated[tuple[Count, ...], Field(min_length=1)] | None = None
    """Dilations of the parallel branches; None: 6, 12, 18 for deeplabv3, 6, 12, 18, 24 for deeplabv2."""
    start: Literal["backbone", "classifier"] = "backbone"
    """Its backbone starts from the weights of the backbone's section, or from the trained classifier's."""

    @model_validator(mode="after")
    def _range(self) -> Segmentation:
        if self.start == "classifier" and self.backbone is not None:
            raise ValueError("start: a backbone of its own can't start from the classifier's weights")
        check_range("resize", self.resize)
        return self


class Evaluation(Section):
    """Prediction on the reporting split; stored with every number as its `test_time`."""

    scales: TestScales = SCALE_PRESETS["three"]
    """Factors, or the name of a preset: single, three, five."""
    mirror: bool = True
    """Also look at the mirror image."""
    crf: Literal["none", "deeplab", "seam", "toco", "weclip"] = "none"
    """Dense CRF on the averaged probabilities, with the settings of a published work."""
    precision: Precision = "auto"
