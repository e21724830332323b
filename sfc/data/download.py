"""Download of the official archives of VOC 2012, SBD and COCO with torchvision's downloader.

An archive whose content exists is not fetched; an archive on disk with the right sum is only extracted. Content is
extracted into a folder of its own and then moved, so content that exists is whole. VOC's and SBD's addresses and sums
are torchvision's own. COCO publishes no sums: those below are in common use, but neither they nor the addresses have
been tried.
"""

from __future__ import annotations

import shutil
import tarfile
import zipfile
from pathlib import Path
from typing import NamedTuple

from torchvision.datasets import SBDataset
from torchvision.datasets.utils import download_and_extract_archive
from torchvision.datasets.voc import DATASET_YEAR_DICT

from sfc.errors import UserError


class Archive(NamedTuple):
    """An archive to fetch and the parts of its content that are kept, by their paths in it."""

    url: str
    md5: str
    content: tuple[str, ...]


COCO = "http://images.cocodataset.org"


def _coco(year: int, annotations: str, train: str, val: str) -> tuple[Archive, ...]:
    """Archives of COCO by year and their MD5 sums."""
    instances = tuple(f"annotations/instances_{half}{year}.json" for half in ("train", "val"))
    return (
        Archive(f"{COCO}/annotations/annotations_trainval{year}.zip", annotations, instances),
        Archive(f"{COCO}/zips/train{year}.zip", train, (f"train{year}",)),
        Archive(f"{COCO}/zips/val{year}.zip", val, (f"val{year}",)),
    )


VOC = DATASET_YEAR_DICT["2012"]
ARCHIVES: dict[str, tuple[Archive, ...]] = {
    "voc": (
        Archive(VOC["url"], VOC["md5"], ("VOCdevkit/VOC2012",)),
        Archive(SBDataset.url, SBDataset.md5, ("benchmark_RELEASE",)),
    ),
    "coco14": _coco(
        2014,
        annotations="0a379cfc70b0e71301e0f377548639bd",
        train="0da8c0bd3d6becc4dcb32757491aca88",
        val="a3d79f5ed8d289b7a7554ce06a5782b3",
    ),
    "coco17": _coco(
        2017,
        annotations="f4bbac642086de4f52a3fdda2de5fa2c",
        train="cced6f7f71b7629ddf16f17bbcfab6b2",
        val="442b8da7639aecaf257c1dceb8ba8c80",
    ),
}
"""Archives by format of the data section; VOC 2 GB, SBD 1.4 GB, COCO about 20 GB a year."""


def download(name: str, root: Path) -> None:
    """Fetch the parts of a benchmark that are missing below `root`; the archives stay in `<root>/downloads`.

    Raises:
        UserError: no network, or an archive has another sum or lacks a part.
    """
    for archive in ARCHIVES[name]:
        wanted = [part for part in archive.content if not (root / part).exists()]
        if not wanted:
            continue
        store, file = root / "downloads", archive.url.rsplit("/", 1)[-1]
        extracted = store / f"{file}.extracted"
        shutil.rmtree(extracted, ignore_errors=True)
        try:
            download_and_extract_archive(archive.url, str(store), str(extracted), file, archive.md5)
            for part in wanted:
                (root / part).parent.mkdir(parents=True, exist_ok=True)
                (extracted / part).rename(root / part)
        except (OSError, RuntimeError, tarfile.TarError, zipfile.BadZipFile) as error:
            raise UserError(
                f"{archive.url} could not be fetched and extracted: {error}\nRun the same command again, or put the "
                f"file at {store / file} (md5 {archive.md5}), or extract it by hand so that "
                f"{', '.join(archive.content)} lie in {root}"
            ) from None
        shutil.rmtree(extracted, ignore_errors=True)
