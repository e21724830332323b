"""Whole configurations: the same numbers for the same seed, as far as asked, divergence as a result."""

from pathlib import Path

import pytest

from sfc.config import Config
from sfc.config.files import absolute, change_config, load_config
from sfc.pipeline import Until
from sfc.runtime.engine import LocalEngine
from tests.tune.conftest import TINY
from tune.cluster.configurations import Goal, Run, run_all, run_config
from tune.options import ClusterOptions


def tiny(folder: Path) -> Config:
    return absolute(load_config("synthetic.yaml", [*TINY, f"data.root={folder / 'data'}"]))


def run(config: Config, store: Path, until: Until = "segmentation", *, metric: str | None = None) -> Run:
    return run_config(config, store, LocalEngine(1), Goal(sweep=True, metric=metric, until=until))


def test_the_same_seed_gives_the_same_numbers_and_another_seed_others(tmp_path: Path) -> None:
    config = tiny(tmp_path)
    first, again = (run(config, tmp_path / name) for name in ("one", "two"))
    assert first["metrics"] == again["metrics"] and first["iou"] == again["iou"]
    assert not {str(tmp_path / "one")} & {str(Path(p).parents[1]) for p in again["folders"].values()}
    assert first["metrics"]["val/miou"] > 0
    other = run(change_config(config, {"seed": 99}), tmp_path / "one", "seed")
    assert other["metrics"]["seed_val/miou"] != first["metrics"]["seed_val/miou"]


def test_the_masks_as_labels_are_full_supervision_and_train_no_classifier_for_seeds(tmp_path: Path) -> None:
    config = change_config(tiny(tmp_path), {"pseudo.method": "masks", "segmentation.start": "backbone"})
    found = run(config, tmp_path / "store", metric="segmentation/miou")
    assert found["metrics"]["pseudo_train/miou"] == 1 and not (tmp_path / "store" / "classifier").exists()
    assert set(found["supervision"].values()) == {"full supervision"}
    assert found["metrics"]["segmentation/miou"] != found["metrics"]["val/miou"], "on select and on val"


def test_until_says_how_far_a_run_goes(tmp_path: Path) -> None:
    config = tiny(tmp_path)
    found = run(config, tmp_path / "store", "seed")
    assert set(found["folders"]) == {"seed", "seed_val"}
    assert not (tmp_path / "store" / "labels").exists()
    assert found["supervision"]["seed_val/miou"] == "held-out masks"


def test_the_threshold_is_chosen_by_the_select_masks_and_that_is_said(tmp_path: Path) -> None:
    found = run(tiny(tmp_path), tmp_path / "store", "seed", metric="proxy/map_agreement")
    assert found["config"]["pseudo"]["threshold"] == found["metrics"]["seed/best_threshold"]
    assert found["config"]["selected_on"] == "select"
    assert found["supervision"]["seed/miou"] == "same masks"
    assert found["supervision"]["proxy/map_agreement"] == "held-out masks"


def test_a_divergence_is_a_result(tmp_path: Path) -> None:
    found = run(change_config(tiny(tmp_path), {"classifier.lr": 1e30}), tmp_path / "store")
    assert "not finite" in found["failed"] and "metrics" not in found


@pytest.mark.slow
@pytest.mark.usefixtures("nodes")
def test_one_configuration_asks_for_no_more_than_a_node_has(tmp_path: Path) -> None:
    """Two nodes with a core each: a task that asked for both cores would wait for ever."""
    cluster = ClusterOptions(tmp_path, tmp_path / "store")
    [(position, numbers)] = run_all([(tiny(tmp_path), Goal(sweep=True, until="seed"))], cluster)
    assert position == 0 and numbers["metrics"]["seed/best_miou"] > 0
