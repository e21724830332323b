"""What jobs would cost, from what the store measured or from a few images."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from sfc.config import Config
from sfc.config.files import change_config, load_config
from sfc.pipeline import Pipeline, Result
from sfc.runtime.engine import LocalEngine
from sfc.runtime.store import MANIFEST, Store
from tests.tune.conftest import TINY
from tune.study import estimate as budget
from tune.study.estimate import Estimate, Row, Work, estimate, outlook, show, units
from tune.study.trial import collect


def trial(pipeline: Pipeline) -> None:
    """What a trial asks for."""
    collect(pipeline, Result(), "seed")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    root = tmp_path_factory.mktemp("budget") / "data"
    return load_config("synthetic.yaml", [*TINY, f"data.root={root}"])


@pytest.fixture(scope="module")
def store(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """One configuration through all stages."""
    made = Store(tmp_path_factory.mktemp("store"))
    Pipeline(config, made, LocalEngine(1)).run()
    return made


def outputs(store: Store) -> dict[str, int]:
    found: dict[str, int] = {}
    for path in store.root.glob(f"*/*/{MANIFEST}"):
        found[path.parent.parent.name] = found.get(path.parent.parent.name, 0) + 1
    return found


def rows(found: Estimate) -> dict[str, Row]:
    return {row.stage: row for row in found.rows}


def text(found: Estimate) -> str:
    console = Console(file=io.StringIO(), width=200)
    show(console, found)
    return console.file.getvalue()


def test_what_is_there_costs_nothing(config: Config, store: Store) -> None:
    found = estimate([Work(config)], store)
    assert found.seconds == found.bytes == 0
    assert {row.stage: row.found for row in found.rows} == outputs(store)
    assert all(row.needed == 0 for row in found.rows)


def test_a_second_seed_costs_what_the_first_did(config: Config, store: Store) -> None:
    manifests = [json.loads(path.read_text()) for path in store.root.glob(f"*/*/{MANIFEST}")]
    second = change_config(config, {"seed": 11})
    found = estimate([Work(config), Work(second)], store)
    assert {row.stage: row.needed for row in found.rows} == outputs(store)
    assert all(row.found == row.needed and row.basis.endswith("in the store") for row in found.rows)
    exact = [row for row in found.rows if row.stage in budget.TRAINED]
    for row in exact:
        [manifest] = [m for m in manifests if m["stage"] == row.stage]
        assert row.seconds == pytest.approx(manifest["seconds"]) and row.bytes == manifest["bytes"]
    assert found.seconds == pytest.approx(sum(m["seconds"] for m in manifests), rel=0.5)
    assert found.bytes == pytest.approx(sum(m["bytes"] for m in manifests), rel=0.2)


def test_only_what_a_change_touches_is_to_run(config: Config, store: Store) -> None:
    found = rows(estimate([Work(change_config(config, {"pseudo.threshold": 0.11}))], store))
    assert [name for name, row in found.items() if row.needed] == ["seed", "pseudo", "segmentation", "evaluation"]
    assert found["cam"].found == 3


def test_time_grows_with_epochs_and_other_settings_are_said_to_be_rough(config: Config, store: Store) -> None:
    once, twice = (
        rows(estimate([Work(change_config(config, {"seed": 11, "classifier.epochs": n}), trial)], store))
        for n in (3, 6)
    )
    assert twice["classifier"].seconds == pytest.approx(2 * once["classifier"].seconds)
    assert twice["classifier"].bytes == once["classifier"].bytes
    assert "rough" not in once["classifier"].basis
    other = rows(estimate([Work(change_config(config, {"cam.mirror": False}), trial)], store))
    assert "rough" in other["cam"].basis and "rough" not in other["seed"].basis
    data = rows(estimate([Work(change_config(config, {"data.synthetic.seed": 1}), trial)], store))
    assert all("rough" in row.basis for row in data.values())


def test_units_of_trainings_are_the_images_that_they_see() -> None:
    def of(**section) -> float:
        return units("segmentation", {"images": 48, "settings": {"segmentation": {"batch": 10, **section}}})

    assert of(epochs=2, iterations=None) == 80 and of(epochs=2, iterations=7) == 70
    assert units("cam", {"images": 48, "settings": {"cam": {}}}) == 48
    assert units("classifier", {"images": 48, "settings": {"classifier": {"weights": "abc"}}}) == 1


def test_more_trials_never_cost_less_and_what_they_share_counts_once(config: Config, store: Store) -> None:
    trials = [Work(change_config(config, {"seed": 20 + i // 2, "pseudo.fusion": 0.1 * i}), trial) for i in range(6)]
    found = [estimate(trials[:n], store) for n in range(1, 7)]
    assert [e.seconds for e in found] == sorted(e.seconds for e in found)
    assert [e.bytes for e in found] == sorted(e.bytes for e in found)
    last = rows(found[-1])
    assert (last["classifier"].needed, last["cam"].needed, last["seed"].needed) == (3, 3, 6)
    assert found[1].seconds < 1.5 * found[0].seconds < found[2].seconds  # the second changes the fusion alone


def test_slots_divide_what_can_be_divided(config: Config, store: Store) -> None:
    trials = [Work(change_config(config, {"seed": 30 + i}), trial) for i in range(4)]
    one, two, many = (estimate(trials, store, n) for n in (1, 2, 100))
    assert two.seconds == pytest.approx(one.seconds / 2) and one.bytes == two.bytes == many.bytes
    assert many.seconds == pytest.approx(one.seconds / 4)  # a trial itself is not divided
    last = Work(change_config(config, {"seed": 40}), trial, alone=True)
    assert estimate([*trials, last], store, 4).seconds == pytest.approx(2 * many.seconds)


def test_an_empty_store_is_answered_by_measuring_and_stays_empty(config: Config, tmp_path: Path) -> None:
    empty = Store(tmp_path / "store")
    nan_prone = change_config(config, {"classifier.lr": 1e30})
    found = estimate([Work(nan_prone, trial), Work(config, alone=True)], empty)
    assert outputs(empty) == {} and {path.name for path in empty.root.iterdir()} <= {
        "version.json",
        "version.lock",
        "readable",
    }
    assert rows(found)["classifier"].basis == "measured just now on 16 images"
    assert all(row.needed and row.seconds > 0 and row.basis.startswith("measured just now on") for row in found.rows)
    assert {"classifier", "cam", "seed", "pseudo", "segmentation", "evaluation"} == set(rows(found))
    assert found.seconds > 0 and found.bytes > 0


def test_a_stage_that_was_never_run_is_measured_and_the_others_are_not(config: Config, store: Store) -> None:
    before = outputs(store)
    found = rows(estimate([Work(change_config(config, {"pseudo.method": "irn", "affinity.epochs": 2}))], store))
    assert [n for n, row in found.items() if row.basis.startswith("measured")] == ["affinity", "edge"]
    assert "in the store" in found["segmentation"].basis and outputs(store) == before


def test_manifests_from_before_are_read_and_give_no_times(config: Config, tmp_path: Path) -> None:
    old = Store(tmp_path)
    trial(Pipeline(config, old, LocalEngine(1)))
    for path in tmp_path.glob(f"*/*/{MANIFEST}"):
        manifest = json.loads(path.read_text())
        del manifest["bytes"], manifest["images"]
        path.write_text(json.dumps(manifest))
    assert estimate([Work(config, trial)], old).seconds == 0
    found = estimate([Work(change_config(config, {"seed": 11}), trial)], old)
    assert all(row.basis.startswith("measured just now") for row in found.rows)


def test_what_is_shown_names_stages_hours_disk_and_warns_where_it_does_not_fit(tmp_path: Path) -> None:
    row = Row("cam", 3, 1, 7200, 2e9, "4 in the store")
    said = text(Estimate((row,), 21600, 6e9, 1, tmp_path))
    assert "cam" in said and "2h00m" in said and "6.0 hours" in said and "6.0 GB" in said and str(tmp_path) in said
    assert "4 in the store" in said
    assert "warning" not in text(Estimate((row,), 1, 1, 1, tmp_path))
    assert "warning" in text(Estimate((row,), 1, 1e18, 1, tmp_path))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([], ["no trials in full", "nothing can be said"]),
        ([0.5], ["1 trial in full", "nothing can be said"]),
        ([0.5, 0.4, 0.6, 0.55], ["0.6000", "number 3", "the last 2 raised the best so far by 0.1000"]),
        ([0.6, 0.6, 0.5, 0.6], ["number 1", "by 0.0000"]),
    ],
)
def test_the_outlook_says_what_was_seen(values: list[float], words: list[str]) -> None:
    said = outlook(values)
    assert all(word in said for word in words), said
    assert len(values) < 2 or "can't be known" in said
