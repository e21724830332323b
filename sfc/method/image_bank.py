"""The image bank: resampling that gives rare classes a place in most batches (SFC, "image bank re-sampling").

One slot a class holds the latest augmented crop of an image with that class; drawn crops join the batch. A crop is a
function of (seed, epoch, image), so a slot keeps that recipe, not the pixels: the bank of COCO takes 80 pairs of
numbers instead of 7 GB, is the same on every worker, and after an interruption is replayed from the labels alone.
Drawn crops are read again by the loader as uint8, like the others.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Recipe(NamedTuple):
    """Which crop: an image of the training split as augmented in an epoch."""

    image: int
    epoch: int


BLANK = Recipe(-1, -1)
"""An empty slot: a blank image without a label."""


class ImageBank:
    """Slots of the latest crop of each class.

    Args:
        classes: number of slots.
        draw_empty: draw empty slots too, as the published code does, instead of filled ones alone.
    """

    def __init__(self, classes: int, *, draw_empty: bool = False) -> None:
        self.slots = [BLANK] * classes
        self.draw_empty = draw_empty

    def update(self, batch: list[Recipe], labels_NC: np.ndarray) -> None:
        """Overwrite the slot of every positive class of every image; the last image in the batch wins."""
        for recipe in batch:
            for c in np.flatnonzero(labels_NC[recipe.image]):
                self.slots[c] = recipe

    def draw(self, number: int, rng: np.random.Generator) -> list[Recipe]:
        """`number` slots, uniformly with replacement; fewer (none) while no slot is filled."""
        slots = self.slots if self.draw_empty else [slot for slot in self.slots if slot is not BLANK]
        return [slots[i] for i in rng.integers(len(slots), size=number)] if slots else []


def epoch_batches(
    labels_NC: np.ndarray, bank: ImageBank, *, epoch: int, batch: int, drawn: int, seed: int
) -> list[list[Recipe]]:
    """All batches of one epoch, and the bank moved on to its end.

    The order is a permutation from (seed, epoch). The bank is updated before it is sampled. A last incomplete batch
    is left out, unless it is the only one.

    Args:
        labels_NC: image labels of the training split.
        bank: the bank at the epoch's start.
        epoch: from 0.
        batch: images from the permutation.
        drawn: images from the bank, appended to each batch.

    Returns:
        Lists of `batch + drawn` recipes.
    """
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(len(labels_NC))
    size = min(batch, len(order))
    batches = []
    for start in range(0, len(order) - size + 1, size):
        fresh = [Recipe(int(i), epoch) for i in order[start : start + size]]
        bank.update(fresh, labels_NC)
        batches.append(fresh + bank.draw(drawn, rng))
    return batches


def plain_batches(images: int, epoch: int, *, batch: int, seed: int) -> list[list[Recipe]]:
    """As `epoch_batches`, without labels and without a bank: of `images` images."""
    nothing = np.zeros((images, 0), np.uint8)
    return epoch_batches(nothing, ImageBank(0), epoch=epoch, batch=batch, drawn=0, seed=seed)
