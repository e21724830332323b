"""python -m sfc: words to commands."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from sfc.__main__ import COMMANDS, OLD_NAMES, main
from sfc.commands import check, run


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_parser_and_says_what_it_does(name: str, capsys: pytest.CaptureFixture) -> None:
    parser = COMMANDS[name].load().parser()
    assert isinstance(parser, argparse.ArgumentParser) and parser.description
    with pytest.raises(SystemExit) as end:
        main([name, "--help"])
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: python -m sfc {name} ")


@pytest.mark.parametrize("words", [[], ["shew"], ["show"], ["show", "--bogus", "synthetic.yaml"]])
def test_wrong_words_are_a_usage_error(words: list[str], capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 2 and "usage: python -m sfc" in capsys.readouterr().err


def test_show_prints_the_configuration(capsys: pytest.CaptureFixture) -> None:
    assert main(["show", "synthetic.yaml", "classifier.lr=0.25", "seed=3"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["classifier"]["lr"] == 0.25 and shown["seed"] == 3


@pytest.mark.parametrize("name", ["show", "check", "run"])
def test_mistakes_in_settings_are_told_before_anything_starts(name: str, capsys: pytest.CaptureFixture) -> None:
    assert main([name, "synthetic.yaml", "classifier.lrr=1"]) == 2
    assert "did you mean classifier.lr" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["--results", "out", "synthetic.yaml", "seed=3", "classifier.lr=1"],
        ["synthetic.yaml", "--results", "out", "seed=3", "classifier.lr=1"],
        ["synthetic.yaml", "seed=3", "--results=out", "classifier.lr=1"],
        ["synthetic.yaml", "seed=3", "classifier.lr=1", "--results", "out"],
    ],
)
def test_options_and_settings_come_in_any_order(words: list[str]) -> None:
    options = run.parser().parse_intermixed_args(words)
    assert options.config == "synthetic.yaml" and options.results == Path("out")
    assert options.overrides == ["seed=3", "classifier.lr=1"]


def test_old_names_still_work(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for name in OLD_NAMES:
        assert main([name, str(tmp_path / "none.pth")]) == 2
        assert "none.pth" in capsys.readouterr().err


def test_a_long_list_of_problems_is_cut() -> None:
    problems = [f"p{i}" for i in range(check.LISTED + 3)]
    assert check.listed(problems[:2]) == "\n  p0\n  p1"
    assert check.listed(problems).endswith(f"p{check.LISTED - 1}\n  and 3 more")


def test_it_runs_as_a_module() -> None:
    words = [sys.executable, "-m", "sfc", "show", "synthetic.yaml"]
    assert "format: synthetic" in subprocess.run(words, capture_output=True, text=True, check=True).stdout
