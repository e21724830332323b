"""The command on a store: what studies, finals and ablations refer to stays, the rest goes when it is told so."""

from __future__ import annotations

import io
import json
from pathlib import Path

import optuna
import pytest

from sfc.runtime.store import Store
from tests.sfc.runtime.test_inventory import make
from tune.store import folders_in, main
from tune.study.storage import one_driver, storage_at


class Terminal(io.StringIO):
    """Somebody who answers."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study, a final and an ablation, each with outputs; an unused output, and an unfinished one."""
    monkeypatch.setenv("COLUMNS", "200")
    results = tmp_path / "results"
    store = Store(results / "store")
    make(store, "classifier", "a")
    maps = make(store, "cam", "b", "classifier/a")
    val = make(store, "evaluation", "c")
    arm = make(store, "evaluation", "d")
    make(store, "classifier", "unused")
    (store.root / "classifier" / "e.partial").mkdir()
    study = optuna.create_study(study_name="one", storage=storage_at(results))
    study.add_trial(optuna.trial.create_trial(value=1.0, user_attrs={"maps": str(maps)}))
    study.add_trial(optuna.trial.create_trial(state=optuna.trial.TrialState.FAIL))
    for path, value in {
        "final/one/comparison.json": {
            "arms": {"chosen": {"runs": [{"folders": {"val": str(val)}}, {"failed": "diverged"}]}}
        },
        "ablations/plan-1/numbers.json": {"arms": {"x": {"runs": [{"folders": {"val": str(arm)}}]}}},
    }.items():
        (results / path).parent.mkdir(parents=True)
        (results / path).write_text(json.dumps(value))
    (results / "studies").mkdir()
    (results / "studies" / "one.lock").touch()
    return results


def outputs(results: Path) -> set[str]:
    return {str(path.parent.relative_to(results / "store")) for path in results.glob("store/*/*/manifest.json")}


def test_the_tables_say_what_is_there_and_by_whom_it_is_used(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(results.rglob("*"))
    assert main(["--results", str(results)]) == 0
    rows = [line.replace("│", " ").split() for line in capsys.readouterr().out.splitlines()]
    assert ["classifier", "2", "10", "bytes", "1", "5", "bytes", "1", "0", "bytes", "0", "0", "bytes"] in rows
    assert ["all", "5", "25", "bytes", "1", "5", "bytes", "1", "0", "bytes", "0", "0", "bytes"] in rows
    assert ["study", "one", "2", "10", "bytes"] in rows
    assert ["final", "one", "1", "5", "bytes"] in rows and ["ablation", "plan-1", "1", "5", "bytes"] in rows
    assert [path for path in sorted(results.rglob("*")) if "optuna.db" not in path.name] == [
        path for path in before if "optuna.db" not in path.name
    ]


def test_what_nothing_refers_to_is_removed_after_a_yes(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    everything = outputs(results)
    monkeypatch.setattr("sys.stdin", Terminal("n\n"))
    assert main(["--results", str(results), "--remove"]) == 0
    assert outputs(results) == everything and "nothing was removed" in capsys.readouterr().out
    monkeypatch.setattr("sys.stdin", Terminal("y\n"))
    assert main(["--results", str(results), "--remove"]) == 0
    assert outputs(results) == everything - {"classifier/unused"} and "removed 2 items" in capsys.readouterr().out
    assert not (results / "store" / "classifier" / "e.partial").exists()
    assert main(["--results", str(results), "--remove", "--yes"]) == 0
    assert "nothing to remove" in capsys.readouterr().out


def test_where_nobody_can_be_asked_yes_must_be_said(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    everything = outputs(results)
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert main(["--results", str(results), "--remove"]) == 2
    assert outputs(results) == everything and "add --yes" in capsys.readouterr().err
    assert main(["--results", str(results), "--remove", "--yes"]) == 0
    assert outputs(results) == everything - {"classifier/unused"}


def test_nothing_is_removed_while_a_study_is_driven(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    everything = outputs(results)
    with one_driver(results / "studies" / "one.lock"):
        assert main(["--results", str(results), "--remove", "--yes"]) == 2
        assert "another process is running this study" in capsys.readouterr().err
        assert main(["--results", str(results)]) == 0
    assert outputs(results) == everything


def test_nothing_is_removed_when_references_can_not_be_read(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    everything = outputs(results)
    (results / "final" / "one" / "comparison.json").write_text("{")
    assert main(["--results", str(results), "--remove", "--yes"]) == 2
    assert outputs(results) == everything and "comparison.json is not JSON" in capsys.readouterr().err


def test_a_store_of_no_study_and_no_store_at_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(Store(tmp_path / "elsewhere"), "cam", "k")
    assert main(["--results", str(tmp_path), "--store", str(tmp_path / "elsewhere")]) == 0
    assert not (tmp_path / "optuna.db").exists()
    assert main(["--results", str(tmp_path)]) == 2
    assert main(["--results", str(tmp_path), "--store", "s3://bucket/a"]) == 2
    assert "service's own tools" in capsys.readouterr().err


def test_folders_are_found_at_any_depth() -> None:
    value = [{"a": {"folders": {"x": "1"}}}, {"folders": {"y": "2"}}, {"folders": 3}, 4]
    assert sorted(folders_in(value)) == ["1", "2"]
