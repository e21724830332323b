"""What jobs would still run, and their cost by what the store measured."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from sfc.config import Config
from sfc.config.files import change_config, load_config
from sfc.pipeline import Pipeline
from sfc.results import Result
from sfc.runtime.engine import LocalEngine
from sfc.runtime.store import MANIFEST, Store
from tests.tune.conftest import TINY
from tune.study.dry_run import TRAINED, Row, estimate, show, units


def trial(pipeline: Pipeline) -> None:
    """The stages that a trial asks for."""
    pipeline.measure(Result(), "seed")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    root = tmp_path_factory.mktemp("estimate") / "data"
    return load_config("synthetic.yaml", [*TINY, f"data.root={root}"])


@pytest.fixture(scope="module")
def store(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """One configuration through all stages."""
    store = Store(tmp_path_factory.mktemp("store"))
    Pipeline(config, store, LocalEngine(1)).run()
    return store


def outputs(store: Store) -> dict[str, int]:
    stages = [path.parent.parent.name for path in store.root.glob(f"*/*/{MANIFEST}")]
    return {stage: stages.count(stage) for stage in stages}


def rows(jobs: list, store: Store) -> dict[str, Row]:
    return {row.stage: row for row in estimate(jobs, store)}


def text(rows: list[Row], root: Path, at_once: int = 1) -> str:
    console = Console(file=io.StringIO(), width=200)
    show(console, rows, at_once, root)
    return console.file.getvalue()


def test_what_the_store_has_costs_nothing(config: Config, store: Store) -> None:
    result = rows([(config, Pipeline.run)], store)
    assert {stage: row.existing for stage, row in result.items()} == outputs(store)
    assert all(row.needed == row.seconds == row.bytes == 0 for row in result.values())


def test_a_second_seed_costs_what_the_first_did(config: Config, store: Store) -> None:
    manifests = [json.loads(path.read_text()) for path in store.root.glob(f"*/*/{MANIFEST}")]
    second = change_config(config, {"seed": 11})
    result = rows([(config, Pipeline.run), (second, Pipeline.run)], store)
    assert {stage: row.needed for stage, row in result.items()} == outputs(store)
    for manifest in manifests:
        row = result[manifest["stage"]]
        if row.needed == 1:
            assert row.seconds == pytest.approx(manifest["seconds"]) and row.bytes == pytest.approx(manifest["bytes"])
            assert row.basis == 1


def test_only_what_a_change_touches_is_to_run(config: Config, store: Store) -> None:
    result = rows([(change_config(config, {"segmentation.lr": 0.01}), Pipeline.run)], store)
    assert [name for name, row in result.items() if row.needed] == ["segmentation", "evaluation"]


def test_the_time_of_trainings_grows_with_epochs_and_their_disk_does_not(config: Config, store: Store) -> None:
    once, twice = (
        rows([(change_config(config, {"seed": 11, "classifier.epochs": n}), trial)], store)["classifier"]
        for n in (3, 6)
    )
    assert twice.seconds == pytest.approx(2 * once.seconds) and twice.bytes == once.bytes


def test_units_are_images_and_epochs() -> None:
    def of(stage: str, **section: object) -> float:
        return units(stage, {"images": 48, "settings": {stage: section}})

    assert "segmentation" in TRAINED and "maps" not in TRAINED
    assert of("segmentation", epochs=2) == 96 and of("segmentation", iterations=7, batch=10) == 70
    assert of("segmentation") == 48 * Config().segmentation.epochs, "a setting at its default need not be there"
    assert of("maps") == 48 and of("classifier", weights="abc") == 1


def test_what_trials_share_counts_once(config: Config, store: Store) -> None:
    trials = [(change_config(config, {"seed": 20 + i // 2, "pseudo.fusion": 0.1 * i}), trial) for i in range(6)]
    needed = {stage: row.needed for stage, row in rows(trials, store).items()}
    assert needed["classifier"] == 3 and sorted(needed.values()) == [3, 3, 6]


def test_an_empty_store_knows_no_times_and_stays_empty(config: Config, tmp_path: Path) -> None:
    empty = Store(tmp_path / "store")
    result = rows([(config, Pipeline.run)], empty)
    assert outputs(empty) == {}
    assert all(row.needed and row.seconds is row.bytes is None for row in result.values())
    assert "time and disk are unknown" in text(list(result.values()), tmp_path)


def test_a_stage_that_was_never_run_is_unknown_and_the_others_are_not(config: Config, store: Store) -> None:
    result = rows([(change_config(config, {"pseudo.method": "irn"}), Pipeline.run)], store)
    unknown = [name for name, row in result.items() if row.seconds is None]
    assert len(unknown) == 2 and "affinity" in unknown
    output = text(list(result.values()), store.root)
    assert f"of disk, and what is unknown: {', '.join(unknown)};" in output


def test_manifests_without_numbers_and_of_another_device_give_no_times(config: Config, tmp_path: Path) -> None:
    old = Store(tmp_path)
    trial(Pipeline(config, old, LocalEngine(1)))
    for i, path in enumerate(sorted(tmp_path.glob(f"*/*/{MANIFEST}"))):
        manifest = json.loads(path.read_text())
        if i:
            del manifest["bytes"]
        else:
            manifest["device"] = "another"
        path.write_text(json.dumps(manifest))
    result = rows([(change_config(config, {"seed": 11}), trial)], old)
    assert all(row.seconds is None and row.basis == 0 for row in result.values())


def test_the_text_names_stages_hours_and_disk_and_warns_where_the_disk_is_too_small(tmp_path: Path) -> None:
    row = Row("maps", 1, 3, 21600, 6e9, 4)
    output = text([row], tmp_path)
    assert "maps" in output and "2h00m" in output and "6.0 hours" in output and "6.0 GB" in output
    assert "2.0 GB" in output and str(tmp_path) in output
    assert "3.0 hours" in text([row], tmp_path, at_once=2)
    assert "warning" not in text([Row("maps", 0, 1, 1, 1, 1)], tmp_path)
    assert "warning" in text([Row("maps", 0, 1, 1, 1e18, 1)], tmp_path)
