"""Private names of other libraries: they are where `tune/private.py` expects them, and nowhere else in the package."""

import re
from pathlib import Path

import optuna
import pytest

from tests.tune.conftest import ROOT
from tune.private import set_attrs
from tune.study.storage import storage_at

PRIVATE = r"\b(study|trial|storage|optuna|ray|mlflow|tuner)(\.\w+)*\._[a-z]\w*|from (optuna|ray|mlflow)[\w.]*\._"


@pytest.mark.parametrize("kind", ["sqlite", "journal"])
def test_attributes_written_at_once_are_what_attributes_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    if kind == "journal":
        monkeypatch.setenv("OPTUNA_STORAGE", f"journal:{tmp_path / 'journal'}")
    storage = storage_at(tmp_path)
    study = optuna.create_study(study_name="s", storage=storage, direction="maximize")
    trial = study.ask()
    set_attrs(trial, {"a": [1, None], "b": {"c": "d"}})
    set_attrs(trial, {"a": 2})
    study.tell(trial, 0.5)
    again = optuna.load_study(study_name="s", storage=storage_at(tmp_path))
    assert again.trials[0].user_attrs == {"a": 2, "b": {"c": "d"}}


def test_attributes_that_can_not_be_written_leave_none_behind(tmp_path: Path) -> None:
    study = optuna.create_study(storage=storage_at(tmp_path))
    trial = study.ask()
    with pytest.raises(TypeError):
        set_attrs(trial, {"a": 1, "b": object()})
    assert study.get_trials()[0].user_attrs == {}


def test_no_other_module_uses_private_names() -> None:
    files = [path for path in (ROOT / "tune").rglob("*.py") if path.name not in ("private.py", "connect.py")]
    uses = [(path.name, match[0]) for path in files for match in re.finditer(PRIVATE, path.read_text(encoding="utf-8"))]
    assert len(files) > 20 and not uses
