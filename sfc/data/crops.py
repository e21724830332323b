"""Training crops: augmentation from a seed made of run, epoch and image, so that a crop can be made again."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from sfc.data.dataset import Dataset, Split
from sfc.data.decoded import Decoded
from sfc.data.images import VOID, read_mask
from sfc.method.image_bank import Recipe


class Crop(NamedTuple):
    """A crop, or a batch of them with a first dimension N."""

    image: Tensor
    """(3, S, S) uint8; outside the box 0."""
    box: Tensor
    """(4,) int64: top, bottom, left, right of the image in the canvas, half-open."""
    label: Tensor
    """(C,) float32 in {0, 1}."""
    mask: Tensor
    """(S, S) uint8, 255 outside the box; (0, 0) where there is no mask."""


def placement(length: int, crop: int, rng: np.random.Generator) -> tuple[int, int, int]:
    """Random placement along one side: start in the image, start in the canvas, length of the shared part."""
    shared = min(length, crop)
    slack = int(rng.integers(abs(length - crop) + 1))
    return (slack, 0, shared) if length > crop else (0, slack, shared)


def make_crop(
    image: Image.Image, mask: np.ndarray | None, crop: int, scale: float, flip: bool, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray | None, list[int]]:
    """Resize by `scale`, mirror if `flip`, put at random into a canvas of crop x crop.

    Returns:
        Image (S, S, 3) uint8, mask (S, S) uint8 or None, box [top, bottom, left, right].
    """
    if scale != 1:
        size = [max(1, round(side * scale)) for side in image.size]
        image = image.resize(size, Image.Resampling.BICUBIC)
        mask = None if mask is None else np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
    pixels = np.asarray(image)
    if flip:
        pixels, mask = pixels[:, ::-1], None if mask is None else mask[:, ::-1]
    (sy, cy, h), (sx, cx, w) = (placement(length, crop, rng) for length in pixels.shape[:2])
    canvas = np.zeros((crop, crop, 3), np.uint8)
    canvas[cy : cy + h, cx : cx + w] = pixels[sy : sy + h, sx : sx + w]
    if mask is None:
        return canvas, None, [cy, cy + h, cx, cx + w]
    target = np.full((crop, crop), VOID, np.uint8)
    target[cy : cy + h, cx : cx + w] = mask[sy : sy + h, sx : sx + w]
    return canvas, target, [cy, cy + h, cx, cx + w]


class Augmentation(NamedTuple):
    """Random changes of an image before it is cropped."""

    crop: int
    """Side of the canvas, S."""
    flip: bool
    """Mirror every second image."""
    resize_long: tuple[int, int] | None = None
    """Range of the long side's length."""
    resize: tuple[float, float] | None = None
    """Range of a random factor."""


class Crops(TorchDataset[Crop]):
    """Crops by recipe, for a DataLoader whose batch sampler gives recipes.

    Args:
        data, split: the images to train on.
        augmentation: what is done to them.
        seed: of the run.
        masks: folder of masks by image name, or None for labels alone.
    """

    def __init__(
        self,
        data: Dataset,
        split: Split,
        augmentation: Augmentation,
        *,
        seed: int,
        masks: Path | None = None,
    ) -> None:
        self.data, self.split, self.seed, self.masks = data, split, seed, masks
        self.decoded = Decoded.open(data, split)
        self.crop, self.flip, self.resize_long, self.resize = augmentation

    def __getitem__(self, recipe: Recipe) -> Crop:
        index, epoch = recipe
        if index < 0:  # an empty slot of the image bank
            shape = (3, self.crop, self.crop)
            label = torch.zeros(self.split.labels.shape[1])
            return Crop(torch.zeros(shape, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64), label, torch.empty(0))
        rng = np.random.default_rng([self.seed, epoch, index])
        name = self.split.ids[index]
        image = self.data.image(name) if self.decoded is None else self.decoded[index]
        scale = 1.0
        if self.resize_long is not None:
            scale = int(rng.integers(self.resize_long[0], self.resize_long[1] + 1)) / max(image.size)
        elif self.resize is not None:
            scale = float(rng.uniform(*self.resize))
        flip = self.flip and bool(rng.integers(2))
        mask = None if self.masks is None else read_mask(self.masks / f"{name}.png")
        canvas, target, box = make_crop(image, mask, self.crop, scale, flip, rng)
        return Crop(
            torch.from_numpy(canvas).permute(2, 0, 1),
            torch.tensor(box),
            torch.from_numpy(self.split.labels[index]).float(),
            torch.empty(0) if target is None else torch.from_numpy(target),
        )


def normalise(image_N3HW: Tensor, box_N4: Tensor | None, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """uint8 RGB to the backbone's input, float32; outside the box 0, which is the mean colour."""
    mean_, std_ = (torch.tensor(value, device=image_N3HW.device)[:, None, None] for value in (mean, std))
    image = (image_N3HW.float() / 255 - mean_) / std_
    if box_N4 is None:
        return image
    height, width = image.shape[-2:]
    y, x = torch.arange(height, device=image.device), torch.arange(width, device=image.device)
    top, bottom, left, right = box_N4.to(image.device)[:, :, None].unbind(1)
    rows, columns = (y >= top) & (y < bottom), (x >= left) & (x < right)
    return image * (rows[:, None, :, None] & columns[:, None, None, :])
