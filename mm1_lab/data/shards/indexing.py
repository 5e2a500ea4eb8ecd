"""`mm1-lab index`: all that reading users' data needs is made ahead, file by file, in several processes.

First the index of each file, and of each source the table of its files, by which data are opened from then on without
reading them. Then the tokens of each file and, of large sources, its packed rows. What is made stays made, so that a
command that was killed goes on where it stood.
"""

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from mm1_lab.config import Scale
from mm1_lab.data.shards.datafile import read_data_file
from mm1_lab.data.shards.index import index_file, write_table
from mm1_lab.data.shards.remote import Copies
from mm1_lab.data.shards.shards import Shards, table_path
from mm1_lab.processes import hear, unheard

T = TypeVar("T")
_data: Shards
"""What this process works on."""


def index_data(path: Path, folder: Path, scale: Scale, processes: int) -> Iterator[str]:
    """Indexes what the data file at `path` names into the cache `folder`; yields a line for each source.

    Raises RequestError for anything wrong in the file or what it names.
    """
    content, files = read_data_file(path)
    copies, longest = Copies(folder / "copies", content.room), content.longest_document
    with _workers(processes) as work:
        for name, source in content.all_named().items():
            index = partial(index_file, reader=source.reader, longest=longest, cache=folder, copies=copies)
            shards = list(_told(work(index, files[name]), len(files[name]), f"{name}: samples"))
            write_table(table_path(folder, path, name, source, longest), shards)
    _open(path, folder, scale)
    _ = _data.tokenizer
    with _workers(processes, path, folder, scale) as work:
        for name, collection in _data.everything().items():
            count = len(collection.shards)
            for _ in _told(work(partial(_prepare, name), range(count)), count, f"{name}: tokens"):
                pass
            for rows in _data.usual_rows(name):
                _ = rows.counts
            windows = ", read in windows of files" if collection.is_large else ""
            yield f"{name}: {len(collection):,} samples in {count:,} files{windows}"


def _open(path: Path, folder: Path, scale: Scale) -> None:
    global _data
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # there are processes enough
    _data = Shards(path, folder, scale)


def _prepare(name: str, number: int) -> None:
    """Makes the tokens of one file and, of a large collection, its rows."""
    _data.everything()[name].tokens(number, _data.tokenizer)
    for rows in _data.usual_rows(name):
        rows.of_file(number)


def _begin(*opened: Any) -> None:
    hear()
    if opened:
        _open(*opened)


@contextmanager
def _workers(processes: int, *opened: Any) -> Iterator[Callable[[Callable[[Any], T], Iterable[Any]], Iterator[T]]]:
    """`map`, in so many processes, each with its data `opened`; this one serves where one is enough."""
    if processes == 1:
        yield map
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, _begin, opened) as pool:

        def work(does: Callable[[Any], T], items: Iterable[Any]) -> Iterator[T]:
            with unheard():  # processes start as work is handed in
                return pool.map(does, items)

        yield work


def _told(done: Iterator[T], total: int, what: str) -> Iterator[T]:
    """`done`, with a bar on a terminal."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    yield from track(done, what, total, console=console, transient=True, disable=not sys.stderr.isatty())
