"""What the command's processes have in common: how often Python's collector runs, and who hears a Ctrl-C."""

import gc
import signal
from collections.abc import Iterator
from contextlib import contextmanager


def collect_rarely() -> None:
    """Called first in a process of the command. Imports, or ten thousand trials, make a million objects that stay, and
    to go through them again and again takes a fifth of an import."""
    gc.set_threshold(100_000, 20, 100)


@contextmanager
def interrupts_blocked() -> Iterator[None]:
    """Child processes started in this block ignore Ctrl-C, lest imports print tracebacks, until `begin_helper`."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def begin_helper() -> None:
    """Called first in such a process: from now on a Ctrl-C, which all of them receive, ends it silently, also one
    received before; only the command reports it."""
    collect_rarely()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
