"""What a method is: losses for a crop, class activation maps and image scores for a view. It knows nothing of files,
devices, loops or searches.

A method of one's own is a class in one file, named in YAML as `classifier.method: module:Class`; CONTRIBUTING.md has an
example, `experiments/plugins/` two.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

from torch import Tensor, nn

from sfc.config import Cam, NoOptions, Section
from sfc.data.crops import Crop
from sfc.networks.backbone import Backbone


class TrainingSet(NamedTuple):
    """What a method may know of the images that train it."""

    classes: tuple[str, ...]
    """Names of the C foreground classes."""
    counts: tuple[int, ...]
    """Images with each class."""
    resampled: float
    """Images that the image bank adds to each class, by the published rule."""


class Method(nn.Module, ABC):
    """A network on a backbone, trained from image labels, that gives maps.

    A subclass builds its heads behind `super().__init__(backbone, training, options)`. The backbone learns at
    `classifier.lr`, everything else at `classifier.head_lr`; later stages may start from the backbone's weights.

    Args:
        backbone: with its weights and frozen parts.
        training: the training images.
        options: an instance of `Options`.
    """

    Options: type[Section] = NoOptions
    """Section of the method's own settings, `classifier.options` in YAML."""
    backbone: Backbone

    def __init__(self, backbone: Backbone, training: TrainingSet, options: Section) -> None:
        super().__init__()
        self.backbone = backbone

    @abstractmethod
    def step(self, crop: Crop, progress: float) -> dict[str, Tensor]:
        """Losses by name.

        Args:
            crop: a batch whose `image` is normalised, (N, 3, S, S) float32; `label` (N, C) float32 in {0, 1}; `box`
                (N, 4), the image in its canvas.
            progress: part of the training that is done, in [0, 1).

        Returns:
            Scalars; `total` is what is minimised.
        """

    @abstractmethod
    def maps(self, image: Tensor, settings: Cam) -> dict[str, Tensor]:
        """Class activation maps of images at one scale, in eval mode and without gradient.

        Args:
            image: (N, 3, H, W) float32, normalised.
            settings: `mirror`: look at the mirror images too. The scales are not the method's concern.

        Returns:
            Maps by name, each (N, K, h, w) float32 >= 0, the background first. The first is the main one; the others
            are fused with it by `pseudo.fusion`.
        """

    @abstractmethod
    def scores(self, image: Tensor) -> Tensor:
        """Image-level logits (N, C) float32 of images (N, 3, H, W), normalised."""
