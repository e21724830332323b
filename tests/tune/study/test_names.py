"""Names of studies: what could leave the results folder is refused where it is parsed."""

import argparse
from pathlib import Path

import pytest

from tune import search
from tune.study.names import LONGEST, name_from, study_name

BAD = ["", ".", "..", "../../x", "a/b", "/abs", "a b", "a@2", "a\n", "é", "x" * (LONGEST + 1)]


@pytest.mark.parametrize("text", ["msdw", "a.b_c-3", "...", "x" * LONGEST])
def test_names_of_files_are_names_of_studies(text: str) -> None:
    assert study_name(text) == text


@pytest.mark.parametrize("text", BAD)
def test_what_could_be_a_path_is_refused_by_the_command(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        study_name(text)
    with pytest.raises(SystemExit) as end:
        search.main(["--space", "msdw.yaml", f"--study={text}", "--results", str(tmp_path / "results")])
    assert end.value.code == 2 and "can't name a study" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("stem", ["msdw", "my space (2)", "ä", "x" * 300])
def test_a_default_name_is_valid_whatever_the_file_is_called(stem: str) -> None:
    name = name_from(stem, "0123abcd")
    assert study_name(name) == name and name.endswith("-0123abcd")
