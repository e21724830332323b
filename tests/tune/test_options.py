"""Options that commands share: paths that mean the same everywhere, nothing heavy before they are checked."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.tune.conftest import ROOT
from tune import ablate, final
from tune.options import cluster_options, results_folder

HEAVY = ("ray", "torch", "optuna", "mlflow", "pandas", "matplotlib")


def test_relative_results_of_a_job_are_below_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert results_folder("results") == tmp_path / "results"
    (tmp_path / "working_dir_files" / "_ray_pkg_1").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "working_dir_files" / "_ray_pkg_1")
    assert results_folder("results") == tmp_path / "home" / "results"
    assert results_folder("/shared/results") == Path("/shared/results")


def test_the_store_is_below_the_results_unless_it_is_named(tmp_path: Path) -> None:
    words = ["--study", "s", "--results", str(tmp_path)]
    options = cluster_options(final.parser().parse_args(words))
    assert (options.results, options.store, options.workers) == (tmp_path, tmp_path / "store", 1)
    named = final.parser().parse_args([*words, "--store", "s3://bucket/a", "--address", "auto"])
    assert (cluster_options(named).store, cluster_options(named).address) == ("s3://bucket/a", "auto")


@pytest.mark.parametrize(("module", "words"), [(final, []), (ablate, ["--plan", "components.yaml"])])
@pytest.mark.parametrize("study", ["../../x", "/abs", "..", "a b", "x" * 101])
def test_a_study_whose_name_could_be_a_path_is_refused(
    module: object, words: list[str], study: str, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit) as end:
        module.main([*words, f"--study={study}"])  # type: ignore[attr-defined]
    assert end.value.code == 2 and "can't name a study" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["final", "ablate"])
def test_help_and_wrong_options_import_nothing_heavy(command: str) -> None:
    code = f"""
import sys, contextlib, io
from tune import {command}
with contextlib.suppress(SystemExit), contextlib.redirect_stderr(io.StringIO()):
    {command}.main(["--no-such-option"])
print(sorted(set({HEAVY!r}) & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
