"""Wrong input to the search: a clear error, exit code 2, nothing started."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.tune.conftest import SPACE, TINY
from tune import final, search


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six images in VOC layout, with masks for select and val."""
    root = tmp_path / "data"
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / name).mkdir(parents=True)
    (root / "classes.txt").write_text("cat\ndog\n")
    rows = [["image", "labels"]]
    rng = np.random.default_rng(0)
    for split in ("train", "select", "val"):
        names = [f"{split}{i}" for i in range(2)]
        (root / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("\n".join(names))
        for name in names:
            Image.fromarray(rng.integers(0, 255, (40, 50, 3), np.uint8)).save(root / "JPEGImages" / f"{name}.jpg")
            mask = np.zeros((40, 50), np.uint8)
            mask[5:20, 5:20], mask[20:, 20:] = 1, 2
            Image.fromarray(mask).save(root / "SegmentationClass" / f"{name}.png")
            rows.append([name, "cat dog"])
    with (root / "image_labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return root


def run(tmp_path: Path, capsys: pytest.CaptureFixture, *words: str) -> tuple[int, str]:
    space = tmp_path / "tiny.yaml"
    space.write_text(SPACE)
    given = ["--space", str(space), "--results", str(tmp_path / "results"), *words]
    code = search.main(given)
    captured = capsys.readouterr()
    return code, captured.err + captured.out


def own(folder: Path) -> list[str]:
    return ["data.format=folder", f"data.root={folder}", "--dry-run"]


def test_the_folder_is_in_order(tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture) -> None:
    code, said = run(tmp_path, capsys, *own(folder))
    assert code == 0 and "nothing was started" in said


def test_missing_folder(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    code, said = run(tmp_path, capsys, *own(tmp_path / "nowhere"))
    assert code == 2 and "there is no folder" in said


def test_empty_folder(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "empty").mkdir()
    code, said = run(tmp_path, capsys, *own(tmp_path / "empty"))
    assert code == 2 and "JPEGImages is missing or empty" in said


def test_broken_images_are_named_and_can_be_left_out(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture
) -> None:
    path = folder / "JPEGImages" / "train1.jpg"
    path.write_bytes(path.read_bytes()[:300])
    code, said = run(tmp_path, capsys, *own(folder))
    assert code == 2 and "1 of 2 images" in said and "train1" in said and "data.skip_broken=true" in said
    code, said = run(tmp_path, capsys, *own(folder), "data.skip_broken=true")
    assert code == 0 and "on 1 images" in said


def test_objective_without_masks(tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture) -> None:
    (folder / "SegmentationClass" / "select0.png").unlink()
    code, said = run(tmp_path, capsys, *own(folder))
    assert code == 2 and "needs masks" in said and "select" in said


@pytest.mark.parametrize(
    ("metric", "text"),
    [
        ("no_such_module:metric", "there is no module no_such_module"),
        ("json:no_such_function", "has no no_such_function"),
        ("json:decoder", "json:decoder is no function"),
    ],
)
def test_an_objective_that_does_not_exist(
    tmp_path: Path, capsys: pytest.CaptureFixture, metric: str, text: str
) -> None:
    space = tmp_path / "own.yaml"
    space.write_text(f"{SPACE}objective:\n  metric: {metric}\n")
    code = search.main(["--space", str(space), "--results", str(tmp_path / "results"), "--dry-run"])
    output = capsys.readouterr().err
    assert code == 2 and f"{space}:{len(SPACE.splitlines()) + 2}: " in output and text in output
    assert not (tmp_path / "results").exists()


def test_a_dry_run_trains_nothing(tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture) -> None:
    code, output = run(tmp_path, capsys, *own(folder))
    assert code == 0 and "time and disk are unknown" in output
    assert not list((tmp_path / "results" / "store").glob("*/*/manifest.json"))


def test_a_time_limit_of_another_form(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    code, output = run(tmp_path, capsys, "--dry-run", "--time", "20x")
    assert code == 2 and "--time: time: '20x' is not of the form 90s, 20m or 3h" in output


def test_all_mistakes_in_overrides(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    code, said = run(tmp_path, capsys, "--dry-run", "classifier.epoch=3", "cam.scales=[9]")
    assert code == 2 and "did you mean classifier.epochs?" in said and "cam.scales" in said
    assert not (tmp_path / "results").exists()


def test_store_of_another_version(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    store = tmp_path / "results" / "store"
    store.mkdir(parents=True)
    (store / "version.json").write_text('{"settings": 0}')
    code, said = run(tmp_path, capsys, "--dry-run", *TINY)
    assert code == 2 and "version 0 of the settings" in said


def test_unknown_study(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    code = final.main(["--study", "nothing", "--results", str(tmp_path)])
    assert code == 2 and "there is no study nothing" in capsys.readouterr().err


def test_more_gpus_than_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    from sfc.errors import UserError
    from tune.cluster.connect import slots

    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0})
    with pytest.raises(UserError, match="cluster has 2 CPUs and 0 GPUs"):
        slots(1, 1)
    assert slots(1, 0) == 2


def test_results_that_can_not_be_written(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "results").write_text("a file")
    code, said = run(tmp_path, capsys, "--dry-run", *TINY)
    assert code == 2 and "can't be written" in said
    shutil.rmtree(tmp_path / "results", ignore_errors=True)
