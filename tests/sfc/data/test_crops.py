"""Training crops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from sfc.data import Dataset
from sfc.data.crops import Augmentation, Crops, make_crop, normalise
from sfc.data.dataset import open_folder
from sfc.method.image_bank import BLANK, Recipe


def bright(height: int, width: int) -> Image.Image:
    """No pixel is 0, each has its place's value."""
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([y % 250 + 1, x % 250 + 1, np.full_like(x, 200)], 2).astype(np.uint8))


@pytest.fixture
def crops(tiny: Dataset):
    def build(**options) -> Crops:
        kind = {"crop": 48, "flip": False, "seed": 3} | options
        rest = {key: kind.pop(key) for key in ("seed", "masks") if key in kind}
        return Crops(tiny, tiny.split("train"), Augmentation(**kind), **rest)

    return build


@pytest.mark.parametrize(("height", "width"), [(20, 30), (100, 90), (20, 90), (90, 20), (48, 48), (1, 1), (1, 300)])
def test_outside_the_half_open_box_is_zero_and_inside_the_image(height: int, width: int) -> None:
    for seed in range(5):
        mask = np.full((height, width), 7, np.uint8)
        canvas, target, box = make_crop(bright(height, width), mask, 48, 1.0, False, np.random.default_rng(seed))
        top, bottom, left, right = box
        inside = np.zeros((48, 48), bool)
        inside[top:bottom, left:right] = True
        assert (bottom - top, right - left) == (min(height, 48), min(width, 48))
        assert canvas.shape == (48, 48, 3) and canvas.dtype == np.uint8
        assert np.array_equal((canvas > 0).all(2), inside) and np.array_equal((canvas == 0).all(2), ~inside)
        assert np.array_equal(target == 7, inside) and (target[~inside] == 255).all()


@pytest.mark.parametrize("side", [20, 100])
def test_an_image_lies_anywhere_in_the_canvas_and_the_crop_anywhere_in_the_image(side: int) -> None:
    places = set()
    for seed in range(200):
        canvas, _, (top, _, left, _) = make_crop(bright(side, side), None, 48, 1.0, False, np.random.default_rng(seed))
        first = canvas[top, left]
        places.add((top, left, int(first[0]), int(first[1])))
    span = np.ptp(np.array(sorted(places)), 0)
    assert (span[:2] if side < 48 else span[2:]).min() > 0.8 * abs(side - 48)


def test_image_and_mask_are_mirrored_and_resized_together() -> None:
    image, mask = np.full((40, 40, 3), 10, np.uint8), np.zeros((40, 40), np.uint8)
    image[:, :20], mask[:, :20] = 200, 3
    for flip in (False, True):
        for scale in (0.5, 1.0, 2.0):
            canvas, target, (top, bottom, left, right) = make_crop(
                Image.fromarray(image), mask, 80, scale, flip, np.random.default_rng(0)
            )
            assert (bottom - top, right - left) == (40 * scale, 40 * scale)
            agree = (canvas[top:bottom, left:right, 0] > 105) == (target[top:bottom, left:right] == 3)
            assert agree.mean() > 0.97
            assert (target[top, left] == 0) == flip
            assert set(np.unique(target[top:bottom, left:right])) == {0, 3}


def test_a_recipe_names_one_crop(crops) -> None:
    options = {"resize_long": (24, 64), "flip": True}
    one, two = crops(**options), crops(**options)
    for recipe in (Recipe(0, 0), Recipe(5, 2)):
        for a, b in zip(one[recipe], two[recipe], strict=True):
            assert torch.equal(a, b)
    assert not torch.equal(one[Recipe(0, 0)].image, one[Recipe(0, 1)].image)
    assert not torch.equal(one[Recipe(0, 0)].image, crops(**options, seed=4)[Recipe(0, 0)].image)


def test_crops_come_with_their_labels_and_form(crops, tiny: Dataset) -> None:
    crop = crops()[Recipe(4, 0)]
    assert crop.image.shape == (3, 48, 48) and crop.image.dtype == torch.uint8
    assert crop.label.tolist() == tiny.split("train").labels[4].tolist() and crop.label.dtype == torch.float32
    assert crop.box.dtype == torch.int64 and crop.mask.numel() == 0
    top, bottom, left, right = crop.box.tolist()
    original = torch.from_numpy(np.asarray(tiny.image("train_00004")).copy()).permute(2, 0, 1)
    assert torch.equal(crop.image[:, top:bottom, left:right], original)


def test_every_second_crop_is_mirrored_and_none_without_flip(crops, tiny: Dataset) -> None:
    original = torch.from_numpy(np.asarray(tiny.image("train_00000")).copy()).permute(2, 0, 1)
    mirrored = dict.fromkeys((False, True), 0)
    for flip in mirrored:
        source = crops(crop=32, flip=flip)
        for epoch in range(60):
            image = source[Recipe(0, epoch)].image
            assert torch.equal(image, original) or torch.equal(image, original.flip(-1))
            mirrored[flip] += torch.equal(image, original.flip(-1))
    assert mirrored[False] == 0 and 15 <= mirrored[True] <= 45


def test_the_long_side_is_resized_into_its_range_ends_included(crops) -> None:
    boxes = torch.stack([crops(crop=64, resize_long=(30, 33))[Recipe(0, epoch)].box for epoch in range(60)])
    assert set((boxes[:, 1] - boxes[:, 0]).tolist()) == {30, 31, 32, 33}


def test_the_image_is_resized_by_a_factor_of_its_range(crops) -> None:
    boxes = torch.stack([crops(crop=64, resize=(0.5, 1.5))[Recipe(0, epoch)].box for epoch in range(60)])
    heights = (boxes[:, 1] - boxes[:, 0]).tolist()
    assert 16 <= min(heights) < 20 and 44 < max(heights) <= 48


def test_masks_come_from_their_folder(crops, tiny: Dataset) -> None:
    crop = crops(masks=tiny.root / "SegmentationClass")[Recipe(2, 0)]
    top, bottom, left, right = crop.box.tolist()
    assert np.array_equal(crop.mask[top:bottom, left:right].numpy(), tiny.mask("train_00002"))
    assert int((crop.mask == 255).sum()) == 48 * 48 - 32 * 32


def test_an_empty_slot_is_blank_and_goes_into_a_batch_with_others(crops) -> None:
    source = crops()
    (batch,) = DataLoader(source, batch_sampler=[[Recipe(0, 0), BLANK]])
    assert batch.image.shape == (2, 3, 48, 48)
    assert (batch.image[1] == 0).all() and batch.label[1].sum() == 0 and batch.box[1].tolist() == [0, 0, 0, 0]
    assert batch.label[0].sum() > 0


def test_normalised_images_are_zero_outside_their_box() -> None:
    image = torch.full((2, 3, 6, 6), 255, dtype=torch.uint8)
    mean, std = (0.5, 0.4, 0.3), (0.5, 0.2, 0.1)
    result = normalise(image, torch.tensor([[1, 3, 2, 5], [0, 0, 0, 0]]), mean, std)
    inside = torch.zeros(6, 6, dtype=torch.bool)
    inside[1:3, 2:5] = True
    torch.testing.assert_close(result[0, :, 1, 2], torch.tensor([1.0, 3.0, 7.0]))
    assert (result[0][:, ~inside] == 0).all() and (result[0][:, inside] != 0).all() and (result[1] == 0).all()
    torch.testing.assert_close(normalise(image, None, mean, std)[1, :, 5, 5], torch.tensor([1.0, 3.0, 7.0]))


def test_images_of_one_pixel_are_cropped_at_any_scale(voc, tmp_path: Path) -> None:
    data = open_folder(voc({"a": np.full((1, 1, 3), 9, np.uint8)}, csv={"a": "cat"}))
    for options in ({"resize": (0.1, 0.5)}, {"resize_long": (32, 40)}, {}):
        crop = Crops(data, data.split("train"), Augmentation(32, flip=True, **options), seed=0)[Recipe(0, 0)]
        top, bottom, left, right = crop.box.tolist()
        assert bottom > top and right > left and (crop.image[:, top:bottom, left:right] == 9).all()
