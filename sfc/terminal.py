"""Commands on a terminal: exit codes, signals and the log of the stages."""

from __future__ import annotations

import argparse
import atexit
import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from types import FrameType

from sfc.errors import Diverged, UserError

INTERRUPTED, TERMINATED = 130, 143
"""Exit codes after Ctrl-C and after SIGTERM."""
GRACE = 15.0
"""Seconds between SIGTERM and the end of the process, which clusters kill after 30 s. Where the signal went to Ray's
processes too, as Slurm sends it, Ray waits a minute for them."""


class _Received:
    """Whether this process was sent SIGTERM."""

    sigterm = False


def _terminate(_: int, frame: FrameType | None) -> None:
    if not _Received.sigterm:
        _Received.sigterm = True
        last = threading.Timer(GRACE, os._exit, [TERMINATED])
        last.daemon = True
        last.start()
    interrupt = signal.getsignal(signal.SIGINT)
    if callable(interrupt) and interrupt is not signal.default_int_handler:
        interrupt(signal.SIGINT, frame)  # while trials run it is Ray Tune's, which starts no more of them
    raise KeyboardInterrupt


def catch_sigterm() -> None:
    """Let SIGTERM do what Ctrl-C does. To be called again after `ray.init`, whose own handler aborts the process."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminate)


def guarded(command: Callable[[], int]) -> int:
    """Run a command; errors that a user can mend become one message.

    Returns:
        The command's exit code, or 2 (the input is wrong, nothing was started), 1 (failed on the way), 130 (Ctrl-C),
        143 (SIGTERM).
    """
    handler = signal.getsignal(signal.SIGTERM)
    try:
        catch_sigterm()
        code = command()
    except (UserError, Diverged) as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from here", file=sys.stderr)
        code = INTERRUPTED
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)
    return TERMINATED if code == INTERRUPTED and _Received.sigterm else code


def execute(
    parser: argparse.ArgumentParser, run: Callable[[argparse.Namespace], int], words: Sequence[str] | None = None
) -> int:
    """Parse a command line and run the command; every command goes through here.

    Args:
        parser: the command's parser.
        run: gets the parsed options and, as `options.words`, the words themselves; returns the exit code.
        words: the command line without the program; None: this process's.

    Returns:
        The exit code, see `guarded`.
    """
    words = sys.argv[1:] if words is None else list(words)
    atexit.register(gc.freeze)  # at its end Python would search all that was imported for garbage, which takes a second
    options = parser.parse_intermixed_args(words, argparse.Namespace(words=words))

    def logged() -> int:
        set_up_logging()
        return run(options)

    return guarded(logged)


def set_up_logging() -> None:
    """Show the progress of the stages on the terminal."""
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", level=logging.WARNING)
    logging.getLogger("sfc").setLevel(logging.INFO)
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")  # which it puts in force when it is imported
    logging.getLogger("alembic").setLevel(logging.WARNING)  # at INFO it tells what it sets up
