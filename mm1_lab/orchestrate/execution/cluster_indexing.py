"""`mm1-lab index` on a Ray cluster: a task per file, on every node."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from mm1_lab.config import RequestError, Resources, Scale
from mm1_lab.data.shards import indexing
from mm1_lab.orchestrate.execution.preflight import ask_ray, check_nodes
from mm1_lab.orchestrate.execution.ray_tune import RayTune
from mm1_lab.orchestrate.execution.worker import WorkerContext
from mm1_lab.results import Ledger

T = TypeVar("T")


def index_on_cluster(address: str, path: Path, ledger: Ledger, scale: Scale, tokenizer: Path | None) -> Iterator[str]:
    """As `index_data`, on the cluster at `address`, whose nodes must see the data and the store; see docs/cluster.md.

    Raises RequestError, also for a node that does not.
    """
    path, executor = path.absolute(), RayTune(address)
    with executor:
        executor.open(scale.model_copy(update={"resources": Resources()}))
        check_nodes(ask_ray, WorkerContext(ledger.store, ledger.store, path, scale, tokenizer=tokenizer), {})
        folder = ledger.data_cache.absolute()
        yield from indexing.index_data(path, folder, scale, partial(_tasks, executor.slots), tokenizer)


@contextmanager
def _tasks(cores: int, *opened: Any) -> Iterator[indexing.Map[Any]]:
    """Yields a `map` that runs in Ray's tasks, whose processes first open their data if `opened`."""
    yield partial(_map, 2 * cores, opened)


def _map(most: int, opened: tuple[Any, ...], function: Callable[[Any], T], items: Iterable[Any]) -> Iterator[T]:
    """The results in order, with at most `most` tasks at a time."""
    import ray

    run, waiting = ray.remote(num_cpus=1)(_run), deque[Any]()
    for item in items:
        if len(waiting) == most:
            yield _result(waiting.popleft())
        waiting.append(run.remote(opened, function, item))
    while waiting:
        yield _result(waiting.popleft())


def _result(task: Any) -> Any:
    import ray

    try:
        return ray.get(task)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, RequestError):
            raise RequestError(str(error.cause)) from None
        raise


def _run(opened: tuple[Any, ...], function: Callable[[Any], T], item: Any) -> T:
    """Runs on a node, in a process that serves this command alone."""
    if opened and not indexing.is_open():
        indexing.open_data(*opened)
    return function(item)
