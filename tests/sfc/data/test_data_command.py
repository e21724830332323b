"""python -m sfc data: prepares, verifies, downloads."""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from sfc.__main__ import main
from sfc.data import coco, download, voc
from sfc.data.check import PublishedCounts

Root = Callable[..., Path]
SMALL_VOC = PublishedCounts(20, {"train": 1, "val": 1, "trainval": 2, "train_aug": 4})
SMALL_COCO = PublishedCounts(3, {"train": 2, "train_all": 3, "val": 1, "val_all": 2})


def run(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, str, str]:
    code = main(["data", *map(str, words)])
    return code, *capsys.readouterr()


def test_counts_that_differ_are_listed_with_exit_code_2(voc_root: Root, capsys) -> None:
    root = voc_root()
    code, out, err = run(capsys, "voc", "--root", root)
    assert code == 2 and "diningtable" in out
    assert "split train_aug: 4 images, published: 10,582" in err and "split val: 1 images, published: 1,449" in err
    assert "can't be compared" in err and (root / "prepared" / "voc").is_dir()


def test_counts_that_are_right_exit_with_0(voc_root: Root, coco_root: Root, capsys, monkeypatch) -> None:
    monkeypatch.setattr(voc, "PUBLISHED", SMALL_VOC)
    monkeypatch.setitem(coco.PUBLISHED, 2014, SMALL_COCO)
    for name, root in (("voc", voc_root()), ("coco14", coco_root(year=2014))):
        code, out, err = run(capsys, name, "--root", root)
        assert code == 0 and f"data.format={name} data.root={root}" in out and "error" not in err


@pytest.mark.parametrize("name", ["voc", "coco14", "coco17"])
def test_an_empty_root_is_refused_with_what_it_lacks(name: str, tmp_path: Path, capsys) -> None:
    code, _, err = run(capsys, name, "--root", tmp_path)
    assert code == 2 and "--download" in err and ("JPEGImages" if name == "voc" else "annotations/") in err
    assert not (tmp_path / "prepared").exists()


def test_an_unknown_benchmark_is_a_usage_error(capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["data", "cityscapes", "--root", "."])
    assert caught.value.code == 2 and "coco14" in capsys.readouterr().err


def test_the_table_of_archives_is_whole() -> None:
    assert set(download.ARCHIVES) == {"voc", "coco14", "coco17"}
    archives = [archive for group in download.ARCHIVES.values() for archive in group]
    assert len({a.md5 for a in archives}) == len({a.url for a in archives}) == len(archives) == 8
    assert all(len(a.md5) == 32 and int(a.md5, 16) and a.url.endswith((".zip", ".tar", ".tgz")) for a in archives)
    parts = {part for name in ("coco14", "coco17") for a in download.ARCHIVES[name] for part in a.content}
    assert {f"annotations/instances_{h}{y}.json" for h in ("train", "val") for y in (2014, 2017)} <= parts
    assert {"train2014", "val2014", "train2017", "val2017"} <= parts


@pytest.fixture
def fetched(voc_root: Root, monkeypatch) -> list[tuple[str, str]]:
    """Replaces torchvision's downloader by one that gives parts of a small VOC; the calls it got."""
    source = voc_root()
    calls: list[tuple[str, str]] = []

    def fetch(url: str, store: str, extracted: str, filename: str, md5: str) -> None:
        calls.append((filename, md5))
        top = "benchmark_RELEASE" if filename == "benchmark.tgz" else "VOCdevkit"
        shutil.copytree(source / top, Path(extracted) / top)

    monkeypatch.setattr(download, "download_and_extract_archive", fetch)
    return calls


def test_what_is_missing_is_fetched_and_what_is_there_is_not(fetched, tmp_path: Path, capsys) -> None:
    root = tmp_path / "new"
    code, _, err = run(capsys, "voc", "--root", root, "--download")
    assert code == 2 and "published: 10,582" in err  # prepared; a small VOC is not the known one
    assert [name for name, _ in fetched] == ["VOCtrainval_11-May-2012.tar", "benchmark.tgz"]
    assert (root / "prepared" / "voc" / "JPEGImages" / "both.jpg").is_file()
    assert not list((root / "downloads").glob("*.extracted"))
    run(capsys, "voc", "--root", root, "--download")
    assert len(fetched) == 2
    shutil.rmtree(root / "benchmark_RELEASE")
    run(capsys, "voc", "--root", root, "--download")
    assert [name for name, _ in fetched[2:]] == ["benchmark.tgz"]


@pytest.mark.parametrize(
    "error", [RuntimeError("File not found or corrupted."), OSError("no route to host"), tarfile.ReadError("cut short")]
)
def test_a_download_that_fails_says_what_can_be_done(error: Exception, tmp_path: Path, capsys, monkeypatch) -> None:
    def fail(*_: str) -> None:
        raise error

    monkeypatch.setattr(download, "download_and_extract_archive", fail)
    code, _, err = run(capsys, "coco17", "--root", tmp_path, "--download")
    assert code == 2 and str(error) in err and "annotations_trainval2017.zip" in err and "md5" in err


def test_an_archive_without_its_content_is_named(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(download, "download_and_extract_archive", lambda *_: None)
    code, _, err = run(capsys, "coco14", "--root", tmp_path, "--download")
    assert code == 2 and "instances_train2014.json" in err
