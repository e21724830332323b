"""Looking a data set through: extremes of size, labels and mask values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from sfc.config import Data
from sfc.data.check import check_data
from sfc.data.crops import make_crop
from sfc.data.dataset import open_folder
from sfc.method.weighting import distribution_weights
from tests.sfc.data.test_images import LARGE, flat_png

Voc = Callable[..., Path]
SECTION = Data(format="folder", select="train")


def test_one_pixel_and_108_million_pixels_are_in_order_and_make_crops(voc: Voc) -> None:
    pixel = np.zeros((1, 1, 3), np.uint8)
    root = voc({"one": pixel}, masks={"one": np.ones((1, 1), np.uint8)}, csv={"one": "cat", "large": "dog"})
    for folder, colour, stored in (("JPEGImages", 2, 3), ("SegmentationClass", 3, 1)):
        flat_png(root / folder / "large.png", LARGE, 8, colour, stored, LARGE[1])
    for split, name in (("train", "one\nlarge"), ("val", "one")):
        (root / "ImageSets" / "Segmentation" / f"{split}.txt").write_text(name)
    data = open_folder(root)
    report = check_data(data, SECTION)
    assert report.problems == [] and report.masks == {"train": 2, "val": 1}
    assert report.counts["train"].tolist() == [1, 1]
    for name, sides in (("one", {1.0: 1, 320.0: 32}), ("large", {1.0: 32, 16 / 12_000: 16})):
        image, mask = data.image(name), data.mask(name)
        for scale, side in sides.items():
            crop, target, box = make_crop(image, mask, 32, scale, True, np.random.default_rng(0))
            assert crop.shape == (32, 32, 3) and target.shape == (32, 32) and box[3] - box[2] == side


def test_masks_with_other_values_and_classes_without_an_image_are_listed(voc: Voc) -> None:
    images = {name: np.zeros((4, 4, 3), np.uint8) for name in "ab"}
    masks = {"a": np.full((4, 4), 9, np.uint8), "b": np.full((4, 4), 255, np.uint8)}
    root = voc(images, masks=masks, csv={"a": "cat", "b": ""}, splits={"train": ["a", "b"], "val": ["b"]})
    assert check_data(open_folder(root), SECTION).problems == [
        "a: ./SegmentationClass/a.png: values [9] stand for no class",
        "split train: no image of the class dog",
    ]


def test_a_class_with_one_image_and_one_without_have_weights() -> None:
    for counts in ([1, 50, 300], [0, 50, 300], [1, 1, 1]):
        weights = distribution_weights(counts)
        assert np.isfinite(weights).all() and np.isclose(weights.mean(), 1)
