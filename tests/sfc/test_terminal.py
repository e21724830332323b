"""Exit codes of commands."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from sfc.errors import Diverged, UserError
from sfc.terminal import guarded


@pytest.mark.parametrize(("error", "code"), [(UserError("no file x"), 2), (Diverged("loss is nan"), 1)])
def test_errors_become_one_line_and_their_code(error: Exception, code: int, capsys: pytest.CaptureFixture) -> None:
    def command() -> int:
        raise error

    assert guarded(command) == code
    assert capsys.readouterr().err == f"error: {error}\n"


def test_other_exceptions_are_not_hidden() -> None:
    def command() -> int:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        guarded(command)


WAIT = "print('ready', flush=True); stopped.wait()"
CAUGHT = f"signal.signal(signal.SIGINT, lambda *_: stopped.set()); {WAIT}; return 130"  # as Ray Tune does


@pytest.mark.parametrize("body", [WAIT, CAUGHT], ids=["python", "library"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_end_a_command_without_a_traceback(body: str, number: signal.Signals, code: int) -> None:
    lines = [
        "import signal, sys, threading",
        "from sfc.terminal import guarded",
        "signal.signal(signal.SIGINT, signal.default_int_handler)",  # pytest's processes ignore it
        "stopped = threading.Event()",
        f"def command(): {body}",
        "sys.exit(guarded(command))",
    ]
    words = [sys.executable, "-c", "\n".join(lines)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert "Traceback" not in errors
    assert ("goes on from here" in errors) == (body == WAIT or number == signal.SIGTERM)


def test_the_handler_of_sigterm_is_put_back() -> None:
    handler = signal.getsignal(signal.SIGTERM)
    assert guarded(lambda: 0) == 0
    assert signal.getsignal(signal.SIGTERM) == handler
