"""The command sfc: words to commands of sfc and tune, and completion."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys

import pytest

import sfc.__main__
from tune import cli


def test_all_commands_of_the_method_are_there() -> None:
    assert sfc.__main__.COMMANDS.items() <= cli.COMMANDS.items()
    assert {"search", "ablate", "final", "report", "store"} <= set(cli.COMMANDS)


def test_help_is_one_screen_and_imports_nothing_heavy() -> None:
    code = (
        "import atexit, sys\n"
        "from tune.cli import main\n"
        "atexit.register(lambda: print(*sorted(sys.modules), file=sys.stderr))\n"
        "main(['--help'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) <= 24 and all(len(line) <= 80 for line in lines)
    assert all(any(line.strip().startswith(f"{name} ") for line in lines) for name in cli.COMMANDS)
    assert not {"torch", "ray", "optuna", "mlflow", "pydantic", "numpy", "yaml"} & set(done.stderr.split())


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_a_parser_that_shows_the_name_typed(name: str, capsys: pytest.CaptureFixture) -> None:
    assert isinstance(cli.COMMANDS[name].load().parser(), argparse.ArgumentParser)
    with pytest.raises(SystemExit) as end:
        cli.main([name, "--bogus"])
    assert end.value.code == 2 and capsys.readouterr().err.startswith(f"usage: sfc {name} ")


def test_the_words_reach_the_command(capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["search", "classifier.lr=1", "--space", "nowhere.yaml", "seed=1"]) == 2
    assert "nowhere.yaml" in capsys.readouterr().err


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_names_commands_and_options(
    shell: str, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main([cli.COMPLETION, shell])
    script = capsys.readouterr().out
    assert end.value.code == 0 and "--workers-per-trial" in script and "coco14" in script


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("sfc s", {"show", "search", "store"}),
        ("sfc search --work", {"--workers", "--workers-per-trial"}),
        ("sfc data c", {"coco14", "coco17"}),
        ("sfc run pypro", {"pyproject.toml"}),
    ],
)
def test_bash_completes(
    line: str, expected: set[str], capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit):
        cli.main([cli.COMPLETION, "bash"])
    words = line.split()
    tail = f"""
COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; COMP_LINE="{line}"; COMP_POINT={len(line)}
_shtab_sfc sfc {words[-1]} {words[-2]}
echo "${{COMPREPLY[@]}}"
"""
    script = capsys.readouterr().out + tail
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == expected
