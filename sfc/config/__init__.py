"""The settings, as frozen sections; each stands for one part of the work and is all that this part is told.

YAML in and out is in `sfc.config.files`. Lengths are pixels, rates are per step, fractions lie in [0, 1].
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from sfc.config import plugins
from sfc.method.weighting import Weighting

SETTINGS_VERSION = 1
"""Raised when the meaning of a setting changes: stores and studies of another version are refused."""

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Scales = Annotated[tuple[Annotated[float, Field(ge=0.1, le=4)], ...], Field(min_length=1)]
Precision = Literal["auto", "bf16", "fp32"]
Optimiser = Literal["sgd", "sgd_as_published"]
"""SGD with the momentum of its section; or with the weight decay in the momentum's place, as the published optimiser
hands its arguments on (method.md section 1)."""

SCALE_PRESETS: dict[str, tuple[float, ...]] = {
    "single": (1.0,),
    "three": (1.0, 0.75, 1.25),
    "five": (1.0, 0.5, 0.75, 1.25, 1.5),
}
"""Names for scales at test time; a name and its scales are the same setting."""


def _named_scales(value: object) -> object:
    if not isinstance(value, str):
        return tuple(value) if isinstance(value, list) else value  # behind this function a list is no tuple any more
    if value not in SCALE_PRESETS:
        known = ", ".join(SCALE_PRESETS)
        raise PydanticCustomError("unknown_scales", "Input should be {known} or a list of factors", {"known": known})
    return SCALE_PRESETS[value]


TestScales = Annotated[Scales, BeforeValidator(_named_scales)]

FORMATS = ("synthetic", "folder", "voc", "coco14", "coco17")


def _format(value: str) -> str:
    if value not in FORMATS and not plugins.is_path(value):
        known = ", ".join(FORMATS)
        text = "Input should be {known}, or module:function for a format of your own"
        raise PydanticCustomError("unknown_format", text, {"known": known})
    return value


Format = Annotated[str, AfterValidator(_format)]

BACKBONES = ("small", "resnet18", "resnet50", "resnet101", "mobilenet_v2")


def _backbone(value: str) -> str:
    if value not in BACKBONES and not re.fullmatch(r"timm/[A-Za-z0-9_.]+", value):
        known = ", ".join(BACKBONES)
        raise PydanticCustomError("unknown_backbone", "Input should be {known} or timm/NAME", {"known": known})
    return value


BackboneName = Annotated[str, AfterValidator(_backbone)]


class Section(BaseModel):
    """A frozen group of settings without room for unknown names."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class Synthetic(Section):
    """The generated data set (`sfc.data.synthetic`)."""

    seed: int = 0
    size: Annotated[int, Field(ge=32)] = 64
    """Height and width of an image."""
    groups: Annotated[int, Field(ge=2, le=6)] = 5
    """Pairs of a head and a tail class that share a part."""
    train: Count = 1000
    """Images of the split train, which is used by its labels alone."""
    select: Count = 200
    """Images of the split select, whose masks may choose."""
    val: Count = 200
    """Images of the split val, whose masks report."""


class Data(Section):
    """Where images, labels and masks come from."""

    format: Format = "synthetic"
    """`voc` (2012), `coco14` and `coco17` are the benchmarks that `python -m sfc data` has prepared; `module:function`
    is a function of one's own that gets this section and returns a folder in VOC layout (a Path)."""
    root: str = "results/data"
    """The folder in VOC layout; for `synthetic`, where it is generated; for benchmarks, above the official folders."""
    train: str = "train"
    """Split that trains."""
    select: str = "select"
    """Split whose masks may choose settings; may be the training split, never the reporting one."""
    val: str = "val"
    """Split whose masks report."""
    skip_broken: bool = False
    """Go on without images that can't be read, instead of stopping with their names."""
    synthetic: Synthetic = Synthetic()

    @model_validator(mode="after")
    def _splits(self) -> Data:
        if self.val in (self.train, self.select):
            raise ValueError(f"val: the split {self.val!r} that reports must differ from those that train and select")
        return self


class Backbone(Section):
    """The network under the heads, its weights, and what its input looks like."""

    name: BackboneName = "resnet50"
    """`timm/NAME`: a convolutional network or vision transformer of timm (pip install sfc-wsss[timm])."""
    weights: str | None = None
    """None (learns from scratch), a name of torchvision's, such as IMAGENET1K_V2, or a file."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Subtracted from RGB in [0, 1]."""
    std: tuple[Positive, Positive, Positive] = (0.229, 0.224, 0.225)
    """Divides RGB after the mean."""
    frozen_stages: Annotated[int, Field(ge=0, le=4)] = 2
    """The stem and this many of the four stages learn nothing; 2 as published, 0 for a start from scratch."""
    freeze_norm: bool = True
    """Batch norm keeps its running statistics."""


class Classifier(Section):
    """Training of the classifier with the MSDW consistency loss (method.md section 1)."""

    weights: str | None = None
    """A trained network, published or ours, taken as it is: nothing is trained."""
    epochs: Count = 6
    batch: Count = 16
    """Images from the data set in a step, over all workers."""
    micro_batch: Count | None = None
    """Images that a worker holds at once, where its share of the batch does not fit; their gradients are added up. It
    changes the result only where a batch norm learns."""
    bank_images: Annotated[int, Field(ge=0)] = 4
    """Images from the bank, appended to the batch."""
    bank_draws_empty: bool = False
    """Draw empty slots of the bank too, as the published code does."""
    crop: Annotated[int, Field(ge=32)] = 512
    resize_long: tuple[Count, Count] | None = (320, 640)
    """The long side is resized to a random length in this range; None: not at all, as the published code."""
    flip: bool = True
    lr: Positive = 0.1
    head_lr: Positive = 1.0
    optimiser: Optimiser = "sgd"
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    clip: Positive = 1.0
    """Largest norm of the gradient."""
    power: Annotated[float, Field(ge=0)] = 0.9
    """Of the decay (1 - t/T)^power of the learning rate, per step."""
    scales: Scales = (0.5,)
    """Further views of each image, as factors of its size."""
    prototype_weight: Annotated[float, Field(ge=0)] = 1.6
    """Of the consistency between classifier map and prototype map."""
    scale_weight: Annotated[float, Field(ge=0)] = 0.8
    """Of the consistency between views."""
    warmup: Fraction = 0.0
    """Part of the training over which both weights rise from 0, linearly."""
    weighting: Weighting = "pairwise"
    """Scheme of the distribution weights."""
    beta: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Of the scheme effective_number."""
    resampling: Annotated[float, Field(ge=0)] | None = None
    """Images that the bank adds to each class's count; None: as many as the published rule says."""
    precision: Precision = "auto"

    @model_validator(mode="after")
    def _range(self) -> Classifier:
        if self.resize_long and self.resize_long[0] > self.resize_long[1]:
            raise ValueError(f"resize_long: an empty range, {list(self.resize_long)}")
        return self


class Cam(Section):
    """Maps at inference (method.md section 2)."""

    scales: Scales = (1.0, 0.5, 1.5, 2.0)
    mirror: bool = True
    correlation: bool = True
    """Spread the classifier's map by pixel correlation; plain CAM does not."""
    precision: Precision = "auto"


class Crf(Section):
    """Dense CRF on hard labels (method.md section 3)."""

    iterations: Count = 12
    gt_prob: Annotated[float, Field(gt=0, lt=1)] = 0.7
    """Confidence in the labels that go in."""
    gaussian_sxy: Positive = 3.0
    gaussian_compat: Annotated[float, Field(ge=0)] = 3.0
    bilateral_sxy: Positive = 50.0
    bilateral_srgb: Positive = 5.0
    bilateral_compat: Annotated[float, Field(ge=0)] = 10.0


class Affinity(Section):
    """Training of IRN, whose edges hold the random walk back (method.md section 3). Its labels are made by the rule and
    the CRF of the section `pseudo`; its backbone learns nothing: it has the weights that the section `backbone` names,
    or where that names none, those of the trained classifier."""

    weights: str | None = None
    """A trained IRN, published or ours, taken as it is: nothing is trained."""
    epochs: Count = 3
    batch: Count = 32
    micro_batch: Count | None = None
    """As `classifier.micro_batch`."""
    crop: Annotated[int, Field(ge=32)] = 512
    """Also the least height and width at which edges are made: smaller images are padded below and to the right."""
    resize: tuple[Positive, Positive] | None = (0.5, 1.0)
    """The image is resized by a random factor in this range."""
    flip: bool = True
    radius: Annotated[int, Field(ge=2)] = 10
    """Pairs of pixels nearer than this are compared, at a quarter of the image."""
    lr: Positive = 0.1
    """Of the edge branch."""
    displacement_lr: Positive = 1.0
    optimiser: Optimiser = "sgd"
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    clip: Positive | None = None
    power: Annotated[float, Field(ge=0)] = 0.9
    precision: Precision = "auto"

    @model_validator(mode="after")
    def _ranges(self) -> Affinity:
        if self.resize and self.resize[0] > self.resize[1]:
            raise ValueError(f"resize: an empty range, {list(self.resize)}")
        if (self.crop + 3) // 4 < 2 * self.radius - 1:
            raise ValueError(
                f"radius: a quarter of a crop of {self.crop} holds no pair at a radius of {self.radius}; "
                f"the largest is {((self.crop + 3) // 4 + 1) // 2}"
            )
        return self


class Walk(Section):
    """Random walk to the final pseudo-labels (method.md section 3)."""

    fusion: Annotated[float, Field(ge=0)] = 0.3
    """Weight of the prototype map beside the classifier's map."""
    walks: Literal["both", "foreground", "joint"] = "both"
    """Foreground maps with a constant background afterwards, all maps with the background's, or the sum of both."""
    power: Positive = 1.3
    """Of the maps before the foreground walk."""
    background: Annotated[float, Field(ge=0)] = 0.25
    """Constant background after the foreground walk, beside maps whose largest value is 1."""
    joint_power: Positive = 1.69
    """Of the maps before the joint walk; 1.3 twice."""
    radius: Count = 5
    """Neighbours are nearer than this, at a quarter of the image."""
    beta: Positive = 10.0
    """Power of the affinity."""
    steps: Annotated[int, Field(ge=0)] = 256


class Pseudo(Section):
    """From maps to seeds to pseudo-labels."""

    fusion: Annotated[float, Field(ge=0)] = 0.7
    """Weight of the prototype map beside the classifier's map."""
    background: Literal["threshold", "offset"] = "threshold"
    """Background where no fused map is above `threshold`; or the published rule, background + offset > 2 x fused."""
    threshold: Fraction = 0.3
    offset: Annotated[float, Field(ge=0)] = 0.4
    method: Literal["argmax", "crf", "irn"] = "crf"
    """The seeds themselves, the seeds after a dense CRF, or a random walk between edges learned from such seeds."""
    void_unsure: bool = False
    """With crf: void where only a second CRF, from maps with half the background, sees foreground. As published on
    COCO; the labels that IRN learns from are always made so."""
    crf: Crf = Crf()
    walk: Walk = Walk()


class Segmentation(Section):
    """Training of the segmentation model on pseudo-labels."""

    architecture: Literal["deeplabv3", "deeplabv2"] = "deeplabv3"
    """`deeplabv2`: output stride 8, summed branches, the head's bias at twice `head_lr` without weight decay."""
    backbone: Backbone | None = None
    """A network and weights of its own; None: the classifier's section. What is not said here has its default."""
    loss: Literal["cross_entropy", "balanced"] = "cross_entropy"
    """`balanced`: the mean over background pixels and the mean over foreground pixels, averaged."""
    epochs: Count = 10
    iterations: Count | None = None
    """Steps in all, for published schedules; None: as many as `epochs` has."""
    batch: Annotated[int, Field(ge=2)] = 10
    micro_batch: Annotated[int, Field(ge=2)] | None = None
    """As `classifier.micro_batch`."""
    crop: Annotated[int, Field(ge=32)] = 321
    resize: tuple[Positive, Positive] | None = (0.5, 1.5)
    """The image is resized by a random factor in this range."""
    flip: bool = True
    lr: Positive = 7e-3
    head_lr: Positive = 7e-2
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    clip: Positive = 10.0
    power: Annotated[float, Field(ge=0)] = 0.9
    rates: Annotated[tuple[Count, ...], Field(min_length=1)] | None = None
    """Dilations of the parallel branches; None: 6, 12, 18 for deeplabv3, 6, 12, 18, 24 for deeplabv2."""
    start: Literal["backbone", "classifier"] = "backbone"
    """Its backbone starts from the weights of the backbone's section, or from the trained classifier's."""
    precision: Precision = "auto"

    @model_validator(mode="after")
    def _range(self) -> Segmentation:
        if self.start == "classifier" and self.backbone is not None:
            raise ValueError("start: a backbone of its own can't start from the classifier's weights")
        if self.resize and self.resize[0] > self.resize[1]:
            raise ValueError(f"resize: an empty range, {list(self.resize)}")
        return self


class Evaluation(Section):
    """Prediction on the reporting split (method.md section 4); stored with every number as its `test_time`."""

    scales: TestScales = SCALE_PRESETS["three"]
    """Factors, or the name of a preset: single, three, five."""
    mirror: bool = True
    crf: Literal["none", "deeplab", "seam", "toco", "weclip"] = "none"
    """Dense CRF on the averaged probabilities, with the settings of a published work."""
    precision: Precision = "auto"


class Config(Section):
    """Everything that a result depends on."""

    seed: Annotated[int, Field(ge=0, lt=2**32)] = 10
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
    def _irn(self) -> Config:
        if self.pseudo.method == "irn" and self.backbone.name.startswith("timm/"):
            raise ValueError(
                f"pseudo.method: irn can't take {self.backbone.name}, which has no stages of its own: use "
                "pseudo.method=crf or a backbone of torchvision's"
            )
        return self
