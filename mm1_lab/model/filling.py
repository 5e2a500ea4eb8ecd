"""Where weights come from that each process of a team makes or reads for itself, its shards alone."""

import hashlib
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.distributed.checkpoint import state_dict_loader
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from torch.distributed.tensor import DTensor, Shard

BLOCK = 2**20
"""How many numbers one generator draws (if a row has more, a row's), so that a process draws few of other processes'
numbers."""
Weights = Mapping[str, Tensor]
"""A model's weights by name."""
Fill = Callable[[Weights], None]
"""Writes the values of weights; of a DTensor, those of this process's shard. All processes call this."""


def fill(model: nn.Module, sources: Mapping[str, Fill]) -> None:
    """Fills the weights of `model` that are named in `sources`, all that have one source at once."""
    weights = model.state_dict()
    for source in dict.fromkeys(sources.values()):
        names = [name for name, one in sources.items() if one is source]
        source({name: weights[name] for name in names})


def read_stored(folder: Path, weights: Weights) -> None:
    """Reads weights from the `.safetensors` of a folder."""
    state_dict_loader.load(dict(weights), storage_reader=HuggingFaceStorageReader(str(folder)))


@torch.no_grad()
def draw_normal(seed: int, spreads: Mapping[str, float], weights: Weights) -> None:
    """Draws normal weights, the same ones however they are sharded; `spreads` are standard deviations by name."""
    for name, weight in weights.items():
        shape = weight.shape[:-1]
        *rows, columns = _own(weight)
        numbers = torch.arange(shape.numel()).view(shape)[tuple(rows)].flatten()
        _draw_rows(f"{seed} {name}", spreads[name], weight.shape[-1], numbers, columns, _local(weight))


def _draw_rows(seed: str, spread: float, width: int, numbers: Tensor, columns: slice, into: Tensor) -> None:
    """Writes the given columns of the rows, of `width` columns, with the given numbers, which ascend."""
    rows_per_block = max(1, BLOCK // width)
    blocks, counts = (numbers // rows_per_block).unique_consecutive(return_counts=True)
    lengths = counts.tolist()
    rows = into.view(-1, into.shape[-1])
    of_blocks = zip(blocks.tolist(), numbers.split(lengths), rows.split(lengths), strict=True)
    for block, in_block, own in of_blocks:
        drawn = torch.empty(rows_per_block, width)
        drawn.normal_(std=spread, generator=_generator(f"{seed} {block}"))
        own.copy_(drawn[in_block - block * rows_per_block, columns])


def _generator(name: str) -> torch.Generator:
    digest = hashlib.sha256(name.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


OF_EXPERTS = {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}
"""By the matrix of all experts of a layer, those of a feed-forward that each is made of."""


@torch.no_grad()
def copy_dense(folder: Path, weights: Weights) -> None:
    """Copies weights of a dense decoder in a folder, each expert's from its layer's feed-forward."""
    for name, weight in weights.items():
        before, is_of_experts, matrix = name.partition("experts.")
        if is_of_experts:
            parts = [_read(folder, f"{before}{one}.weight") for one in OF_EXPERTS[matrix]]
            value = torch.cat(parts).expand(weight.shape)
        else:
            value = _read(folder, name)
        _local(weight).copy_(value[_own(weight)])


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


def _own(weight: Tensor) -> tuple[slice, ...]:
    """This process's part of `weight` along each dimension, as `torch.chunk` divides those that are sharded."""
    own = [slice(None)] * weight.ndim
    if isinstance(weight, DTensor):
        for axis, placement in enumerate(weight.placements):
            if isinstance(placement, Shard):
                length = math.ceil(weight.shape[placement.dim] / weight.device_mesh.size(axis))
                start = length * weight.device_mesh.get_local_rank(axis)
                own[placement.dim] = slice(start, start + length)
    return tuple(own)
