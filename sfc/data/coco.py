"""MS COCO 2014 and 2017: image labels and semantic masks from the official instances JSON.

Below the root, as the official archives extract: `annotations/instances_{train,val}YEAR.json`, `trainYEAR/` and
`valYEAR/`.

- Classes: the 80 categories in the order of their ids (1 to 90 with gaps), numbered 1 to 80. Spaces in names become
  underscores (`traffic_light`), since image_labels.csv separates labels by spaces.
- Image labels: the classes of all annotations of an image, crowds too.
- Masks: each annotation is a region, rasterised by pycocotools. A region with fewer pixels lies in front of a larger
  one; of equally large ones, that with the lower annotation id. A crowd region takes part in that order like any other,
  but its value is void (255). Polygons of fewer than three points cover nothing. All other pixels are background.
- Splits: train and val are the images with at least one annotation (2014: 82,081 and 40,137; 2017: 117,266 and 4,952;
  the sums agree, as the years divide the same images differently); train_all and val_all are all images (2014: 82,783
  and 40,504; 2017: 118,287 and 5,000). In the order of the image ids.

Masks are rendered once, into the prepared folder, 75 to 100 a second on one core with 7 polygons each; an interrupted
preparation goes on with the masks that are missing. The JSON of train 2017 takes 3 GB of memory.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as rle

from sfc.data.check import PublishedCounts
from sfc.data.images import IMAGES, MASKS, VOID, write_mask
from sfc.data.lists import write_labels, write_lists
from sfc.data.prepared import prepared_folder, publish, require
from sfc.errors import UserError

VERSION = 1
"""Raised when a rule above changes: folders that an earlier version prepared are made anew."""
PUBLISHED = {
    2014: PublishedCounts(80, {"train": 82_081, "train_all": 82_783, "val": 40_137, "val_all": 40_504}),
    2017: PublishedCounts(80, {"train": 117_266, "train_all": 118_287, "val": 4_952, "val_all": 5_000}),
}
CHUNK = 1000
"""Images between two progress lines, at which Ctrl-C takes effect."""

log = logging.getLogger("sfc")


@dataclass(frozen=True)
class CocoImage:
    """An image and its annotations, as in the JSON."""

    file: str
    height: int
    width: int
    annotations: list[dict[str, Any]]

    @property
    def name(self) -> str:
        return Path(self.file).stem


def read_instances(path: Path) -> tuple[dict[int, str], list[CocoImage]]:
    """Names of the categories by id, and the images, both in ascending order of the ids. Raises UserError if the file
    is not JSON, cut short, or not an instances file."""
    try:
        content = json.loads(path.read_bytes())
        categories = {int(c["id"]): str(c["name"]).replace(" ", "_") for c in content["categories"]}
        images = {
            int(i["id"]): CocoImage(str(i["file_name"]), int(i["height"]), int(i["width"]), [])
            for i in content["images"]
        }
        for annotation in content["annotations"]:
            for key, ids in (("image_id", images), ("category_id", categories)):
                if annotation[key] not in ids:
                    raise UserError(f"{path}: annotation {annotation['id']} has the unknown {key} {annotation[key]}")
            images[annotation["image_id"]].annotations.append(annotation)
    except ValueError as error:  # from JSON and from decoding text, too
        raise UserError(f"{path}: not JSON, or cut short ({error}); is its archive extracted whole?") from None
    except (KeyError, TypeError) as error:
        raise UserError(f"{path}: not an instances file of COCO ({type(error).__name__}: {error})") from None
    return dict(sorted(categories.items())), [images[key] for key in sorted(images)]


def _region(segmentation: Any, height: int, width: int) -> np.ndarray:
    """(H, W) bool from a list of polygons or from plain run lengths, the two forms of the official files."""
    if isinstance(segmentation, list):
        polygons = [polygon for polygon in segmentation if len(polygon) >= 6]
        if not polygons:
            return np.zeros((height, width), bool)
        return rle.decode(rle.merge(rle.frPyObjects(polygons, height, width))).astype(bool)
    if list(segmentation["size"]) != [height, width]:
        raise ValueError(f"run lengths of {segmentation['size']}, the image is {[height, width]}")
    if not isinstance(segmentation["counts"], list):  # pycocotools does not notice when these end too early
        raise ValueError("compressed run lengths, which official files don't have")
    if sum(segmentation["counts"]) != height * width:
        raise ValueError(f"run lengths of {sum(segmentation['counts'])} pixels, the image has {height * width}")
    return rle.decode(rle.frPyObjects(segmentation, height, width)).astype(bool)


def render(image: CocoImage, index: dict[int, int]) -> np.ndarray:
    """(H, W) uint8 class indices, 255 = void, by the rule above; `index` is the class index by category id. Raises
    UserError if an annotation's region can't be read."""
    regions = []
    for annotation in image.annotations:
        try:
            region = _region(annotation["segmentation"], image.height, image.width)
        except Exception as error:  # pycocotools raises bare exceptions
            why = f"the region of annotation {annotation['id']} can't be read ({type(error).__name__}: {error})"
            raise UserError(f"{image.file}: {why}") from None
        value = VOID if annotation.get("iscrowd") else index[annotation["category_id"]]
        regions.append((int(region.sum()), int(annotation["id"]), value, region))
    mask = np.zeros((image.height, image.width), np.uint8)
    for _, _, value, region in sorted(regions, key=lambda r: r[:2], reverse=True):
        mask[region] = value
    return mask


def prepare_coco(root: Path, year: int) -> Path:
    """Folder in VOC layout, made unless it exists. Images that are not on disk are linked all the same.

    Raises:
        UserError: parts are missing (all are listed), a JSON can't be read, or the two have different categories.
    """
    files = {half: f"annotations/instances_{half}{year}.json" for half in ("train", "val")}
    parts = (*files.values(), *(f"{half}{year}" for half in files))
    require(root, parts, f"Expected as the archives of COCO {year} extract; --download fetches them")
    hashes = {}
    for half, path in files.items():
        with (root / path).open("rb") as file:
            hashes[half] = hashlib.file_digest(file, "sha256").hexdigest()

    def build(folder: Path) -> None:
        (categories, train), (others, val) = (read_instances(root / path) for path in files.values())
        if others != categories:
            raise UserError(f"{root}/annotations: the files of train and val {year} have different categories")
        index = {key: i for i, key in enumerate(categories, 1)}
        _write_lists(folder, {"train": train, "val": val}, index, list(categories.values()))
        (folder / IMAGES).mkdir(exist_ok=True)
        for half, images in (("train", train), ("val", val)):
            source = Path(os.path.relpath((root / f"{half}{year}").resolve(), (folder / IMAGES).resolve()))
            for name in (Path(image.file).name for image in images):
                (folder / IMAGES / name).symlink_to(source / name)  # relative, so that the root can be moved
            _render_all(images, index, folder / MASKS, f"{half}{year}")

    return publish(prepared_folder(root, f"coco{year % 100}"), {"rule": VERSION, **hashes}, build)


def _write_lists(folder: Path, halves: dict[str, list[CocoImage]], index: dict[int, int], classes: list[str]) -> None:
    """Write lists, classes and image labels. Raises UserError if two images share a name."""
    everything = [image for images in halves.values() for image in images]
    labels = {}
    for image in everything:
        present = sorted({index[annotation["category_id"]] for annotation in image.annotations})
        labels[image.name] = [classes[i - 1] for i in present]
    if len(labels) < len(everything):
        raise UserError(f"annotations: {len(everything) - len(labels)} images have the name of another")
    splits = {half: [image.name for image in images if image.annotations] for half, images in halves.items()}
    splits |= {f"{half}_all": [image.name for image in images] for half, images in halves.items()}
    write_lists(folder, splits, classes)
    write_labels(folder, labels)


def _render_all(images: list[CocoImage], index: dict[int, int], folder: Path, title: str) -> None:
    def write(image: CocoImage) -> None:
        path = folder / f"{image.name}.png"
        if not path.exists():
            write_mask(path, render(image, index))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(images), CHUNK):
            list(pool.map(write, images[start : start + CHUNK]))
            log.info("  masks of %s: %d of %d", title, min(start + CHUNK, len(images)), len(images))
