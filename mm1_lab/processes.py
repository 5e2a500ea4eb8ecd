"""What the command's processes have in common: how often Python's collector runs, and who hears a Ctrl-C."""

from __future__ import annotations

import gc
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from concurrent.futures import ProcessPoolExecutor

Found = TypeVar("Found")

LONGEST_FOR_SOCKETS = 60
"""Bytes of a folder's name that leave room for the names of multiprocessing's sockets in it: paths of sockets have at
most 107 bytes, on macOS 103."""


def collect_rarely() -> None:
    """Called first in a process of the command. Imports, or ten thousand trials, make a million objects that stay, and
    to go through them again and again takes a fifth of an import."""
    gc.set_threshold(100_000, 20, 100)


@contextmanager
def interrupts_blocked() -> Iterator[None]:
    """Child processes started in this block ignore Ctrl-C, lest imports print tracebacks, until `begin_helper`. This
    process hears one, or a SIGTERM, at the end of the block."""
    heard: list[int] = []
    handlers = {}
    if threading.current_thread() is threading.main_thread():  # libraries' other threads hear it in its place
        for number in (signal.SIGINT, signal.SIGTERM):
            handlers[number] = signal.signal(number, lambda number, _: heard.append(number))
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        for number, handler in handlers.items():
            signal.signal(number, handler or signal.SIG_DFL)  # None: of no Python
        if heard:
            signal.raise_signal(heard[0])


def by_helpers(pool: ProcessPoolExecutor, calls: Iterable[Callable[[], Found]]) -> list[Found]:
    """What `calls` return, computed by the pool's processes, which begin with `begin_helper`; a Ctrl-C ends them."""
    from multiprocessing import active_children

    try:
        with interrupts_blocked():  # the pool starts its processes when it gets work
            begun = [pool.submit(call) for call in calls]
        # not by `map`, which cancels the rest at a Ctrl-C: a pool whose processes have ended then prints a traceback
        return [one.result() for one in begun]
    except KeyboardInterrupt:
        for helper in active_children():  # some may have started after it
            helper.terminate()
        raise


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
