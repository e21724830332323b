"""SIGTERM, which clusters send before they kill a process, ends a command as Ctrl-C does."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType

from sfc import __main__ as single

TERMINATED, INTERRUPTED = 143, 130
"""Exit codes."""
GRACE = 15.0
"""Seconds between SIGTERM and the end. Where the signal went to Ray's processes too, as Slurm sends it, Ray waits a
minute for them; clusters kill after 30 s."""


class _Received:
    """Whether this process was sent SIGTERM."""

    sigterm = False


def _terminate(number: int, frame: FrameType | None) -> None:
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
    """`sfc.__main__.guarded` for the platform's commands: 143 where SIGTERM ended the command, 130 for Ctrl-C."""
    catch_sigterm()
    code = single.guarded(command)
    return TERMINATED if code == INTERRUPTED and _Received.sigterm else code
