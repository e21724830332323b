"""The order of the stages and the keys of their outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sfc.config import Config
from sfc.config.files import change_config, setting_names
from sfc.config.values import differing, flat, restrict
from sfc.data import Dataset
from sfc.errors import UserError
from sfc.pipeline import STAGES, NotDone, Pipeline
from sfc.runtime.engine import LocalEngine
from sfc.runtime.store import Store
from sfc.stages.spec import Work
from tests.sfc.stages.conftest import SETTINGS


class Ledger(Store):
    """A store that notes what is asked for and builds nothing."""

    asked: dict[str, str]

    def get(self, stage: str, key: str, identity: dict[str, Any], build: Any) -> Path:
        self.asked[stage] = key
        return self.folder(stage, key)


@pytest.fixture
def keys(tiny: Dataset, tmp_path: Path):
    """The key of every stage under a configuration."""
    store = Ledger(tmp_path / "store")
    base = change_config(SETTINGS, {"data.format": "folder", "data.root": str(tiny.root), "pseudo.method": "irn"})

    def of(**changes: Any) -> dict[str, str]:
        store.asked = {}
        pipeline = Pipeline(
            change_config(base, {k.replace("__", "."): v for k, v in changes.items()}), store, LocalEngine(1)
        )
        for stage in STAGES:
            pipeline.output(stage)
        return store.asked

    return of


@pytest.mark.parametrize(
    ("setting", "value", "first"),
    [
        ("seed", 7, "classifier"),
        ("classifier__lr", 0.3, "classifier"),
        ("classifier__options__warmup", 0.2, "classifier"),
        ("backbone__frozen_stages", 1, "classifier"),
        ("cam__mirror", False, "maps"),
        ("pseudo__fusion", 0.1, "seeds"),
        ("pseudo__crf__iterations", 3, "proxies"),
        ("affinity__radius", 4, "affinity"),
        ("pseudo__walk__beta", 4.0, "labels"),
        ("segmentation__lr", 0.3, "segmentation"),
        ("evaluation__mirror", False, "evaluation"),
    ],
)
def test_a_setting_moves_the_keys_of_its_stage_and_those_behind_it(keys, setting: str, value: Any, first: str) -> None:
    before, after = keys(), keys(**{setting: value})
    moved = [stage for stage in STAGES if before[stage] != after[stage]]
    assert moved[0] == first and "evaluation" in moved
    assert not set(moved) & set(list(STAGES)[: list(STAGES).index(first)])


def test_settings_that_are_not_used_move_no_key(keys) -> None:
    before = keys()
    assert keys(data__select="val2", selected_on="select") == before
    crf = keys(pseudo__method="crf")
    assert keys(pseudo__method="crf", pseudo__walk__beta=3.0)["labels"] == crf["labels"] != before["labels"]
    own = {"segmentation__backbone__name": "small", "segmentation__backbone__frozen_stages": 0}
    assert keys(**own)["segmentation"] != before["segmentation"]


def test_stages_read_settings_that_exist() -> None:
    names = setting_names()
    for spec in STAGES.values():
        for name in spec.reads(SETTINGS):
            assert any(known == name or known.startswith(f"{name}.") for known in names), name


def test_a_setting_at_its_default_is_in_no_key(keys, tiny: Dataset, tmp_path: Path) -> None:
    """So one that comes later, at its default, leaves the outputs that there are."""
    assert keys(classifier__power=0.9, pseudo__offset=0.4, evaluation__crf="none") == keys()


def test_different_stages_have_different_keys(keys) -> None:
    made = keys(pseudo__method="crf")
    assert len(set(made.values())) == len(made)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_gets_the_settings_of_its_key_and_else_the_defaults(
    stage: str, tiny: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    received = {}

    class Capture(Store):
        def get(self, name: str, key: str, identity: dict[str, Any], build: Any) -> Path:
            if name == stage:
                received["identity"] = identity
                build(tmp_path)
            return self.folder(name, key)

    def run(work: Any, engine: Any) -> None:
        received["settings"] = work.settings

    spec = STAGES[stage]
    monkeypatch.setitem(STAGES, stage, type(spec)(**{**vars(spec), "run": run}))
    # Every setting of the configuration differs from its default.
    config = change_config(SETTINGS, {"data.format": "folder", "data.root": str(tiny.root), "cam.mirror": False})
    Pipeline(config, Capture(tmp_path / "store"), LocalEngine(1)).output(stage)
    assert differing(received["settings"]) == received["identity"]["settings"]
    read = {name for name in flat(Config()) if any(name == r or name.startswith(f"{r}.") for r in spec.reads(config))}
    defaults = flat(Config())
    assert all(value == defaults[name] for name, value in flat(received["settings"]).items() if name not in read)


def test_a_method_gets_the_same_training_set_in_every_stage(tiny: Dataset, tmp_path: Path) -> None:
    split = tiny.split("train")
    kept = (restrict(SETTINGS, STAGES[stage].reads(SETTINGS)) for stage in ("classifier", "maps", "proxies"))
    first, *others = (Work(tmp_path, settings, {}, tiny, split, split).training_set() for settings in kept)
    assert first.resampled == 12 // 4 * 2 * 3 / 4 and others == [first, first]


def test_seeds_without_masks_are_refused(tiny: Dataset, tmp_path: Path, voc) -> None:
    config = change_config(SETTINGS, {"data.format": "folder", "data.root": str(tiny.root)})
    pipeline = Pipeline(config, Store(tmp_path), LocalEngine(1))
    bare = type(pipeline.train)(**{**vars(pipeline.train), "has_masks": False})
    pipeline.split = lambda name: bare
    with pytest.raises(UserError, match=r"the split train of .* has no masks"):
        pipeline.output("seeds")


def test_a_network_that_is_taken_as_it_is_has_one_key_whatever_the_training(keys, tmp_path: Path) -> None:
    weights = tmp_path / "w.pt"
    weights.write_bytes(b"")
    taken = keys(classifier__weights=str(weights))
    again = keys(classifier__weights=str(weights), classifier__epochs=3, classifier__lr=0.3)
    assert taken["classifier"] == again["classifier"]


def test_a_stage_of_one_split_ignores_another(keys, tiny: Dataset, tmp_path: Path) -> None:
    store = Ledger(tmp_path / "store")
    store.asked = {}
    config = change_config(SETTINGS, {"data.format": "folder", "data.root": str(tiny.root)})
    pipeline = Pipeline(config, store, LocalEngine(1))
    assert pipeline.output("classifier", "val") == pipeline.output("classifier")
    assert pipeline.output("maps", "val") != pipeline.output("maps")


def test_without_an_engine_what_is_not_there_is_said_and_nothing_is_begun(tiny: Dataset, tmp_path: Path) -> None:
    config = change_config(SETTINGS, {"data.format": "folder", "data.root": str(tiny.root)})
    pipeline = Pipeline(config, Store(tmp_path / "store"), None)
    with pytest.raises(NotDone, match="classifier"):
        pipeline.output("seeds")
    assert not (tmp_path / "store" / "classifier").exists()
