"""Figures: maps over images, bars by class, curves by epoch. matplotlib without a display."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from sfc.config import Pseudo
from sfc.data import Dataset
from sfc.data.images import VOID, palette, read_mask
from sfc.maps import load_maps
from sfc.refine.seeds import hard_labels, strongest

COLOURS = np.array(palette(), np.uint8).reshape(-1, 3)


def _figure(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Figure, np.ndarray]:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, np.atleast_2d(figure.subplots(rows, columns, squeeze=False))


def overlay(image: np.ndarray, label: np.ndarray, strength: float = 0.6) -> np.ndarray:
    """Class colours over a dimmed grey image; void is white.

    Args:
        image: (H, W, 3) uint8.
        label: (H, W) class indices.
        strength: of the colours, in [0, 1].

    Returns:
        (H, W, 3) uint8.
    """
    grey = np.repeat(image.mean(-1, keepdims=True), 3, -1)
    colour = np.where((label == VOID)[..., None], 255, COLOURS[label])
    mixed = np.where((label == 0)[..., None], grey * 0.6, (1 - strength) * grey + strength * colour)
    return mixed.astype(np.uint8)


def maps_figure(
    path: Path,
    data: Dataset,
    names: Sequence[str],
    maps: Path,
    section: Pseudo,
    predictions: dict[str, Path] | None = None,
) -> None:
    """For each image a row: image, strongest fused map, its seeds, further label maps by title, mask.

    Args:
        path: a PNG file.
        data: where images and masks are.
        names: of the images.
        maps: folder of their maps.
        section: fusion and background rule.
        predictions: folders of label maps, such as pseudo-labels, by title.
    """
    predictions = predictions or {}
    titles = ["image", "fused map", "seeds", *predictions, "mask"]
    figure, axes = _figure(1.7 * len(titles), 1.75 * len(names) + 0.2, len(names), len(titles))
    for row, name in zip(axes, names, strict=True):
        image = np.asarray(data.image(name))
        keys, cam, prototype = load_maps(maps / f"{name}.npz")
        label, height = strongest(keys, cam, prototype, section.fusion)
        seeds = keys[hard_labels(cam, prototype, section)]
        shown = [image, None, overlay(image, seeds)]
        shown += [overlay(image, read_mask(folder / f"{name}.png")) for folder in predictions.values()]
        shown.append(overlay(image, data.mask(name)) if data.mask_path(name).is_file() else np.zeros_like(image))
        for axis, picture, title in zip(row, shown, titles, strict=True):
            if picture is None:
                axis.imshow(overlay(image, np.zeros_like(label)))
                axis.imshow(height, cmap="inferno", vmin=0, vmax=1, alpha=0.75)
            else:
                axis.imshow(Image.fromarray(picture))
            axis.set_axis_off()
            if name == names[0]:
                axis.set_title(title, fontsize=9)
    figure.savefig(path, dpi=90)


def class_bars(path: Path, iou: dict[str, list[float]], classes: Sequence[str], counts: Sequence[int]) -> None:
    """Intersection over union by class, most frequent first, one group of bars a series.

    Args:
        path: a PNG file.
        iou: (K,) values by series, background first.
        classes: (C,) names.
        counts: (C,) training images.
    """
    order = np.argsort(-np.asarray(counts), kind="stable")
    figure, axes = _figure(max(6.0, 0.55 * len(order)), 3.2)
    axis, width = axes[0, 0], 0.8 / max(1, len(iou))
    for i, (name, values) in enumerate(iou.items()):
        axis.bar(np.arange(len(order)) + i * width, [values[c + 1] for c in order], width, label=name)
    axis.set_xticks(np.arange(len(order)) + 0.4 - width / 2)
    axis.set_xticklabels([f"{classes[c]}\n{counts[c]}" for c in order], fontsize=8)
    axis.set_ylabel("IoU")
    axis.set_xlabel("class and its number of training images")
    axis.legend(fontsize=8, frameon=False, ncols=len(iou), loc="lower left", bbox_to_anchor=(0, 1))
    figure.savefig(path, dpi=100)


def curves(path: Path, history: Sequence[dict[str, float]]) -> None:
    """Losses by epoch, each in its own panel since their sizes differ; no file for a network trained elsewhere.

    Args:
        path: a PNG file.
        history: from `sfc.fit.fit`.
    """
    if not history:
        return
    names = [name for name in history[0] if name not in ("epoch", "images_per_second")]
    figure, axes = _figure(2.6 * len(names), 2.4, 1, len(names))
    for axis, name in zip(axes[0], names, strict=True):
        axis.plot([h["epoch"] for h in history], [h[name] for h in history], marker=".")
        axis.set_title(name, fontsize=9)
        axis.set_xlabel("epoch", fontsize=8)
        axis.tick_params(labelsize=8)
    figure.savefig(path, dpi=90)
