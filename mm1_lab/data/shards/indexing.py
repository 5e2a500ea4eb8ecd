"""`mm1-lab index`: prepares users' data for reading, file by file, in several processes of this machine or others.

First it indexes each file and writes the table of each source's files, so that the data can then be opened without
reading the files. Then it tokenises each file and packs the rows of large sources. Finished files are kept, so that a
killed command continues where it stopped.
"""

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from mm1_lab.config import Scale
from mm1_lab.data.shards.datafile import read_data_file
from mm1_lab.data.shards.index import index_file, write_table
from mm1_lab.data.shards.remote import Copies
from mm1_lab.data.shards.shards import Shards, table_path
from mm1_lab.processes import allow_interrupts, interrupts_blocked

T = TypeVar("T")
Map = Callable[[Callable[[Any], T], Iterable[Any]], Iterator[T]]
Workers = Callable[..., AbstractContextManager[Map[Any]]]
"""Gives, for as long as it is open, a `map` in processes that first call `open_data` with its arguments, if any."""
_data: Shards
"""The data that this process works on."""


def index_data(
    path: Path, folder: Path, scale: Scale, workers: Workers, tokenizer: Path | None = None
) -> Iterator[str]:
    """Indexes all files listed in the data file `path` into the cache `folder`; yields one line of text per source.

    `tokenizer` is the folder of a pre-trained decoder for which the tokens are made, if the data file names none.
    Raises RequestError if the data file or any file it lists is invalid.
    """
    content, files = read_data_file(path)
    copies, longest = Copies(folder / "copies", content.room), content.longest_document
    with workers() as work:
        for name, source in content.all_named().items():
            index = partial(index_file, reader=source.reader, longest=longest, cache=folder, copies=copies)
            shards = list(_with_progress(work(index, files[name]), len(files[name]), f"{name}: samples"))
            write_table(table_path(folder, path, name, source, longest), shards)
    opened = path, folder, scale, tokenizer
    open_data(*opened)
    _ = _data.tokenizer
    with workers(*opened) as work:
        for name, collection in _data.everything.items():
            count = len(collection.shards)
            for _ in _with_progress(work(partial(_prepare, name), range(count)), count, f"{name}: tokens"):
                pass
            for rows in _data.usual_rows(name):
                _ = rows.counts
            windows = ", read in windows of files" if collection.is_large else ""
            yield f"{name}: {len(collection):,} samples in {count:,} file{'s' * (count != 1)}{windows}"


def open_data(path: Path, folder: Path, scale: Scale, tokenizer: Path | None) -> None:
    """Opens the data that the function given to a `map` works on."""
    global _data
    _data = Shards(path, folder, scale, tokenizer)


def is_open() -> bool:
    """Whether this process has called `open_data`."""
    return "_data" in globals()


def _prepare(name: str, number: int) -> None:
    """Tokenises one file and, in a large collection, packs its rows."""
    _data.everything[name].tokens(number, _data.tokenizer)
    for rows in _data.usual_rows(name):
        rows.of_file(number)


def _start_worker(*opened: Any) -> None:
    allow_interrupts()
    if opened:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # this work is already split among processes
        open_data(*opened)


@contextmanager
def local_workers(processes: int, *opened: Any) -> Iterator[Map[Any]]:
    """Yields a `map` that runs in worker processes, which first open their data if `opened`; plain `map` for one."""
    if processes == 1:
        yield map
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, _start_worker, opened) as pool:

        def work(function: Callable[[Any], T], items: Iterable[Any]) -> Iterator[T]:
            with interrupts_blocked():  # the pool starts its processes when it gets work
                return pool.map(function, items)

        yield work


def _with_progress(done: Iterator[T], total: int, what: str) -> Iterator[T]:
    """Yields from `done`; shows a progress bar on a terminal."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    yield from track(done, what, total, console=console, transient=True, disable=not sys.stderr.isatty())
