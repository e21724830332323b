"""Settings of the way from maps to pseudo-labels: background rule, CRF, IRN, random walk."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from sfc.config.base import Count, Factors, File, Fraction, NotNegative, Positive, Section, Training, check_range


class Crf(Section):
    """Dense CRF on hard labels (Krähenbühl and Koltun, 2011)."""

    iterations: Count = 12
    gt_prob: Annotated[float, Field(gt=0, lt=1)] = 0.7
    """Confidence in the labels that go in."""
    gaussian_sxy: Positive = 3.0
    gaussian_compat: NotNegative = 3.0
    bilateral_sxy: Positive = 50.0
    bilateral_srgb: Positive = 5.0
    bilateral_compat: NotNegative = 10.0


class Affinity(Training):
    """Training of IRN (Ahn, Cho, Kwak, CVPR 2019), whose edges hold the random walk back. Its labels follow the rule
    and the CRF of the section `pseudo`. Its backbone learns nothing: its weights are those that the section `backbone`
    names, or the trained classifier's where that section names none."""

    weights: File = None
    """A trained IRN, published or ours, taken as it is: nothing is trained."""
    epochs: Count = 3
    batch: Count = 32
    resize: Factors | None = (0.5, 1.0)
    """The image is resized by a random factor in this range. Edges are made on a canvas of at least `crop`: smaller
    images are padded below and to the right."""
    radius: Annotated[int, Field(ge=2)] = 10
    """Pairs of pixels nearer than this are compared, at a quarter of the image."""
    lr: Positive = 0.1
    """Learning rate of the edge branch."""
    displacement_lr: Positive = 1.0

    @model_validator(mode="after")
    def _ranges(self) -> Affinity:
        check_range("resize", self.resize)
        if (self.crop + 3) // 4 < 2 * self.radius - 1:
            raise ValueError(
                f"radius: a quarter of a crop of {self.crop} holds no pair at a radius of {self.radius}; "
                f"the largest is {((self.crop + 3) // 4 + 1) // 2}"
            )
        return self


class Walk(Section):
    """Random walk to the final pseudo-labels (IRN, as SFC applies it)."""

    fusion: NotNegative = 0.3
    """Weight of each further map beside the first."""
    walks: Literal["both", "foreground", "joint"] = "both"
    """Foreground maps with a constant background afterwards, all maps with the background's, or the sum of both."""
    power: Positive = 1.3
    """Exponent of the maps before the foreground walk."""
    background: NotNegative = 0.25
    """Constant background after the foreground walk, beside maps whose largest value is 1."""
    joint_power: Positive = 1.69
    """Exponent of the maps before the joint walk; 1.3 twice."""
    radius: Count = 5
    """Neighbours are nearer than this, at a quarter of the image."""
    beta: Positive = 10.0
    """Power of the affinity."""
    steps: Annotated[int, Field(ge=0)] = 256


class Pseudo(Section):
    """From maps to seeds to pseudo-labels."""

    fusion: NotNegative = 0.7
    """Weight of each further map of the method (of SFC: the prototype map) beside its first."""
    background: Literal["threshold", "offset"] = "threshold"
    """Background where no fused map is above `threshold`; or the published rule, background + offset > 2 x fused."""
    threshold: Fraction = 0.3
    offset: NotNegative = 0.4
    method: Literal["argmax", "crf", "irn", "masks"] = "crf"
    """The seeds themselves, the seeds after a dense CRF, or a random walk between edges learned from such seeds;
    `masks`: the images' own masks, the full supervision that is the upper bound of a comparison."""
    void_unsure: bool = False
    """With crf: void where only a second CRF, from maps with half the background, sees foreground. As published on
    COCO; the labels that IRN learns from are always made so."""
    crf: Crf = Crf()
    walk: Walk = Walk()


RULE = ("pseudo.fusion", "pseudo.background", "pseudo.threshold", "pseudo.offset")
"""Settings that make seeds of maps."""
