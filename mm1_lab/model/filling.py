"""Where weights come from that each process of a team makes or reads for itself, its shards alone."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.distributed.checkpoint import state_dict_loader
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from torch.distributed.tensor import DTensor, Shard

BLOCK = 2**20
"""How many numbers one generator draws (if a row has more, a row's), so that a process draws few of other processes'
numbers."""


class Filling(Protocol):
    """A source of weights."""

    def fill(self, weights: Mapping[str, Tensor]) -> None:
        """Writes the values of `weights`, by name; of a DTensor, those of this process's shard. All processes call
        this."""


def fill(model: nn.Module, sources: Mapping[str, Filling]) -> None:
    """Fills the weights of `model` that are named in `sources`."""
    weights = model.state_dict()
    for source in dict.fromkeys(sources.values()):
        source.fill({name: weights[name] for name, one in sources.items() if one is source})


@dataclass(frozen=True, eq=False)
class Stored:
    """Weights in the `.safetensors` of a folder."""

    folder: Path

    def fill(self, weights: Mapping[str, Tensor]) -> None:
        state_dict_loader.load(dict(weights), storage_reader=HuggingFaceStorageReader(str(self.folder)))


@dataclass(frozen=True, eq=False)
class Drawn:
    """Normal weights: the same ones however they are sharded."""

    seed: int
    spreads: dict[str, float]
    """Standard deviations by name."""

    @torch.no_grad()
    def fill(self, weights: Mapping[str, Tensor]) -> None:
        for name, weight in weights.items():
            *rows, columns = (_own(weight, dimension) for dimension in range(weight.ndim))
            numbers = torch.arange(weight.shape[:-1].numel()).view(weight.shape[:-1])
            self._draw(name, weight.shape[-1], numbers[tuple(rows)].flatten(), columns, _local(weight))

    def _draw(self, name: str, width: int, numbers: Tensor, columns: slice, into: Tensor) -> None:
        """Writes the given columns of the rows with the given numbers, which ascend."""
        rows_per_block = max(1, BLOCK // width)
        rows = into.view(-1, into.shape[-1])
        for block in (numbers // rows_per_block).unique().tolist():
            first = block * rows_per_block
            start, end = torch.searchsorted(numbers, torch.tensor([first, first + rows_per_block])).tolist()
            digest = hashlib.sha256(f"{self.seed} {name} {block}".encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
            drawn = torch.empty(rows_per_block, width).normal_(std=self.spreads[name], generator=generator)
            rows[start:end] = drawn[numbers[start:end] - first, columns].to(rows)


@dataclass(frozen=True, eq=False)
class Copied:
    """Weights of a dense decoder in a folder, each expert a copy of its layer's feed-forward."""

    folder: Path

    @torch.no_grad()
    def fill(self, weights: Mapping[str, Tensor]) -> None:
        for name, weight in weights.items():
            before, is_of_experts, matrix = name.partition("experts.")
            if is_of_experts:
                names = {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}[matrix]
                value = torch.cat([_read(self.folder, f"{before}{one}.weight") for one in names]).expand(weight.shape)
            else:
                value = _read(self.folder, name)
            _local(weight).copy_(value[tuple(_own(weight, dimension) for dimension in range(weight.ndim))])


def _read(folder: Path, name: str) -> Tensor:
    """A tensor from one of the folder's files."""
    for path in folder.glob("[!.]*.safetensors"):
        with safe_open(path, "pt") as file:
            if name in file.keys():  # noqa: SIM118 (it is no dictionary)
                value: Tensor = file.get_tensor(name)
                return value
    raise FileNotFoundError(f"{folder}: no weights {name}")


def _local(weight: Tensor) -> Tensor:
    return weight.to_local() if isinstance(weight, DTensor) else weight


def _own(weight: Tensor, dimension: int) -> slice:
    """This process's part of `weight` along `dimension`, as `torch.chunk` divides it if it is sharded there."""
    if not isinstance(weight, DTensor):
        return slice(None)
    for axis, placement in enumerate(weight.placements):
        if placement == Shard(dimension):
            length = math.ceil(weight.shape[dimension] / weight.device_mesh.size(axis))
            start = length * weight.device_mesh.get_local_rank(axis)
            return slice(start, start + length)
    return slice(None)
