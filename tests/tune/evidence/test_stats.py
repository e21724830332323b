"""Statistics: intervals that hold what they say, corrections that are Holm's, nothing where there is nothing."""

import math

import numpy as np
import pytest
from scipy.stats import kendalltau, ttest_rel

from sfc.scoring.metrics import iou_of
from tune.evidence import stats
from tune.evidence.stats import Interval, holm, kendall, over_images, paired


def counts(rng: np.random.Generator, images: int = 6, classes: int = 3) -> np.ndarray:
    """(N, K, 3) such as a stage's images.npz has; the last class occurs in the first image alone."""
    hit = rng.integers(0, 50, (images, classes))
    pixels = np.stack([hit, hit + rng.integers(0, 50, hit.shape), hit + rng.integers(0, 50, hit.shape)], -1)
    pixels[1:, -1] = 0
    return pixels.astype(np.uint32)


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_the_interval_holds_the_true_mean_in_95_of_100_cases(seeds: int) -> None:
    rng, cases = np.random.default_rng(0), 2000
    intervals = [paired(rng.normal(3.0, 1.0, seeds))[0] for _ in range(cases)]
    error = math.sqrt(0.95 * 0.05 / cases)
    assert np.mean([i.low <= 3.0 <= i.high for i in intervals]) == pytest.approx(0.95, abs=3 * error)


@pytest.mark.parametrize("seeds", [2, 3, 5, 20])
def test_interval_and_p_say_the_same(seeds: int) -> None:
    rng = np.random.default_rng(0)
    results = [paired(rng.normal(mean, 1.0, seeds)) for mean in (0.0, 1.0, 3.0, -30.0) for _ in range(100)]
    assert [interval.excludes_zero for interval, _ in results] == [p < 0.05 for _, p in results]
    assert {p < 0.05 for _, p in results} == {True, False}


def test_one_seed_has_no_interval() -> None:
    interval, p = paired([0.3])
    assert interval.value == 0.3 and math.isnan(interval.low) and not interval.excludes_zero
    assert math.isnan(p)


@pytest.mark.parametrize("value", [0.0, 0.25, -0.1])
def test_equal_differences_have_an_interval_of_no_width(value: float) -> None:
    interval, p = paired([value] * 5)
    assert interval.low == interval.high == interval.value == pytest.approx(value)
    assert interval.excludes_zero == (value != 0)
    assert p == (value == 0)


def test_p_is_that_of_the_paired_test() -> None:
    rng = np.random.default_rng(0)
    one, two = rng.normal(size=(2, 5))
    interval, p = paired(one - two)
    assert p == pytest.approx(ttest_rel(one, two).pvalue)
    assert interval.value == pytest.approx((one - two).mean()) and interval.low < interval.value < interval.high


def test_holm_on_a_known_example() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1, 1]
    assert holm([math.nan, 0.02]) == pytest.approx([math.nan, 0.02], nan_ok=True)
    assert holm([]) == []


def test_images_agree_with_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stats, "RESAMPLES", 100)
    rng = np.random.default_rng(0)
    arm, reference = ([counts(rng) for _ in range(2)] for _ in range(2))
    draws = np.random.default_rng(0).multinomial(6, np.full(6, 1 / 6), size=100)
    differences = []
    for draw in draws:
        chosen = np.repeat(np.arange(6), draw)
        miou = [[np.nanmean(iou_of(run[chosen].sum(0))) for run in runs] for runs in (arm, reference)]
        differences.append(np.mean(miou[0]) - np.mean(miou[1]))
    found = over_images(arm, reference, [range(3)])[0]
    assert [found.low, found.high] == pytest.approx(np.quantile(differences, [0.025, 0.975]).tolist())
    whole = [np.mean([np.nanmean(iou_of(run.sum(0))) for run in runs]) for runs in (arm, reference)]
    assert found.value == pytest.approx(whole[0] - whole[1])


def test_the_same_arm_twice_differs_by_nothing() -> None:
    runs = [counts(np.random.default_rng(0))]
    assert over_images(runs, runs, [[0, 1, 2], [2]]) == [Interval(0, 0, 0)] * 2


def test_a_class_that_occurs_nowhere_has_no_difference() -> None:
    runs = [counts(np.random.default_rng(0))]
    runs[0][:, -1] = 0
    nothing, all_of_them = over_images(runs, runs, [[2], [0, 1, 2]])
    assert math.isnan(nothing.value) and math.isnan(nothing.low) and not nothing.excludes_zero
    assert all_of_them == Interval(0, 0, 0)


def test_an_arm_better_on_every_image_excludes_zero() -> None:
    reference = [counts(np.random.default_rng(seed), 50) for seed in range(2)]
    better = [run.copy() for run in reference]
    for run in better:
        run[..., 1] = run[..., 0]  # nothing wrong is predicted
    assert over_images(better, reference, [range(3)])[0].low > 0
    assert over_images(reference, better, [range(3)])[0].high < 0


def test_kendall() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=30)
    same = kendall(x, 2 * x + 1)
    assert [same.value, same.low, same.high] == pytest.approx([1, 1, 1])
    near, none = kendall(x, x + rng.normal(size=30)), kendall(x, rng.normal(size=30))
    assert 0 < near.low < near.value < near.high < 1
    assert none.low < 0 < none.high
    assert kendall(x, -x).value == pytest.approx(-1)


def test_kendall_with_ties_is_tau_b() -> None:
    rng = np.random.default_rng(0)
    for _ in range(5):
        x, y = rng.integers(0, 4, 12), rng.integers(0, 4, 12)
        assert kendall(x, y).value == pytest.approx(kendalltau(x, y).statistic)


@pytest.mark.parametrize(("x", "y"), [([1, 2, 3], [1, 2, 3]), ([1, 1, 1, 1], [1, 2, 3, 4]), ([1, 2, 3, 4], [5] * 4)])
def test_kendall_of_too_little_is_nothing(x: list[float], y: list[float]) -> None:
    found = kendall(x, y)
    assert all(math.isnan(v) for v in (found.value, found.low, found.high))


def test_kendall_bears_resamples_that_are_constant() -> None:
    assert kendall([1, 1, 1, 2], [1, 1, 1, 2]).value == pytest.approx(1)
