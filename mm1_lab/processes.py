"""What the command's processes have in common: how often Python's collector runs, and who hears a Ctrl-C."""

import gc
import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

LONGEST_FOR_SOCKETS = 60
"""Bytes of a folder's name that leave room for the names of multiprocessing's sockets in it: paths of sockets have at
most 107 bytes, on macOS 103."""


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


def shorten_sockets() -> None:
    """Called before processes pass files to each other: puts their sockets into /tmp where the name of the temporary
    folder is too long for these, as later versions of Python do (data loaders would wait for ever)."""
    chosen = tempfile.gettempdir()
    if len(os.fsencode(chosen)) > LONGEST_FOR_SOCKETS:
        from multiprocessing.util import get_temp_dir

        tempfile.tempdir = "/tmp"
        try:
            get_temp_dir()
        finally:
            tempfile.tempdir = chosen


def begin_helper() -> None:
    """Called first in such a process: from now on a Ctrl-C, which all of them receive, ends it silently, also one
    received before; only the command reports it."""
    collect_rarely()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
