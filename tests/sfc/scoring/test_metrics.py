"""Metrics from one confusion matrix."""

from __future__ import annotations

import numpy as np
import pytest

from sfc.scoring.metrics import THRESHOLDS, class_iou, confusion, frequency_thirds, seed_histogram, summarise, sweep


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_a_perfect_prediction_scores_one(rng: np.random.Generator) -> None:
    truth = rng.integers(0, 5, (20, 20)).astype(np.uint8)
    result = summarise(confusion(truth, truth, 5), [40, 30, 20, 10])
    assert result == dict.fromkeys(result, 1.0)
    assert set(result) == {"miou", "miou_head", "miou_middle", "miou_tail", "accuracy", "coverage"}


def test_confusion_pixel_by_pixel(rng: np.random.Generator) -> None:
    truth = rng.choice([0, 1, 2, 255], (9, 11)).astype(np.uint8)
    predicted = rng.choice([0, 1, 2, 255], (9, 11)).astype(np.uint8)
    expected = np.zeros((3, 4), np.int64)
    for t, p in zip(truth.flat, predicted.flat, strict=True):
        if t != 255:
            expected[t, 3 if p == 255 else p] += 1
    assert np.array_equal(confusion(truth, predicted, 3), expected)


def test_predicted_void_counts_as_wrong_and_lowers_the_coverage() -> None:
    truth = np.zeros((10, 10), np.uint8)
    truth[5:] = 1
    predicted = truth.copy()
    predicted[5:, :5] = 255
    matrix = confusion(truth, predicted, 2)
    result = summarise(matrix, [1])
    assert class_iou(matrix).tolist() == [1.0, 0.5]
    assert (result["miou"], result["accuracy"], result["coverage"]) == (0.75, 0.75, 0.75)


def test_void_in_the_truth_never_counts(rng: np.random.Generator) -> None:
    truth = rng.integers(0, 3, (10, 10)).astype(np.uint8)
    truth[:3] = 255
    one, other = truth.copy(), truth.copy()
    one[:3], other[:3] = 0, rng.integers(0, 3, (3, 10))
    assert np.array_equal(confusion(truth, one, 3), confusion(truth, other, 3))
    assert confusion(truth, one, 3).sum() == 70
    assert summarise(confusion(truth, one, 3), [1, 1])["miou"] == 1


def test_iou_of_one_matrix_is_not_the_mean_over_images() -> None:
    truth = [np.array([[1, 1, 1, 1]], np.uint8), np.array([[0, 0, 0, 1]], np.uint8)]
    predicted = [truth[0], np.zeros((1, 4), np.uint8)]
    matrix = sum(confusion(t, p, 2) for t, p in zip(truth, predicted, strict=True))
    assert class_iou(matrix).tolist() == [3 / 4, 4 / 5]


def test_a_class_that_neither_occurs_nor_is_predicted_is_nan_and_left_out_of_the_mean() -> None:
    truth = np.array([[0, 1]], np.uint8)
    iou = class_iou(confusion(truth, truth, 4))
    assert iou[:2].tolist() == [1, 1] and np.isnan(iou[2:]).all()
    assert summarise(confusion(truth, truth, 4), [3, 2, 1]) == {
        "miou": 1.0,
        "miou_head": 1.0,
        "accuracy": 1.0,
        "coverage": 1.0,
    }
    predicted = np.array([[0, 3]], np.uint8)
    assert class_iou(confusion(truth, predicted, 4))[[1, 3]].tolist() == [0, 0]


def test_no_pixel_at_all_gives_numbers() -> None:
    result = summarise(np.zeros((3, 4), np.int64), [1, 2])
    assert result["miou"] == 0 and all(np.isfinite(value) for value in result.values())


def test_thirds_by_frequency() -> None:
    thirds = frequency_thirds([5, 900, 30, 400, 1, 60])
    assert {name: classes.tolist() for name, classes in thirds.items()} == {
        "head": [2, 4],
        "middle": [6, 3],
        "tail": [1, 5],
    }
    sizes = [len(classes) for classes in frequency_thirds(np.arange(20)).values()]
    assert sum(sizes) == 20 and max(sizes) - min(sizes) <= 1


def test_thirds_are_averaged_over_their_own_classes() -> None:
    truth = np.repeat(np.arange(4, dtype=np.uint8), 10)
    predicted = truth.copy()
    predicted[truth == 3] = 0
    result = summarise(confusion(truth, predicted, 4), [30, 20, 10])
    assert (result["miou_head"], result["miou_middle"], result["miou_tail"]) == (1, 1, 0)


def test_the_sweep_equals_the_confusion_at_each_threshold(rng: np.random.Generator) -> None:
    shape = (30, 40)
    truth = rng.choice([0, 1, 2, 3, 255], shape).astype(np.uint8)
    label = rng.choice([1, 3], shape).astype(np.int64)
    height = rng.uniform(0, 0.8, shape).astype(np.float32)
    height[:4] = rng.choice(THRESHOLDS, (4, 40))
    matrices = sweep(seed_histogram(truth, label, height, 4))
    assert len(matrices) == len(THRESHOLDS) == 61 and THRESHOLDS[[0, -1]].tolist() == [0, 0.6]
    for matrix, threshold in zip(matrices, THRESHOLDS, strict=True):
        predicted = np.where(height > threshold.astype(height.dtype), label, 0).astype(np.uint8)
        assert np.array_equal(matrix, confusion(truth, predicted, 4)[:, :4]), threshold


def test_sweeps_of_images_add_up(rng: np.random.Generator) -> None:
    truth, label = rng.integers(0, 3, (2, 50)).astype(np.uint8), rng.integers(1, 3, (2, 50))
    height = rng.uniform(0, 1, (2, 50))
    parts = [seed_histogram(*image, 3) for image in zip(truth, label, height, strict=True)]
    assert np.array_equal(sweep(sum(parts)), sweep(seed_histogram(truth, label, height, 3)))


@pytest.mark.parametrize(("truth", "predicted", "words"), [(7, 0, "true class of 7"), (0, 9, "predicted class of 9")])
def test_a_value_that_is_no_class_is_named(truth: int, predicted: int, words: str) -> None:
    with pytest.raises(ValueError, match=f"{words}, with 4 channels"):
        confusion(np.full((2, 2), truth, np.uint8), np.full((2, 2), predicted, np.uint8), 4)


def test_a_prediction_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(3, 2\)"):
        confusion(np.zeros((3, 2), np.uint8), np.zeros((2, 3), np.uint8), 2)


def test_as_many_classes_as_a_byte_holds() -> None:
    truth = np.arange(255, dtype=np.uint8).reshape(5, 51)
    assert np.array_equal(confusion(truth, truth, 255), np.eye(255, 256, dtype=np.int64))
