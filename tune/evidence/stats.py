"""What a difference is worth: paired intervals over seeds and over images, p values, rank correlation.

Every interval is at 95 %. The random draws have a fixed seed: the same numbers in give the same numbers out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy  # its parts are imported when they are used

from sfc.scoring.metrics import iou_of

CONFIDENCE = 0.95
ENDS = ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)
RESAMPLES = 1000
"""Bootstrap draws of images, and of pairs."""
EQUAL = 1e-12
"""Differences nearer than this are the same number."""


@dataclass(frozen=True)
class Interval:
    """A number with both ends of its interval; NaN ends where there is none."""

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


NO_INTERVAL = Interval(math.nan, math.nan, math.nan)


def paired(differences: Sequence[float] | np.ndarray) -> tuple[Interval, float]:
    """Mean difference with its interval, and two-sided p, of the paired t-test: p < 0.05 where zero lies outside.

    Args:
        differences: (n,) arm minus reference, seed by seed.

    Returns:
        NaN ends and p for a single seed; an interval of no width where all differences are the same.
    """
    values = np.asarray(differences, np.float64)
    mean = float(values.mean())
    if len(values) < 2:
        return Interval(mean, math.nan, math.nan), math.nan
    if np.ptp(values) < EQUAL:  # no spread: the statistic is 0 / 0 or infinite
        return Interval(mean, mean, mean), 1.0 if abs(mean) < EQUAL else 0.0
    test = scipy.stats.ttest_1samp(values, 0.0)
    low, high = test.confidence_interval(CONFIDENCE)
    return Interval(mean, float(low), float(high)), float(test.pvalue)


def holm(p: Sequence[float]) -> list[float]:
    """Holm's correction (1979): the k-th smallest of m times m - k + 1, never falling, at most 1. NaN stays NaN."""
    values = np.asarray(p, np.float64)
    tests = int(np.isfinite(values).sum())
    order = np.argsort(values, kind="stable")[:tests]  # NaN is sorted last
    adjusted = np.full(len(values), np.nan)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(values[order] * np.arange(tests, 0, -1)))
    return adjusted.tolist()


def over_images(
    arm: Sequence[np.ndarray], reference: Sequence[np.ndarray], groups: Sequence[Sequence[int] | np.ndarray]
) -> list[Interval]:
    """Differences of mean IoU, mean over seeds, with their intervals from resampled images: percentiles.

    A resample draws N images with replacement, the same for both arms and all seeds; its counts are added up to one
    mIoU an arm and seed.

    Args:
        arm: by seed, (N, K, 3) true positive, predicted and true pixels (`sfc.scoring.tally.read_images`).
        reference: the same seeds and images of the reference.
        groups: channels that one number is the mean over; all K for the mIoU.

    Returns:
        One interval a group; NaN where none of the group's classes occurs.
    """
    images = len(reference[0])
    whole = np.ones((1, images))
    values = (_mious(whole, arm, groups) - _mious(whole, reference, groups))[:, 0]
    rng, draws = np.random.default_rng(0), []
    for _ in range(0, RESAMPLES, 100):  # 100 at a time: the weights of 40,000 images take 32 MB
        weights = rng.multinomial(images, np.full(images, 1 / images), size=100).astype(np.float64)
        draws.append(_mious(weights, arm, groups) - _mious(weights, reference, groups))
    differences = np.concatenate(draws, 1)
    differences[np.isnan(values)] = 0  # nanquantile warns of rows without a number
    low, high = np.nanquantile(differences, ENDS, axis=1)
    ends = zip(values.tolist(), low.tolist(), high.tolist(), strict=True)
    return [Interval(*each) if math.isfinite(each[0]) else NO_INTERVAL for each in ends]


def _mious(weights: np.ndarray, runs: Sequence[np.ndarray], groups: Sequence[Sequence[int] | np.ndarray]) -> np.ndarray:
    """(R, N) how often each image counts, by seed (N, K, 3) -> (G, R) mean IoU of each group, mean over seeds."""
    means = []
    for pixels in runs:
        total = weights @ pixels.reshape(len(pixels), -1).astype(np.float64)
        iou = np.ma.masked_invalid(iou_of(total.reshape(len(weights), *pixels.shape[1:])))
        means.append([iou[:, list(group)].mean(1).filled(np.nan) for group in groups])
    return np.mean(means, 0)


def kendall(x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray) -> Interval:
    """Kendall's tau-b of (n,) numbers of the same things, with its percentile interval by bootstrap over pairs. All NaN
    where x or y is constant or n < 4."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if len(x) < 4 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return NO_INTERVAL

    orders = [np.sign(values[:, None] - values) for values in (x, y)]

    def tau(pairs: np.ndarray) -> float:  # scipy's takes seconds for all the draws of a search
        a, b = (order[np.ix_(pairs, pairs)] for order in orders)
        untied = math.sqrt((a * a).sum() * (b * b).sum())
        return float((a * b).sum()) / untied if untied else math.nan

    draws = np.random.default_rng(0).integers(len(x), size=(RESAMPLES, len(x)))
    low, high = np.nanquantile([tau(pairs) for pairs in draws], ENDS)  # a constant resample has none
    return Interval(tau(np.arange(len(x))), float(low), float(high))
