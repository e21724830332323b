"""Passwords come by the environment, and go nowhere else."""

from pathlib import Path

import pytest

from sfc.errors import UserError
from tests.tune.conftest import ROOT, TINY, command
from tune.tracking.tracker import Tracker, without_password


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("sqlite:////home/me/results/mlflow.db", "sqlite:////home/me/results/mlflow.db"),
        ("https://mlflow.example.org:5000/a", "https://mlflow.example.org:5000/a"),
        ("https://me:secret@mlflow.example.org:5000/a", "https://***@mlflow.example.org:5000/a"),
        ("postgresql://me:se@cret@db/runs", "postgresql://***@db/runs"),
        ("mysql://db/runs?password=secret", "mysql://db/runs?***"),
    ],
)
def test_an_address_is_shown_without_its_password(uri: str, shown: str) -> None:
    assert without_password(uri) == shown


def test_a_server_that_does_not_answer_keeps_its_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(UserError, match=r"http://\*\*\*@127\.0\.0\.1:1 can't be opened") as error:
        Tracker("http://me:secret@127.0.0.1:1", tmp_path)
    assert "secret" not in str(error.value)


@pytest.mark.slow
def test_a_whole_search_writes_no_secret_of_its_environment(
    tmp_path: Path, space_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "hunter2-correct-horse"
    database = tmp_path / "results" / "studies.db"
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, secret)
    monkeypatch.setenv("OPTUNA_STORAGE", f"sqlite:///{database}?timeout=30&password={secret}")
    space_file.write_text(space_file.read_text().replace("top: 2, seeds: 2", "top: 1, seeds: 1"))
    process = command(
        str(ROOT / "tune" / "search.py"),
        *("--space", str(space_file), "--study", "secret", "--trials", "1", *TINY),
        folder=tmp_path,
    )
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0 and database.is_file(), output
    written = [path for path in tmp_path.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]
    assert secret not in output and not written
