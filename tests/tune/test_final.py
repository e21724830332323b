"""The final runs of a study: wrong input, runs that fail beside others that do not."""

from pathlib import Path

import optuna
import pytest

from tests.tune.conftest import SPACE, TINY
from tune import final
from tune.space.space_file import load_space
from tune.study.study import open_study


@pytest.fixture
def study(tmp_path: Path) -> optuna.Study:
    """A study `s` in the folder of the test, with one complete trial that nobody trained."""
    (tmp_path / "tiny.yaml").write_text(SPACE)
    space = load_space(str(tmp_path / "tiny.yaml"), overrides=[*TINY, f"data.root={tmp_path / 'data'}"])
    study, _ = open_study("s", space, tmp_path)
    trial = study.ask()
    settings = space.suggest(trial) | {"pseudo.fusion": 0.7}
    for name, value in {"settings": settings, "metrics": {"seed/best_threshold": 0.3}}.items():
        trial.set_user_attr(name, value)
    study.tell(trial, 0.4)
    return study


@pytest.mark.usefixtures("study")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["classifier.nonsense=3"],
            "command line, classifier.nonsense=3: unknown setting classifier.nonsense; did you mean",
        ),
        (["cam.scales=[9]", "classifier.epochs=-1"], "command line, classifier.epochs=-1: classifier.epochs: "),
        (["classifier.epochs"], "'classifier.epochs' is not of the form section.key=value"),
    ],
)
def test_wrong_overrides_are_named_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture, words: list[str], message: str
) -> None:
    assert final.main(["--study", "s", "--results", str(tmp_path), *words]) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    if len(words) > 1:
        assert "command line, cam.scales=[9]: cam.scales" in error, "both mistakes are listed"
    assert not (tmp_path / "store").exists()
