"""The processes that train one stage together: a single one, or several started by torchrun or Ray Train.

A step's batch is the same for every team size: each process takes a contiguous part of its rows, and sums over the
whole batch are taken over the team. Gradients are averaged over processes, so each process divides its sums by `mean`
counts. In a single process each function returns its argument. All processes must call these functions in the same
order.
"""

import os
import platform
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import distributed

from mm1_lab.config import RequestError

T = TypeVar("T")

_gpu_allowed = True


def allow_gpu(allowed: bool) -> None:
    """Whether this process may use a GPU. A scale without GPUs runs as many stages at a time as there are processors,
    and all would share the first one: neither Ray nor torch hides it from them."""
    global _gpu_allowed
    _gpu_allowed = allowed


def check_gpu() -> None:
    """Raises RequestError if this process may use a GPU and torch finds none: it would train on the processor, for
    days."""
    if _gpu_allowed and not torch.cuda.is_available():
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        raise RequestError(
            f"resources.gpus: torch {torch.__version__} finds no GPU on {platform.node()} (CUDA_VISIBLE_DEVICES is "
            f"{visible!r}); ask the batch system for one, mend its driver or torch's build, or train without: "
            "--set resources.gpus=0"
        )


class Dismissed(Exception):
    """This process has done its part of a stage; the first process finishes it."""


def size() -> int:
    """Number of processes, each with its own GPU if there are GPUs."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    return distributed.get_rank() if distributed.is_initialized() else 0


def is_first() -> bool:
    return rank() == 0


def dismiss_others() -> None:
    """Raises Dismissed in every process except the first."""
    if not is_first():
        raise Dismissed


def device() -> torch.device:
    """The device of this process; in a team it depends on the backends, since gloo alone uses the CPU."""
    if _gpu_allowed and torch.cuda.is_available() and (size() == 1 or "nccl" in distributed.get_backend_config()):
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def is_read_at_once(tensor: torch.Tensor) -> bool:
    """Whether nobody waits for the tensor's values: on a GPU they may not have been computed yet."""
    return tensor.device.type == "cpu"


def processor() -> str:
    """The name of the processor, and of the accelerator if one is used."""
    return f"{_cpu()} + {torch.cuda.get_device_name()}" if device().type == "cuda" else _cpu()


@lru_cache(maxsize=1)
def _cpu() -> str:
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [line for line in cpuinfo.read_text(encoding="utf-8").splitlines() if line.startswith("model name")]
        name = models[0].partition(":")[2].strip() if models else name
    return name


def only_in_first() -> AbstractContextManager[Any]:
    """While it is open, all processes except the first create tensors without memory, on the meta device."""
    return nullcontext() if is_first() else torch.device("meta")


def own(count: int) -> slice:
    """This process's part of `count` rows. Raises RequestError if there are fewer rows than processes."""
    if count < size():
        raise RequestError(f"a step of {count} rows cannot be shared by {size()} workers; use fewer, or larger steps")
    return slice(rank() * count // size(), (rank() + 1) * count // size())


@lru_cache(maxsize=2)
def _gloo_group(world: distributed.ProcessGroup, purpose: str) -> distributed.ProcessGroup:
    """A group of all processes of `world` for one purpose."""
    return distributed.new_group(backend="gloo")


def _processors() -> distributed.ProcessGroup | None:
    """The group for exchanges that need not wait for a GPU."""
    return _gloo_group(distributed.group.WORLD, "processors") if device().type == "cuda" else None


def writers() -> distributed.ProcessGroup | None:
    """The group in which checkpoints are written, perhaps by a thread, while training goes on."""
    return _gloo_group(distributed.group.WORLD, "writers") if size() > 1 else None


def numbers(number: int) -> list[int]:
    """Each process's `number`, in their order."""
    return [int(one) for [one] in vectors([number])]


def vectors(values: Sequence[float]) -> list[list[float]]:
    """Each process's `values`, of which all have equally many, in their order. Waits for the other processes."""
    if size() == 1:
        return [list(values)]
    found = torch.zeros(size(), len(values), dtype=torch.float64)
    found[rank()] = torch.tensor(values, dtype=torch.float64)
    distributed.all_reduce(found, group=_processors())
    return found.tolist()


def span(count: int) -> tuple[slice, int]:
    """The slice of this process's `count` rows in the rows of the whole team, and the total number of rows."""
    counts = numbers(count)
    start = sum(counts[: rank()])
    return slice(start, start + count), sum(counts)


def total(values: torch.Tensor) -> torch.Tensor:
    """The sum over the team, without gradient."""
    if size() == 1:
        return values
    values = values.detach().clone()
    distributed.all_reduce(values)
    return values


def mean(values: torch.Tensor) -> torch.Tensor:
    """The mean over the team, without gradient."""
    return values if size() == 1 else total(values) / size()


def broadcast(value: T) -> T:
    """The first process's value."""
    if size() == 1:
        return value
    values = [value]
    distributed.broadcast_object_list(values, group=_processors())
    return values[0]


def wait() -> None:
    """Returns once all processes have called it."""
    if size() > 1:
        distributed.barrier(group=_processors())


def collect(value: T, group: distributed.ProcessGroup | None = None) -> list[T]:
    """The values of all processes, in their order, exchanged in `group`."""
    if size() == 1:
        return [value]
    values: list[Any] = [None] * size()
    distributed.all_gather_object(values, value, group=group or _processors())
    return values


def gather(rows: torch.Tensor, own: slice, count: int) -> torch.Tensor:
    """The rows of the whole team, with gradients for this process's own; `own` and `count` come from `span`."""
    if size() == 1:
        return rows
    return _Gather.apply(rows, own, count)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, rows: torch.Tensor, own: slice, count: int) -> torch.Tensor:
        context.own = own
        whole = rows.new_zeros(count, *rows.shape[1:])
        whole[own] = rows
        return total(whole)

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return total(gradient.contiguous())[context.own], None, None
