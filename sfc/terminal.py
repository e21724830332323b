"""Commands on a terminal: exit codes, signals and the log of the stages."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType

from sfc.errors import Diverged, UserError


class Terminated(KeyboardInterrupt):
    """This process was sent SIGTERM."""

    exit_code = 143


class _Received:
    """Whether this process was sent SIGTERM."""

    terminated = False


def _terminate(_: int, frame: FrameType | None) -> None:
    _Received.terminated = True
    interrupt = signal.getsignal(signal.SIGINT)
    if callable(interrupt) and interrupt is not signal.default_int_handler:
        interrupt(signal.SIGINT, frame)  # while trials run it is Ray Tune's, which ends them in order
        return
    raise Terminated


def catch_sigterm() -> None:
    """Let SIGTERM do what Ctrl-C does. To be called again after `ray.init`, whose own handler aborts the process."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminate)


def interruption() -> KeyboardInterrupt:
    """The exception to raise where a library caught a signal and returned as if nothing had happened."""
    return Terminated() if _Received.terminated else KeyboardInterrupt()


def guarded(command: Callable[[], int]) -> int:
    """Run a command; errors that a user can mend become one message.

    Returns:
        The command's exit code, or 2 (the input is wrong, nothing was started), 1 (failed on the way), 130 (Ctrl-C),
        143 (SIGTERM).
    """
    handler = signal.getsignal(signal.SIGTERM)
    _Received.terminated = False
    try:
        catch_sigterm()
        return command()
    except (UserError, Diverged) as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt as error:
        print("\nstopped; the same command goes on from here", file=sys.stderr)
        return getattr(error, "exit_code", 130)
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


def set_up_logging() -> None:
    """Show the progress of the stages on the terminal."""
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", level=logging.WARNING)
    logging.getLogger("sfc").setLevel(logging.INFO)
    for name in ("mlflow", "alembic", "optuna"):  # these tell at INFO what they set up
        logging.getLogger(name).setLevel(logging.WARNING)
