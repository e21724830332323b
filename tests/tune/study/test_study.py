"""Studies: continued, repaired, edited, refused; on storages that are sound, broken, locked."""

import sqlite3
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from sfc.errors import UserError
from tests.tune.conftest import SPACE
from tune.space.space_file import Space, load_space
from tune.study.storage import check_database, set_attrs, storage_at
from tune.study.study import complete, counted, load_study, name_of, open_study, published, repair

FLAT = SPACE.replace("inner: 3", "inner: 0")


def space(tmp_path: Path, text: str = SPACE, *overrides: str) -> Space:
    path = tmp_path / "tiny.yaml"
    path.write_text(text)
    return load_space(str(path), overrides=overrides)


def run_one(study: optuna.Study, space: Space, value: float | None = None, state=TrialState.COMPLETE) -> int:
    """A trial that ends as the searcher ends it."""
    trial = study.ask()
    chosen = space.suggest(trial)
    inner = {"pseudo.fusion": 0.7} if space.inner else {}
    trial.set_user_attr("epoch", 3 if state == TrialState.COMPLETE else 1)
    if state == TrialState.COMPLETE:
        trial.set_user_attr("settings", chosen | inner)
        trial.set_user_attr("inner", [{"values": inner, "value": value, "metrics": {}}])
    study.tell(trial, value, state=state)
    return trial.number


def test_the_published_point_and_the_start_points_come_first_once(tmp_path: Path) -> None:
    text = SPACE.replace(
        "start:", "start:\n  - {classifier.options.prototype_weight: 1.6, classifier.lr: 0.05, pseudo.fusion: 0.1}"
    )
    asked = space(tmp_path, text)
    study, edit = open_study("s", asked, tmp_path)
    assert edit is None
    first, second = (asked.suggest(study.ask()) for _ in range(2))
    assert first == {"classifier.options.prototype_weight": 1.6, "classifier.lr": 0.05}
    assert second["classifier.lr"] == 1e30, "points that differ in inner settings alone are one trial"
    assert asked.inner_points(first) == [{"pseudo.fusion": 0.7}, {"pseudo.fusion": 0.1}]


def test_trials_that_were_running_are_tried_again_once_and_a_finished_outcome_is_told(tmp_path: Path) -> None:
    asked = space(tmp_path)
    study, _ = open_study("s", asked, tmp_path)
    asked.suggest(study.ask())
    study.ask()  # killed before it had a single value: its queued point must not be lost
    told = study.ask()
    asked.suggest(told)
    told.set_user_attr("outcome", ["COMPLETE", 0.5])
    for _ in range(2):  # to repair twice changes nothing more
        study, _ = open_study("s", asked, tmp_path)
    waiting = [t.system_attrs["fixed_params"] for t in study.get_trials(states=(TrialState.WAITING,))]
    assert waiting == asked.points()
    assert [t.state for t in study.trials[:3]] == [TrialState.FAIL, TrialState.FAIL, TrialState.COMPLETE]
    assert study.trials[2].value == 0.5 and not study.get_trials(states=(TrialState.RUNNING,))


def test_a_repair_that_was_killed_half_way_enqueues_nothing_twice(tmp_path: Path) -> None:
    asked = space(tmp_path)
    study, _ = open_study("s", asked, tmp_path)
    running = study.ask()
    asked.suggest(running)
    study.enqueue_trial(study.trials[0].params, user_attrs={"again": 0})  # what repair does before it marks
    repair(study)
    assert len([t for t in study.trials if t.user_attrs.get("again") == 0]) == 1


def test_only_complete_trials_are_ranked(tmp_path: Path) -> None:
    asked = space(tmp_path)
    study, _ = open_study("s", asked, tmp_path)
    run_one(study, asked, 0.4)
    trial = study.ask()
    asked.suggest(trial)
    trial.report(0.9, 1)
    study.tell(trial, state=TrialState.PRUNED)
    assert [t.number for t in complete(study)] == [0]
    assert len(counted(study)) == 2
    found = published(study)
    assert found is not None and found[0].number == 0 and found[1]["value"] == 0.4


def test_an_edited_range_keeps_what_fits_under_its_number(tmp_path: Path) -> None:
    asked = space(tmp_path, FLAT)
    study, _ = open_study("s", asked, tmp_path)
    run_one(study, asked, 0.4)  # prototype_weight 1.6
    run_one(study, asked, 0.5)  # 0.4
    edited = FLAT.replace("uniform: [0.0, 2.0]", "uniform: [1.0, 3.0]").replace("weight: 0.4", "weight: 1.4")
    study, edit = open_study("s", space(tmp_path, edited), tmp_path)
    assert edit is not None and edit.kept == [0] and list(edit.unfit) == [1]
    assert "classifier.options.prototype_weight: uniform [0.0, 2.0] -> uniform [1.0, 3.0]" in edit.changes
    assert "outside uniform [1.0, 3.0]" in edit.unfit[1]
    assert [t.number for t in complete(study)] == [0] and complete(study)[0].value == 0.4
    assert name_of(study) == "s" and load_study("s", tmp_path).study_name == study.study_name
    assert study.ask().number == 2, "numbers go on"
    again, edit = open_study("s", space(tmp_path, edited), tmp_path)
    assert edit is None and again.study_name == study.study_name


def test_a_setting_that_is_searched_now_has_the_value_that_it_had(tmp_path: Path) -> None:
    asked = space(tmp_path, FLAT)
    study, _ = open_study("s", asked, tmp_path)
    run_one(study, asked, 0.4)
    warmup = asked.base.classifier.options.warmup
    more = FLAT.replace("parameters:", "parameters:\n  classifier.options.warmup: {uniform: [0.0, 0.9]}")
    for point in ("published: {", "- {"):
        more = more.replace(point, f"{point}classifier.options.warmup: {warmup}, ")
    study, edit = open_study("s", space(tmp_path, more), tmp_path)
    assert edit is not None and edit.kept == [0]
    assert complete(study)[0].params["classifier.options.warmup"] == warmup
    study, edit = open_study("s", asked, tmp_path)  # and back
    assert edit is not None and edit.kept == [0]
    assert "classifier.options.warmup" not in complete(study)[0].params


def test_choices_may_change(tmp_path: Path) -> None:
    """Optuna itself refuses another set of choices in one study."""
    asked = space(tmp_path, FLAT)
    study, _ = open_study("s", asked, tmp_path)
    run_one(study, asked, 0.4)
    edited = space(tmp_path, FLAT.replace("choice: [0.05, 1.0e+30]", "choice: [0.05, 0.1, 1.0e+30]"))
    study, edit = open_study("s", edited, tmp_path)
    assert edit is not None and edit.kept == [0]
    edited.suggest(study.ask())
    edited.suggest(study.ask())


def test_other_inner_settings_are_searched_again_on_the_same_classifier(tmp_path: Path) -> None:
    asked = space(tmp_path)
    study, _ = open_study("s", asked, tmp_path)
    run_one(study, asked, 0.4)
    before = study.trials[0].params
    edited = space(tmp_path, SPACE.replace("fusion: {uniform: [0.0, 1.0]}", "fusion: {uniform: [0.0, 2.0]}"))
    study, edit = open_study("s", edited, tmp_path)
    assert edit is not None and list(edit.unfit) == [0] and "searched again" in edit.unfit[0]
    waiting = [t.system_attrs["fixed_params"] for t in study.get_trials(states=(TrialState.WAITING,))]
    assert before in waiting


def test_a_driver_that_died_while_it_edited_left_nothing_that_counts(tmp_path: Path) -> None:
    asked = space(tmp_path, FLAT)
    study, _ = open_study("s", asked, tmp_path)
    run_one(study, asked, 0.4)
    half = optuna.create_study(study_name="s@2", storage=storage_at(tmp_path), direction="maximize")
    half.set_user_attr("making", True)
    half.enqueue_trial({})
    assert load_study("s", tmp_path).study_name == "s"
    study, edit = open_study("s", space(tmp_path, FLAT.replace("[0.0, 2.0]", "[0.0, 3.0]")), tmp_path)
    assert edit is not None and study.study_name == "s@2" and len(complete(study)) == 1


@pytest.mark.parametrize(
    ("text", "overrides", "named"),
    [
        (SPACE, ["classifier.batch=4"], "classifier.batch 8 -> 4"),
        (SPACE.replace("parameters:", "objective: {metric: seed/miou}\nparameters:"), [], "seed/best_miou"),
    ],
)
def test_a_study_of_another_base_or_objective_is_refused(tmp_path: Path, text: str, overrides, named: str) -> None:
    open_study("s", space(tmp_path), tmp_path)
    with pytest.raises(UserError, match="searches something else") as found:
        open_study("s", space(tmp_path, text, *overrides), tmp_path)
    assert named in str(found.value) and "--study NAME" in str(found.value)


def test_a_study_of_an_earlier_version_is_not_overwritten(tmp_path: Path) -> None:
    optuna.create_study(study_name="s", storage=storage_at(tmp_path)).enqueue_trial({})
    with pytest.raises(UserError, match="earlier version"):
        open_study("s", space(tmp_path), tmp_path)


def test_a_study_that_does_not_exist_lists_those_that_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no optuna\.db"):
        load_study("s", tmp_path)
    for name in ("one", "two"):
        open_study(name, space(tmp_path), tmp_path)
    with pytest.raises(UserError, match="it has: one, two"):
        load_study("s", tmp_path)
    with pytest.raises(UserError, match="edited spaces"):
        open_study("one@2", space(tmp_path), tmp_path)


def test_a_broken_database_is_named_copied_and_left_alone(tmp_path: Path) -> None:
    study, _ = open_study("s", space(tmp_path), tmp_path)
    study._storage._backend.engine.dispose()  # type: ignore[attr-defined]  # all that was written is in the one file
    path = tmp_path / "optuna.db"
    content = bytearray(path.read_bytes())
    content[4096 : 4096 + 20000] = b"\xff" * 20000
    path.write_bytes(content)
    with pytest.raises(UserError, match="is broken") as found:
        load_study("s", tmp_path)
    [copy] = tmp_path.glob("optuna.db.broken-*")
    assert str(copy) in str(found.value)
    assert path.read_bytes() == content == copy.read_bytes()

    path.write_bytes(b"not a database at all" * 300)
    with pytest.raises(UserError, match="is broken"):
        check_database(path)


def test_a_locked_database_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_study("s", space(tmp_path), tmp_path)
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda path, timeout: connect(path, timeout=0.1))
    holder = connect(tmp_path / "optuna.db")
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.raises(UserError, match=r"optuna\.db is locked by another process"):
        check_database(tmp_path / "optuna.db")
    holder.close()


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="can't be written"):
        storage_at(tmp_path / "file" / "results")
    with pytest.raises(UserError, match="can't be written"):
        storage_at(Path("/proc/results"))


def test_a_journal_file_keeps_studies_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTUNA_STORAGE", f"journal:{tmp_path / 'shared' / 'journal'}")
    asked = space(tmp_path, FLAT)
    study, _ = open_study("s", asked, tmp_path / "results")
    run_one(study, asked, 0.4)
    assert [t.value for t in complete(load_study("s", tmp_path / "results"))] == [0.4]
    assert not (tmp_path / "results" / "optuna.db").exists()


def test_a_storage_that_does_not_answer_keeps_its_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTUNA_STORAGE", "mysql://user:secret@127.0.0.1:1/studies")
    with pytest.raises(UserError, match="OPTUNA_STORAGE") as found:
        load_study("s", tmp_path)
    assert "secret" not in str(found.value)


@pytest.mark.parametrize("kind", ["sqlite", "journal"])
def test_attributes_written_at_once_are_what_attributes_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    if kind == "journal":
        monkeypatch.setenv("OPTUNA_STORAGE", f"journal:{tmp_path / 'journal'}")
    asked = space(tmp_path)
    study, _ = open_study("s", asked, tmp_path)
    trial = study.ask()
    set_attrs(trial, {"a": [1, None], "b": {"c": "d"}})
    set_attrs(trial, {"a": 2})
    study.tell(trial, 0.5)
    assert load_study("s", tmp_path).trials[0].user_attrs == {"a": 2, "b": {"c": "d"}}
