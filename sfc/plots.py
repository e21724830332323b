"""Figures: maps over images, bars by class, curves by epoch. matplotlib without a display."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from sfc.config import Pseudo
from sfc.data import Dataset
from sfc.data.images import VOID, palette, read_mask
from sfc.refine.seeds import hard_labels, strongest
from sfc.runtime.map_files import load_maps

COLOURS = np.array(palette(), np.uint8).reshape(-1, 3)
COLUMN = 1.7
"""Inches of an image in a figure of maps."""


def make_figure(width: float, height: float, rows: int = 1, columns: int = 1, **more: Any) -> tuple[Figure, np.ndarray]:
    """A figure, sized in inches, that needs no display, and its (rows, columns) axes; `more` is for `subplots`."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, **more)


def overlay(image: np.ndarray, label: np.ndarray, strength: float = 0.6) -> np.ndarray:
    """Class colours, of a strength in [0, 1], over a dimmed grey image: (H, W, 3) uint8 from such an image and (H, W)
    class indices; void is white."""
    grey = np.repeat(image.mean(-1, keepdims=True), 3, -1)
    colour = np.where((label == VOID)[..., None], 255, COLOURS[label])
    mixed = np.where((label == 0)[..., None], grey * 0.6, (1 - strength) * grey + strength * colour)
    return mixed.astype(np.uint8)


def maps_grid(
    file: Path | BinaryIO,
    data: Dataset,
    names: Sequence[str],
    maps: Mapping[str, tuple[Path, Pseudo]],
    predictions: Mapping[str, Path] | None = None,
    dpi: int = 90,
) -> None:
    """A row for each image: the image; for each setting the strongest fused map and the seeds; label maps; the mask.

    Args:
        file: the PNG to write.
        data: images and masks.
        names: of the images.
        maps: folder of the maps, and fusion and background rule, of each setting by its title (`""`: none).
        predictions: folders of label maps, such as pseudo-labels, by title.
        dpi: pixels to an inch; a column is 1.7 inches wide.
    """
    predictions = predictions or {}
    parts = [f"{title}: {part}" if title else part for title in maps for part in ("fused map", "seeds")]
    titles = ["image", *parts, *predictions, "mask"]
    images = [np.asarray(data.image(name)) for name in names]
    heights = [image.shape[0] / image.shape[1] for image in images]
    width, height = COLUMN * len(titles), COLUMN * sum(heights) + 0.3
    figure, axes = make_figure(width, height, len(names), len(titles), height_ratios=heights)
    figure.set_layout_engine("constrained", w_pad=0.02, h_pad=0.02, hspace=0, wspace=0)
    for row, name, image in zip(axes, names, images, strict=True):
        pictures: list[tuple[np.ndarray, np.ndarray | None]] = [(image, None)]
        for folder, section in maps.values():
            keys, fields = load_maps(folder / f"{name}.npz")
            label, heat = strongest(keys, fields, section.fusion)
            seeds = keys[hard_labels(fields, section)]
            pictures += [(overlay(image, np.zeros_like(label)), heat), (overlay(image, seeds), None)]
        pictures += [(overlay(image, read_mask(folder / f"{name}.png")), None) for folder in predictions.values()]
        has_mask = data.mask_path(name).is_file()
        pictures.append((overlay(image, data.mask(name)) if has_mask else np.zeros_like(image), None))
        for axis, (picture, over), title in zip(row, pictures, titles, strict=True):
            axis.imshow(Image.fromarray(picture))
            if over is not None:
                axis.imshow(over, cmap="inferno", vmin=0, vmax=1, alpha=0.75)
            axis.set_axis_off()
            if name == names[0]:
                axis.set_title(title, fontsize=9)
    figure.savefig(file, dpi=dpi, format="png")


def class_bars(path: Path, iou: dict[str, list[float]], classes: Sequence[str], counts: Sequence[int]) -> None:
    """A PNG of intersection over union by class, most frequent class first.

    Args:
        path: the file.
        iou: (K,) values of each series by its name, background first.
        classes: (C,) names.
        counts: (C,) training images.
    """
    order = np.argsort(-np.asarray(counts), kind="stable")
    figure, axes = make_figure(max(6.0, 0.55 * len(order)), 3.2)
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
    """A PNG of losses by epoch, from `fit`, each in its own panel since their sizes differ; no file for a network that
    was trained elsewhere and has no history."""
    if not history:
        return
    names = [name for name in history[0] if name not in ("epoch", "images_per_second")]
    figure, axes = make_figure(2.6 * len(names), 2.4, 1, len(names))
    for axis, name in zip(axes[0], names, strict=True):
        axis.plot([h["epoch"] for h in history], [h[name] for h in history], marker=".")
        axis.set_title(name, fontsize=9)
        axis.set_xlabel("epoch", fontsize=8)
        axis.tick_params(labelsize=8)
    figure.savefig(path, dpi=90)
