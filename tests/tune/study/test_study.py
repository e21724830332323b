"""Studies: continued, repaired, edited, refused; on storages that are sound, broken, locked."""

import contextlib
import json
import sqlite3
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from sfc.errors import UserError
from tests.tune.conftest import SPACE
from tune.evidence.importance import shares
from tune.space.sections import SAMPLERS
from tune.space.space_file import Space, load_space
from tune.study.edit import same_ranges
from tune.study.run import StudySearch
from tune.study.storage import check_database, storage_at
from tune.study.study import (
    build_sampler,
    complete,
    counted,
    default_name,
    how_ended,
    identity,
    load_study,
    open_study,
    published,
    repair,
)

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
    study, edits = open_study("s", asked, tmp_path)
    assert edits == []
    first, second = (asked.suggest(study.ask()) for _ in range(2))
    assert first == {"classifier.options.prototype_weight": 1.6, "classifier.lr": 0.05}
    assert second["classifier.lr"] == 1e30, "points that differ in inner settings alone are one trial"
    assert asked.inner_points(first) == [{"pseudo.fusion": 0.7}, {"pseudo.fusion": 0.1}]


def test_a_study_whose_objective_needs_no_masks_names_no_split(tmp_path: Path) -> None:
    study, _ = open_study("s", space(tmp_path, SPACE + "objective: {metric: proxy/crf_agreement}\n"), tmp_path)
    assert study.user_attrs["split"] is None


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
    waiting = [t.user_attrs["queued"] for t in study.get_trials(states=(TrialState.WAITING,))]
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
    result = published(study)
    assert result is not None and result[0].number == 0 and result[1]["value"] == 0.4


def test_an_edited_space_goes_on_in_the_same_study_and_every_edit_is_named(tmp_path: Path) -> None:
    asked = space(tmp_path, FLAT)
    study, _ = open_study("s", asked, tmp_path)
    run_one(study, asked, 0.4)  # prototype_weight 1.6
    run_one(study, asked, 0.5)  # 0.4
    text = FLAT.replace("uniform: [0.0, 2.0]", "uniform: [1.0, 3.0]").replace("trials: 4", "trials: 6")
    text = text.replace("weight: 0.4", "weight: 1.4").replace(
        "published: {classifier.options.prototype_weight: 1.6", "published: {classifier.options.prototype_weight: 1.5"
    )
    edited = space(tmp_path, text)
    study, edits = open_study("s", edited, tmp_path)
    assert "classifier.options.prototype_weight: uniform [0.0, 2.0] -> uniform [1.0, 3.0]" in edits
    assert "published classifier.options.prototype_weight: 1.6 -> 1.5" in edits and "budget.trials: 4 -> 6" in edits
    assert len(edits) == 4, "and the start points"
    assert [(t.number, t.value) for t in complete(study)] == [(1, 0.5), (0, 0.4)]
    assert published(study) is None, "the new published setting is not measured yet"
    assert run_one(study, edited, 0.6) == 2
    result = published(study)
    assert result is not None and result[0].number == 2
    assert open_study("s", edited, tmp_path)[1] == []


def test_the_sampler_goes_on_in_an_edited_range(tmp_path: Path) -> None:
    """Optuna's own grouping of parameters would keep the range of the first trials."""
    text = FLAT.replace("choice: [0.05, 1.0e+30]", "log_uniform: [1.0e-3, 1.0e+30]")
    asked = space(tmp_path, text)
    study, _ = open_study("s", asked, tmp_path)
    for _ in range(12):
        trial = study.ask()
        study.tell(trial, asked.suggest(trial)["classifier.options.prototype_weight"])
    edited = space(tmp_path, text.replace("uniform: [0.0, 2.0]", "uniform: [0.3, 9.0]"))
    study, _ = open_study("s", edited, tmp_path)
    drawn = []
    for _ in range(12):
        trial = study.ask()
        drawn.append(edited.suggest(trial)["classifier.options.prototype_weight"])
        study.tell(trial, drawn[-1])
    assert max(drawn) > 4 and min(drawn) >= 0.3


@pytest.mark.parametrize(
    "more", ["classifier.options.warmup: {uniform: [0.0, 0.9]}", "classifier.flip: {choice: [true, false]}"]
)
def test_a_parameter_may_be_added_and_removed_again(tmp_path: Path, more: str) -> None:
    asked = space(tmp_path, FLAT)
    study, _ = open_study("s", asked, tmp_path)
    run_one(study, asked, 0.4)
    name = more.partition(":")[0]
    value = {"classifier.options.warmup": asked.base.classifier.options.warmup, "classifier.flip": "true"}[name]
    text = FLAT.replace("parameters:", f"parameters:\n  {more}")
    for point in ("published: {", "- {"):
        text = text.replace(point, f"{point}{name}: {value}, ")
    study, edits = open_study("s", space(tmp_path, text), tmp_path)
    assert f"{name}: not searched -> {more.split('{')[1].split(':')[0]}" in edits[0]
    result = published(study)
    assert result is not None and result[0].number == 0, "the base had the published value"
    run_one(study, space(tmp_path, text), 0.5)
    study, edits = open_study("s", asked, tmp_path)
    assert any(line.startswith(name) and line.endswith("-> not searched") for line in edits)
    assert len(complete(study)) == 2 and complete(study)[0].user_attrs["settings"].keys() >= {name}


@pytest.mark.parametrize(
    "edit", ["choice: [0.05, 0.1, 1.0e+30]", "choice: [1.0e+30, 0.05]", "uniform: [0.05, 1.0e+30]"]
)
def test_other_choices_or_another_kind_need_another_study(tmp_path: Path, edit: str) -> None:
    asked = space(tmp_path, FLAT)
    study, _ = open_study("s", asked, tmp_path)
    run_one(study, asked, 0.4)
    with pytest.raises(UserError, match="--study NAME") as refused:
        open_study("s", space(tmp_path, FLAT.replace("choice: [0.05, 1.0e+30]", edit)), tmp_path)
    assert f"classifier.lr: {edit.split(':')[0]}" in str(refused.value)
    assert "the study has choice [0.05, 1e+30]" in str(refused.value)
    assert open_study("s", asked, tmp_path)[1] == [], "nothing was changed"


def test_choices_of_later_stages_may_change(tmp_path: Path) -> None:
    """They are asked in a study inside each trial."""
    text = SPACE.replace("fusion: {uniform: [0.0, 1.0]}", "fusion: {choice: [0.7]}")
    asked = space(tmp_path, text)
    study, _ = open_study("s", asked, tmp_path)
    run_one(study, asked, 0.4)
    study, edits = open_study("s", space(tmp_path, text.replace("choice: [0.7]", "choice: [0.1, 0.7]")), tmp_path)
    assert len(edits) == 1 and len(complete(study)) == 1


def test_a_published_setting_of_later_stages_that_was_not_tried_is_measured(tmp_path: Path) -> None:
    asked = space(tmp_path)
    study, _ = open_study("s", asked, tmp_path)
    run_one(study, asked, 0.4)
    run_one(study, asked, 0.3)
    edited = space(tmp_path, SPACE.replace("0.05, pseudo.fusion: 0.7", "0.05, pseudo.fusion: 0.6"))
    for _ in range(2):
        study, _ = open_study("s", edited, tmp_path)
        assert published(study) is None
        assert [t.user_attrs["queued"] for t in study.get_trials(states=(TrialState.WAITING,))] == edited.points()[:1]


def test_what_is_queued_stays_and_what_no_longer_fits_is_passed_over(tmp_path: Path) -> None:
    asked = space(tmp_path, FLAT)
    open_study("s", asked, tmp_path)  # queues prototype_weight 1.6 and 0.4
    text = FLAT.replace("uniform: [0.0, 2.0]", "uniform: [1.0, 2.0]").replace("weight: 0.4", "weight: 1.4")
    edited = space(tmp_path, text)
    study, _ = open_study("s", edited, tmp_path)
    search = StudySearch(study, edited, 3)
    weights = [json.loads(search.suggest(str(i))["changes"])["classifier.options.prototype_weight"] for i in range(3)]
    assert weights[:2] == [1.6, 1.4] and 1 <= weights[2] <= 2
    assert study.trials[1].state == TrialState.FAIL and study.trials[1] not in counted(study)


def test_a_driver_that_died_while_it_made_the_study_left_nothing_that_counts(tmp_path: Path) -> None:
    asked = space(tmp_path, FLAT)
    half = optuna.create_study(study_name="s", storage=storage_at(tmp_path), direction="maximize")
    half.enqueue_trial(asked.points()[0], user_attrs={"queued": asked.points()[0]})
    with pytest.raises(UserError, match="it has: none"):
        load_study("s", tmp_path)
    study, edits = open_study("s", asked, tmp_path)
    assert edits == [] and len(study.trials) == len(asked.points())


def test_trials_of_before_and_after_an_edit_are_compared(tmp_path: Path) -> None:
    asked = space(tmp_path, FLAT)
    study, _ = open_study("s", asked, tmp_path)
    for value in (0.1, 0.5, 0.3):
        run_one(study, asked, value)
    edited = space(tmp_path, FLAT.replace("uniform: [0.0, 2.0]", "uniform: [0.0, 4.0]"))
    study, _ = open_study("s", edited, tmp_path)
    for value in (0.2, 0.4):
        run_one(study, edited, value)
    copies = same_ranges(complete(study))
    assert {str(t.distributions["classifier.options.prototype_weight"]) for t in copies} == {
        "FloatDistribution(high=4.0, log=False, low=0.0, step=None)"
    }
    assert [(t.value, t.params, t.user_attrs) for t in copies] == [
        (t.value, t.params, t.user_attrs) for t in complete(study)
    ]
    assert sum(share.value for share in shares(complete(study)).values()) == pytest.approx(1)


def test_a_setting_that_is_added_later_changes_no_study_and_no_name(tmp_path: Path) -> None:
    asked = space(tmp_path)
    study, _ = open_study("s", asked, tmp_path)
    name = default_name(asked, "tiny")
    base = study.user_attrs["base"]
    del base["classifier"]["flip"], base["evaluation"], base["segmentation"]["flip"]  # as if they were new
    study.set_user_attr("base", base)
    assert open_study("s", asked, tmp_path)[1] == []
    assert "flip" not in str(identity(asked)) and default_name(asked, "tiny") == name
    assert name != default_name(space(tmp_path, SPACE, "classifier.flip=false"), "tiny")
    assert name == default_name(space(tmp_path, SPACE, "data.root=elsewhere"), "tiny")


@pytest.mark.parametrize(
    ("text", "overrides", "named"),
    [
        (SPACE, ["classifier.batch=4"], "classifier.batch 8 -> 4"),
        (SPACE.replace("parameters:", "objective: {metric: seed/miou}\nparameters:"), [], "seed/best_miou"),
    ],
)
def test_a_study_of_another_base_or_objective_is_refused(tmp_path: Path, text: str, overrides, named: str) -> None:
    open_study("s", space(tmp_path), tmp_path)
    with pytest.raises(UserError, match="searches something else") as refused:
        open_study("s", space(tmp_path, text, *overrides), tmp_path)
    assert named in str(refused.value) and "--study NAME" in str(refused.value)


def test_a_study_of_an_earlier_version_is_not_overwritten(tmp_path: Path) -> None:
    optuna.create_study(study_name="s", storage=storage_at(tmp_path)).ask()
    with pytest.raises(UserError, match="earlier version"):
        open_study("s", space(tmp_path), tmp_path)


def test_a_study_that_does_not_exist_lists_those_that_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no optuna\.db"):
        load_study("s", tmp_path)
    for name in ("one", "two"):
        open_study(name, space(tmp_path), tmp_path)
    with pytest.raises(UserError, match="it has: one, two"):
        load_study("s", tmp_path)


def test_a_broken_database_is_named_copied_and_left_alone(tmp_path: Path) -> None:
    open_study("s", space(tmp_path), tmp_path)
    path = tmp_path / "optuna.db"
    with contextlib.closing(sqlite3.connect(path)) as database:  # all that was written is in the one file
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    content = bytearray(path.read_bytes())
    content[4096 : 4096 + 20000] = b"\xff" * 20000
    path.write_bytes(content)
    with pytest.raises(UserError, match="is broken") as refused:
        load_study("s", tmp_path)
    [copy] = tmp_path.glob("optuna.db.broken-*")
    assert str(copy) in str(refused.value)
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
    with pytest.raises(UserError, match="OPTUNA_STORAGE") as refused:
        load_study("s", tmp_path)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.filterwarnings("ignore")
def test_every_sampler_that_a_space_may_name_draws_numbers_and_choices(name: str) -> None:
    study = optuna.create_study(direction="maximize", sampler=build_sampler(name, 0))
    for i in range(9):
        trial = study.ask()
        value = trial.suggest_float("x", 0, 1) + (trial.suggest_categorical("kind", ["a", "b"]) == "a")
        if i % 3 == 0:
            trial.set_user_attr("reason", "diverged")
        study.tell(trial, None if i % 3 == 0 else value, state=TrialState.PRUNED if i % 3 == 0 else None)
    assert {how_ended(t) for t in study.trials} == {TrialState.FAIL, TrialState.COMPLETE}
