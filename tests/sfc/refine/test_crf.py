"""Dense CRF on hard labels."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest

from sfc.config import Crf, Evaluation
from sfc.data.images import VOID
from sfc.refine.crf import PRESETS, crf_labels, crf_probabilities, ir_labels


@pytest.fixture
def scene() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A two-colour image with grain, its true labels, and the labels with a tenth of the pixels wrong."""
    rng = np.random.default_rng(0)
    truth = np.zeros((40, 48), np.uint8)
    truth[10:30, 14:36] = 1
    colour = np.where(truth[..., None] == 1, [200, 60, 40], [40, 120, 190])
    image = np.clip(colour + rng.normal(0, 4, colour.shape), 0, 255).astype(np.uint8)
    noisy = np.where(rng.random(truth.shape) < 0.1, 1 - truth, truth).astype(np.uint8)
    return image, truth, noisy


def test_noise_is_cleaned_along_the_image_s_edges(scene) -> None:
    image, truth, noisy = scene
    before = image.copy(), noisy.copy()
    result = crf_labels(image, noisy, 2, Crf())
    assert (noisy != truth).mean() > 0.08 and (result != truth).mean() < 0.01
    assert result.dtype == np.uint8 and result.shape == truth.shape
    assert np.array_equal(image, before[0]) and np.array_equal(noisy, before[1])


def test_without_kernels_the_labels_stay(scene) -> None:
    image, _, noisy = scene
    assert np.array_equal(crf_labels(image, noisy, 2, Crf(gaussian_compat=0, bilateral_compat=0)), noisy)


def test_a_space_of_one_label_returns_the_labels(scene) -> None:
    image = scene[0]
    assert np.array_equal(crf_labels(image, np.zeros(image.shape[:2], np.int64), 1, Crf()), np.zeros(image.shape[:2]))


def test_labels_stay_in_the_space_and_need_not_occur(scene) -> None:
    image, truth, noisy = scene
    result = crf_labels(image, noisy * 3, 5, Crf(iterations=3))
    assert set(np.unique(result)) <= {0, 3} and ((result == 3) == truth).mean() > 0.97
    assert set(np.unique(crf_labels(image, np.full(truth.shape, 2), 3, Crf(iterations=3)))) <= {0, 1, 2}


def test_images_may_be_read_only_strided_or_tiny(scene) -> None:
    image, _, noisy = scene
    expected = crf_labels(image, noisy, 2, Crf(iterations=2))
    frozen = image.copy()
    frozen.flags.writeable = False
    assert np.array_equal(crf_labels(frozen, noisy, 2, Crf(iterations=2)), expected)
    strided = np.repeat(image, 2, 1)[:, ::2]
    assert np.array_equal(crf_labels(strided, noisy, 2, Crf(iterations=2)), expected)
    assert crf_labels(image[:1, :1], noisy[:1, :1], 2, Crf(iterations=2)).shape == (1, 1)


def test_the_same_labels_come_out_every_time(scene) -> None:
    image, _, noisy = scene
    assert np.array_equal(crf_labels(image, noisy, 2, Crf()), crf_labels(image, noisy, 2, Crf()))


def probabilities(noisy: np.ndarray, channels: int = 3) -> np.ndarray:
    return np.where(np.arange(channels)[:, None, None] == noisy, 0.8, 0.2 / (channels - 1)).astype(np.float32)


def test_the_presets_have_the_published_values() -> None:
    assert {name: tuple(kernels) for name, kernels in PRESETS.items()} == {
        "deeplab": (10, 3, 1, 4, 67, 3),
        "seam": (1, 3, 3, 10, 32, 13),
        "toco": (10, 1, 1, 4, 121, 5),
        "weclip": (10, 3, 3, 4, 64, 5),
    }
    assert set(PRESETS) | {"none"} == set(get_args(Evaluation.model_fields["crf"].annotation))


@pytest.mark.parametrize("preset", PRESETS)
def test_probabilities_are_cleaned_along_the_image_s_edges(scene, preset: str) -> None:
    image, truth, noisy = scene
    result = crf_probabilities(image, probabilities(noisy), PRESETS[preset])
    assert result.dtype == np.uint8 and result.shape == truth.shape
    assert (result != truth).mean() < (noisy != truth).mean() / 2


def test_probabilities_of_0_and_half_precision_are_fine(scene) -> None:
    image, _, noisy = scene
    sure = (np.arange(2)[:, None, None] == noisy).astype(np.float16)
    assert np.array_equal(crf_probabilities(image, sure, PRESETS["seam"]._replace(pos_w=0, bi_w=0)), noisy)


def test_a_class_that_is_nowhere_likely_may_be_left_out(scene) -> None:
    image, _, noisy = scene
    probability = probabilities(noisy, 2)
    more = np.concatenate([probability, np.full((2, *noisy.shape), 1e-6, np.float32)])
    assert np.array_equal(*(crf_probabilities(image, p, PRESETS["deeplab"]) for p in (probability, more)))


def test_a_single_class_needs_no_crf(scene) -> None:
    image = scene[0]
    assert not crf_probabilities(image, np.ones((1, *image.shape[:2]), np.float32), PRESETS["toco"]).any()


def test_labels_for_irn_are_void_where_the_second_crf_alone_sees_foreground(scene) -> None:
    image, truth, _ = scene
    inner = np.zeros_like(truth)
    inner[15:25, 20:30] = 1
    maps = np.zeros((2, *truth.shape), np.float32)
    maps[0], maps[1] = 0.5, np.where(inner == 1, 0.9, np.where(truth == 1, 0.4, 0.1))
    plain = Crf(gaussian_compat=0, bilateral_compat=0)
    labels = ir_labels(image, maps, plain)
    assert np.array_equal(labels, np.where(inner == 1, 1, np.where(truth == 1, VOID, 0)))
    assert labels.dtype == np.uint8 and maps[0, 0, 0] == 0.5
    assert (ir_labels(image, maps[:1], plain) == 0).all()
