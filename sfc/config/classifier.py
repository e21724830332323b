"""Settings of the backbone, the classifier with its method, and the maps."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any

from pydantic import Field, SerializeAsAny, ValidationInfo, field_validator, model_validator

from sfc.config import plugins
from sfc.config.base import (
    Content,
    Count,
    File,
    Fraction,
    NotNegative,
    Positive,
    Precision,
    Scales,
    Section,
    Source,
    Training,
    check_range,
    one_of,
)
from sfc.errors import UserError
from sfc.method.weighting import Weighting

BACKBONES = ("small", "resnet18", "resnet50", "resnet101", "mobilenet_v2")


class Backbone(Section):
    """The network under the heads, its weights, and what its input looks like."""

    name: Annotated[str, one_of(BACKBONES, "timm/NAME", re.compile(r"timm/[A-Za-z0-9_.]+").fullmatch)] = "resnet50"
    """`timm/NAME`: a convolutional network or vision transformer of timm (pip install sfc-wsss[timm])."""
    weights: File = None
    """None (learns from scratch), a name of torchvision's, such as IMAGENET1K_V2, or a file."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Subtracted from RGB in [0, 1]."""
    std: tuple[Positive, Positive, Positive] = (0.229, 0.224, 0.225)
    """Divides RGB after the mean."""
    frozen_stages: Annotated[int, Field(ge=0, le=4)] = 2
    """The stem and this many of the four stages learn nothing; 2 as published, 0 for a start from scratch."""
    freeze_norm: bool = True
    """Batch norm keeps its running statistics."""


class NoOptions(Section):
    """Options of a method that has none."""


class SfcOptions(Section):
    """The MSDW consistency loss (SFC, section "Multi-Scaled Distribution-Weighted Consistency Loss")."""

    scales: Scales = (0.5,)
    """Further views of each image, as factors of its size."""
    prototype_weight: NotNegative = 1.6
    """Weight of the consistency between classifier map and prototype map."""
    scale_weight: NotNegative = 0.8
    """Weight of the consistency between views."""
    warmup: Fraction = 0.0
    """Part of the training over which both weights rise from 0, linearly."""
    weighting: Weighting = "pairwise"
    """Scheme of the distribution weights."""
    beta: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Base of the scheme effective_number."""
    resampling: NotNegative | None = None
    """Images that the bank adds to each class's count; None: as many as the published rule says."""


class MapsOptions(Section):
    """Maps that another program made (`sfc.runtime.foreign_maps` has the layout)."""

    folder: Annotated[str, Content()]
    """Folder with a file for each image of every split that is used."""


METHODS: dict[str, type[Section]] = {"sfc": SfcOptions, "cam": NoOptions, "maps": MapsOptions}
"""Methods of this package and their options."""


def options_of(method: str) -> type[Section]:
    """The section class of a method's options.

    Raises:
        UserError: the method can't be imported, or is no method.
    """
    if method in METHODS:
        return METHODS[method]
    options = getattr(plugins.load(method), "Options", NoOptions)
    if not (isinstance(options, type) and issubclass(options, Section)):
        raise UserError(f"{method}: its Options must be a subclass of sfc.Section")
    return options


class Classifier(Training):
    """Training of the classifier by a method: the paper's, plain CAM, or one of the user's."""

    method: Annotated[str, one_of(METHODS, "module:Class", plugins.is_path), Source()] = "sfc"
    """`sfc`; `cam`, the classification loss alone; `maps`, maps that another program made; or `module:Class`."""
    options: SerializeAsAny[Section] = Field(default=SfcOptions(), validate_default=True)
    """Settings of the method's own."""
    weights: File = None
    """A trained network, published or ours, taken as it is: nothing is trained."""
    bank_images: Annotated[int, Field(ge=0)] = 4
    """Images from the image bank, appended to the batch."""
    bank_draws_empty: bool = False
    """Draw empty slots of the bank too, as the published code does."""
    resize_long: tuple[Count, Count] | None = (320, 640)
    """The long side is resized to a random length in this range; None: not at all, as the published code."""
    lr: Positive = 0.1
    head_lr: Positive = 1.0
    clip: Positive | None = 1.0

    @field_validator("options", mode="before")
    @classmethod
    def _options(cls, value: Any, info: ValidationInfo) -> Section:
        if "method" not in info.data:  # the method itself is wrong, and said to be
            return NoOptions()
        try:
            kind = options_of(info.data["method"])
        except UserError as error:
            raise ValueError(str(error)) from None
        if isinstance(value, kind):
            return value
        if isinstance(value, Section):
            value = {} if value == SfcOptions() else value.model_dump(mode="json")
        return kind.model_validate_json(json.dumps(value))

    @model_validator(mode="after")
    def _range(self) -> Classifier:
        check_range("resize_long", self.resize_long)
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (self.model_dump_json(), self.method)  # the class of the options may be a user's


def _restored(text: str, method: str) -> Classifier:
    """A pickled section; the process that pickled it was allowed to import its method."""
    if plugins.is_path(method):
        plugins.allow(method)
    return Classifier.model_validate_json(text)


class Cam(Section):
    """Maps at inference (SFC, section "Implementation Details")."""

    scales: Scales = (1.0, 0.5, 1.5, 2.0)
    mirror: bool = True
    """Also look at the mirror image."""
    correlation: bool = True
    """Method sfc: spread the classifier's map by pixel correlation."""
    precision: Precision = "auto"
