"""Space files: what is wrong is said with its line, and nothing starts."""

from pathlib import Path

import optuna
import pytest

from sfc.errors import UserError
from tune.space.sections import seconds
from tune.space.space_file import SPACES, load_space

GOOD = """\
base: synthetic.yaml
parameters:
  classifier.options.prototype_weight: {uniform: [0.0, 2.0]}
  classifier.lr: {log_uniform: [1e-3, 1e-1]}
  classifier.bank_images: {int: [0, 8]}
  classifier.options.weighting: {choice: [pairwise, effective_number]}
  classifier.options.beta: {choice: [0.9, 0.99], when: {classifier.options.weighting: effective_number}}
  classifier.options.scales: {choice: [[0.5], [0.5, 0.75]]}
published:
  classifier.options.prototype_weight: 1.6
  classifier.lr: 0.1
  classifier.bank_images: 4
  classifier.options.weighting: pairwise
  classifier.options.scales: [0.5]
"""


def load(tmp_path: Path, old: str = "", new: str = "", *overrides: str):
    assert old in GOOD
    path = tmp_path / "space.yaml"
    path.write_text(GOOD.replace(old, new))
    return load_space(str(path), overrides=overrides)


@pytest.mark.parametrize("path", sorted(SPACES.glob("*.yaml")), ids=lambda p: p.name)
def test_every_shipped_space_builds_configurations(path: Path) -> None:
    space = load_space(path.name)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(20):
        space.config(space.suggest(study.ask()))


def test_conditional_parameters_are_asked_only_where_they_apply(tmp_path: Path) -> None:
    space = load(tmp_path)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    seen = [space.suggest(study.ask()) for _ in range(40)]
    assert {c["classifier.options.weighting"] for c in seen} == {"pairwise", "effective_number"}
    assert all(
        ("classifier.options.beta" in c) == (c["classifier.options.weighting"] == "effective_number") for c in seen
    )
    assert {tuple(space.config(c).classifier.options.scales) for c in seen} == {(0.5,), (0.5, 0.75)}


def test_the_published_setting_is_the_first_point(tmp_path: Path) -> None:
    space = load(tmp_path)
    study = optuna.create_study()
    for point in space.points():
        study.enqueue_trial(point)
    assert space.suggest(study.ask()) == space.file.published


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ("classifier.lr: {log", "classifier.lrr: {log", 4, "did you mean classifier.lr?"),
        ("uniform: [0.0, 2.0]", "uniform: [2.0, 2.0]", 3, "empty range"),
        ("uniform: [0.0, 2.0]", "uniform: [-1.0, 2.0]", 3, "greater than or equal to 0"),
        ("int: [0, 8]", "int: [0.5, 8]", 5, "integer"),
        ("int: [0, 8]", "ints: [0, 8]", 5, "did you mean int?"),
        ("[pairwise, effective_number]}", "[pairwise, effective]}", 6, "effective_number"),
        ("choice: [[0.5], [0.5, 0.75]]", "choice: []", 8, "at least 1"),
        ("when: {classifier.options.weighting", "when: {classifier.wait", 7, "not a parameter above it"),
        (
            "classifier.options.prototype_weight: 1.6",
            "classifier.options.prototype_weight: 2.6",
            9,
            "outside uniform [0.0, 2.0]",
        ),
        ("  classifier.bank_images: 4\n", "", 9, "lacks a value for classifier.bank_images"),
        ("base: synthetic.yaml", "base: synthetik.yaml", None, "did you mean synthetic.yaml?"),
        ("published:", "budget: {time: 20}\npublished:", 9, "string"),
        ("published:", "budget: {time: 20x}\npublished:", 9, "90s, 20m or 3h"),
        ("published:", "objective: {split: val}\npublished:", None, "must differ"),
        ("published:", "objective: {metric: val/miou}\npublished:", 9, "can't be an objective"),
        ("published:", "compare: {set: {classifier.epoch: 3}}\npublished:", 9, "did you mean classifier.epochs?"),
    ],
)
def test_mistakes_are_named_with_their_line(tmp_path: Path, old: str, new: str, line: int | None, said: str) -> None:
    with pytest.raises(UserError) as caught:
        load(tmp_path, old, new)
    assert said in str(caught.value)
    if line is not None:
        assert f"space.yaml:{line}:" in str(caught.value)


def test_all_mistakes_are_reported_at_once(tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    path.write_text(GOOD.replace("[0.0, 2.0]", "[3.0, 2.0]").replace("int: [0, 8]", "int: [8, 0]"))
    with pytest.raises(UserError, match=r"(?s)space.yaml:3.*space.yaml:5"):
        load_space(str(path))


def test_a_searched_setting_can_not_be_fixed_on_the_command_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="can't be fixed"):
        load(tmp_path, "", "", "classifier.lr=0.1")


@pytest.mark.parametrize(("text", "expected"), [("90s", 90), ("20m", 1200), ("1.5h", 5400)])
def test_times(text: str, expected: float) -> None:
    assert seconds(text) == expected
