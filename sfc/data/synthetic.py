"""Generated data set with the problem that SFC addresses: a long tail of classes that share features.

Classes come in pairs, a head and a tail class. Objects of a pair share the look of the body (shape, colour, pattern);
an emblem on the body tells the two classes apart, and often both stand in one image. The most frequent class is over 5
times as frequent as the last. The images are drawn from a seed and written in VOC layout.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from sfc.config import Synthetic
from sfc.data.images import IMAGES, MASKS, write_mask
from sfc.data.lists import write_labels, write_lists
from sfc.data.prepared import publish

GENERATOR_VERSION = 2
SPLITS = ("train", "select", "val")
PAIRS = (("crab", "urchin"), ("kite", "comet"), ("drum", "gong"), ("leaf", "fern"), ("tile", "vase"), ("reel", "cog"))
HEAD_RATE, TAIL_RATE = 0.36, 0.036
"""Chances of the most and the least frequent class; those between fall off geometrically."""
TOGETHER = 0.3
"""Chance that an image with a tail class also shows the head class that looks like it: there a map that answers to the
shared body covers both, at the cost of the tail class."""
POINTS = 6
"""Random points that are tried for an object's centre."""
RADIUS = (0.18, 0.27)
"""Smallest and largest radius of a body, as a part of the image's side."""
EMBLEM, OFFSET, REACH = 0.65, 0.7, 1.6
"""Radius of an emblem, distance of its centre, and a bound on the object's extent, in radii of the body."""


def class_names(groups: int) -> list[str]:
    """Foreground classes in mask order: all heads, most frequent first, then all tails."""
    return [head for head, _ in PAIRS[:groups]] + [tail for _, tail in PAIRS[:groups]]


def _noise(rng: np.random.Generator, size: int, cell: int) -> np.ndarray:
    """(size, size) smooth noise in [-1, 1] with features of about `cell` pixels."""
    coarse = Image.fromarray(rng.uniform(-1, 1, (size // cell + 2,) * 2).astype(np.float32))
    return np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC))


def _background(rng: np.random.Generator, size: int) -> np.ndarray:
    """(size, size, 3) float32, about [0, 1]: two colours blended by noise, with stripes and grain."""
    colours = (rng.uniform(0.25, 0.75, (2, 1, 1, 1)) + rng.uniform(-0.12, 0.12, (2, 1, 1, 3))).astype(np.float32)
    blend = (_noise(rng, size, int(rng.integers(6, 20)))[..., None] + 1) / 2
    y, x = np.ogrid[:size, :size]
    angle, wave = rng.uniform(0, np.pi), 2 * np.pi / rng.uniform(3, 12)
    stripes = np.sin(np.float32(np.cos(angle) * wave) * x + np.float32(np.sin(angle) * wave) * y, dtype=np.float32)
    texture = rng.uniform(0, 0.12) * stripes + 0.05 * rng.standard_normal((size, size), np.float32)
    return colours[1] + (colours[0] - colours[1]) * blend + texture[..., None].astype(np.float32)


def _polygon(radius: np.ndarray, angle: np.ndarray, corners: int) -> np.ndarray:
    """Distance from the centre over that of a regular polygon's edge in the same direction."""
    sector = 2 * np.pi / corners
    return radius * np.cos((angle % sector) - sector / 2) / np.cos(sector / 2)


def _shape(kind: int, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Where |shape| < 1: six kinds, in coordinates centred on the object."""
    kinds = (
        lambda: np.hypot(u, v),
        lambda: _polygon(np.hypot(u, v), np.arctan2(v, u), 4),
        lambda: _polygon(np.hypot(u, v), np.arctan2(v, u), 3),
        lambda: np.hypot(u * 0.8, v * 1.35),
        lambda: np.hypot(u, v) / (0.8 + 0.2 * np.cos(5 * np.arctan2(v, u))),
        lambda: np.maximum(np.abs(u) * 1.5, np.abs(v) * 0.95),
    )
    return kinds[kind % len(kinds)]()


def _pattern(kind: int, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Pattern of a body in [-1, 1]."""
    kinds = (
        lambda: np.sign(np.sin(9 * u)),
        lambda: np.sign(np.sin(8 * u) * np.sin(8 * v)),
        lambda: np.sin(12 * np.hypot(u, v)),
        lambda: np.sign(np.sin(7 * (u + v))),
        lambda: np.cos(10 * u) * np.cos(10 * v),
        lambda: np.sign(np.sin(10 * v)),
    )
    return kinds[kind % len(kinds)]()


def _colour(hue: float, light: float, strength: float = 0.4) -> np.ndarray:
    """(3,) an RGB colour."""
    return np.clip(light + strength * np.cos(2 * np.pi * (hue - np.array([0, 1 / 3, 2 / 3]))), 0, 1).astype(np.float32)


def _draw(
    image: np.ndarray, mask: np.ndarray, label: int, groups: int, others: list[np.ndarray], rng: np.random.Generator
) -> None:
    """Draw one object of the class `label` (from 0) over image and mask. The object's centre, the farthest of some
    random points from the centres `others`, is added to these."""
    size = len(mask)
    group, tail = label % groups, label >= groups
    scale = rng.uniform(*RADIUS) * size
    points = rng.uniform(scale, size - scale, (POINTS, 2))
    nearest = [min((np.hypot(*(point - other)) for other in others), default=0) for point in points]
    others.append(points[np.argmax(nearest)])
    cy, cx = others[-1]
    reach = REACH * scale
    top, left = max(0, int(cy - reach)), max(0, int(cx - reach))
    bottom, right = min(size, int(cy + reach) + 1), min(size, int(cx + reach) + 1)
    image, mask = image[top:bottom, left:right], mask[top:bottom, left:right]
    y, x = np.ogrid[top:bottom, left:right]
    turn = rng.uniform(0, 2 * np.pi)
    dy, dx = ((y - cy) / scale).astype(np.float32), ((x - cx) / scale).astype(np.float32)
    cos, sin = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    u, v = dx * cos + dy * sin, dy * cos - dx * sin

    hue = group / groups + rng.normal(0, 0.015)
    body = _shape(group, u, v) < 1
    image[body] = (_colour(hue, 0.5 + rng.normal(0, 0.05)) + 0.15 * _pattern(group, u, v)[..., None])[body]
    # The emblem sticks out of the body; head and tail differ in its shape and colour alone.
    eu, ev = (u - OFFSET) / EMBLEM, v / EMBLEM
    emblem = _shape(group + (3 if tail else 1), eu, ev) < 1
    colour = _colour(hue + (0.3 if tail else 0.6), 0.25 if tail else 0.75, 0.25)
    image[emblem] = (colour + 0.12 * np.sign(np.sin(9 * (eu if tail else ev)))[..., None])[emblem]
    covered = body | emblem
    image[covered] += 0.03 * rng.standard_normal((int(covered.sum()), 1), np.float32)
    mask[covered] = label + 1


def sample(section: Synthetic, split: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Images (H, W, 3) uint8 and masks (H, W) uint8 of a split, in order."""
    classes = 2 * section.groups
    rates = np.geomspace(HEAD_RATE, TAIL_RATE, classes)
    rates /= rates.sum()
    for index in range(getattr(section, split)):
        rng = np.random.default_rng([section.seed, SPLITS.index(split), index])
        image, mask = _background(rng, section.size), np.zeros((section.size, section.size), np.uint8)
        centres: list[np.ndarray] = []
        labels = rng.choice(classes, size=int(rng.integers(1, 3)), replace=False, p=rates).tolist()
        for label in [label for label in labels if label >= section.groups]:
            if label - section.groups not in labels and rng.random() < TOGETHER:
                labels.append(label - section.groups)
        for label in labels:
            _draw(image, mask, label, section.groups, centres, rng)
        yield (np.clip(image, 0, 1) * 255).round().astype(np.uint8), mask


def generate(section: Synthetic, root: Path) -> Path:
    """Write the data set below `root` unless it exists, and return its folder, which is named by the settings."""
    identity = f"{GENERATOR_VERSION} {section.model_dump_json()}"
    folder = root / f"synthetic-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"

    def build(folder: Path) -> None:
        (folder / IMAGES).mkdir()
        classes, labels = class_names(section.groups), {}
        splits: dict[str, list[str]] = {split: [] for split in SPLITS}
        for split, ids in splits.items():
            for index, (image, mask) in enumerate(sample(section, split)):
                ids.append(f"{split}_{index:05d}")
                Image.fromarray(image).save(folder / IMAGES / f"{ids[-1]}.png", compress_level=1)
                write_mask(folder / MASKS / f"{ids[-1]}.png", mask)
                labels[ids[-1]] = [classes[v - 1] for v in np.unique(mask) if v]
        write_lists(folder, splits, classes)
        write_labels(folder, labels)

    return folder if folder.is_dir() else publish(folder, {"generated": identity}, build)
