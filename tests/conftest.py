"""For every test: a small generated set, a factory of folders in VOC layout, an S3 server on this machine."""

from __future__ import annotations

import logging
import re
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sfc.config import Backbone, Data, Synthetic
from sfc.data import Dataset, open_dataset
from sfc.data.images import write_mask

torch.set_num_threads(1)

TINY = Synthetic(size=32, groups=2, train=12, select=4, val=4)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take longest come first, so that no worker is left alone with one at the end."""
    seconds: Counter[Path] = Counter()
    for item in items:
        if mark := item.get_closest_marker("slow"):
            seconds[item.path] += mark.kwargs.get("seconds", 10)
    items.sort(key=lambda item: -seconds[item.path])


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """20 generated images of 32 x 32 with 4 classes; read only."""
    return open_dataset(Data(root=str(tmp_path_factory.mktemp("tiny")), synthetic=TINY))


@pytest.fixture
def small() -> Backbone:
    """The backbone that starts from scratch."""
    return Backbone(name="small", mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), frozen_stages=0, freeze_norm=False)


@pytest.fixture
def voc(tmp_path: Path) -> Callable[..., Path]:
    """Writes a folder in VOC layout: images and masks by name, labels as csv rows or XML objects, lists by split."""

    def make(
        images: dict[str, np.ndarray | Image.Image],
        *,
        root: Path | None = None,
        classes: tuple[str, ...] = ("cat", "dog"),
        masks: dict[str, np.ndarray] | None = None,
        csv: dict[str, str] | None = None,
        xml: dict[str, list[str]] | None = None,
        splits: dict[str, list[str]] | None = None,
        suffix: str = ".png",
    ) -> Path:
        root = root or tmp_path / "voc"
        for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        for name, image in images.items():
            picture: Any = image if isinstance(image, Image.Image) else Image.fromarray(image)
            picture.save(root / "JPEGImages" / f"{name}{suffix}")
        for name, mask in (masks or {}).items():
            write_mask(root / "SegmentationClass" / f"{name}.png", mask)
        (root / "classes.txt").write_text("".join(f"{name}\n" for name in classes))
        if csv is not None:
            rows = "".join(f"{name},{labels}\n" for name, labels in csv.items())
            (root / "image_labels.csv").write_text("image,labels\n" + rows)
        if xml is not None:
            (root / "Annotations").mkdir(exist_ok=True)
            for name, objects in xml.items():
                body = "".join(f"<object><name>{text}</name></object>" for text in objects)
                (root / "Annotations" / f"{name}.xml").write_text(f"<annotation>{body}</annotation>")
        for split, names in (splits or {"train": list(images)}).items():
            (root / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("".join(f"{n}\n" for n in names))
        return root

    return make


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """Address of an S3 server."""
    from moto.server import ThreadedMotoServer  # seconds, which most tests need not wait

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    running = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    yield f"http://{host}:{port}"
    running.stop()


@pytest.fixture
def s3(s3_server: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """Address of a store in a new bucket, which this process and its children can reach."""
    for name, value in {
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "very-secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    bucket = re.sub("[^a-z0-9]+", "-", request.node.name.lower())[-60:].strip("-")
    with urllib.request.urlopen(urllib.request.Request(f"{s3_server}/{bucket}", method="PUT")):
        return f"s3://{bucket}/a/store"


@pytest.fixture
def address(s3: str) -> str:
    return s3
