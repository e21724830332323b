"""Distribution weights."""

from __future__ import annotations

import numpy as np
import pytest

from sfc.method.weighting import SCHEMES, distribution_weights, resampling_term

VOC = {
    "person": 4155, "chair": 1228, "dog": 1188, "car": 1150, "cat": 1005, "bottle": 714, "bird": 705, "sofa": 649,
    "diningtable": 613, "aeroplane": 590, "tvmonitor": 567, "pottedplant": 522, "bicycle": 504, "train": 503,
    "motorbike": 492, "boat": 468, "horse": 445, "bus": 393, "sheep": 300, "cow": 267,
}  # fmt: skip


@pytest.mark.parametrize("resampling", [396, resampling_term(10582, 16, 4, 20)])
def test_published_weights_of_voc(resampling: float) -> None:
    weights = dict(zip(VOC, distribution_weights(list(VOC.values()), "pairwise", resampling).tolist(), strict=True))
    assert {name: round(weights[name], 2) for name in ("bird", "cow", "person")} == {
        "bird": 0.77,
        "cow": 1.77,
        "person": 1.55,
    }
    assert min(weights, key=weights.__getitem__) == "bird" and max(weights, key=weights.__getitem__) == "cow"


def test_resampling_counts_the_images_that_the_bank_adds_to_a_class() -> None:
    assert resampling_term(10582, 16, 4, 20) == pytest.approx(396, abs=1)
    assert resampling_term(10582, 16, 0, 20) == 0


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("counts", [list(VOC.values()), [0, 3, 900], [0, 0, 1], [7]])
def test_weights_are_positive_finite_and_have_mean_one(scheme: str, counts: list[int]) -> None:
    weights = distribution_weights(counts, scheme, 5.0)
    assert weights.dtype == np.float32 and weights.shape == (len(counts),)
    assert np.isfinite(weights).all() and (weights >= 0).all()
    assert weights.mean() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("count", [0, 40])
def test_equally_frequent_classes_weigh_one(scheme: str, count: int) -> None:
    assert distribution_weights([count] * 6, scheme, 10.0).tolist() == [1.0] * 6


@pytest.mark.parametrize("scheme", [scheme for scheme in SCHEMES if scheme != "pairwise"])
def test_a_rarer_class_weighs_at_least_as_much(scheme: str) -> None:
    counts = np.sort(np.random.default_rng(0).integers(0, 5000, 30))
    weights = distribution_weights(counts, scheme, 3.0)
    assert (np.diff(weights) <= 0).all()
    if scheme != "uniform":
        assert weights[0] > weights[-1]


def test_pairwise_weighs_the_most_frequent_class_above_those_in_the_middle() -> None:
    weights = distribution_weights(list(VOC.values()), "pairwise", 396)
    assert weights[0] > weights[1:15].max()


def test_more_resampling_brings_the_inverse_weights_together() -> None:
    spread = [np.ptp(distribution_weights([10, 100, 1000], "inverse", r)) for r in (0, 100, 10_000)]
    assert spread[0] > spread[1] > spread[2]


def test_unknown_scheme_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'quadratic'.*pairwise.*effective_number"):
        distribution_weights([1, 2], "quadratic")
