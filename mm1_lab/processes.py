"""Ctrl-C in the command's child processes: all of them receive the signal, but only the command reports it."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def interrupts_blocked() -> Iterator[None]:
    """Child processes started in this block ignore Ctrl-C, lest imports print tracebacks, until `allow_interrupts`."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def allow_interrupts() -> None:
    """Called first in such a process: from now on a Ctrl-C ends it silently, also one received before."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
