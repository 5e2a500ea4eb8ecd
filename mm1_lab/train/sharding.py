"""Shards weights, gradients and optimiser moments over a team with FSDP2.

Only the first process creates or loads the weights; the others build the network on the meta device (`only_in_first`)
and get their shards from it. It also gathers the final weights, which must fit its memory: 4 bytes per parameter. For
checkpoints see checkpoints.py.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.qwen2_moe.modeling_qwen2_moe import Qwen2MoeExperts

from mm1_lab import team
from mm1_lab.config import DecoderStage, ModelStage
from mm1_lab.model import Encoder, read_by_document


def layers(*modules: nn.Module) -> list[nn.Module]:
    """The transformer layers in `modules`, which are gathered one at a time."""
    return [part for module in modules for part in module.modules() if isinstance(part, GradientCheckpointingLayer)]


def compile_parts(*modules: nn.Module) -> None:
    """Compiles each module; in a team each layer, since shards are gathered between layers."""
    for part in modules if team.size() == 1 else layers(*modules):
        part.compile()


def prepare(stage: DecoderStage | ModelStage, decoder: PreTrainedModel, *others: nn.Module) -> None:
    """Sets checkpointing, attention and compilation of a stage's parts; `others` are MM1's encoder and connector."""
    if stage.gradient_checkpointing:
        for part in (decoder, *(other.vision for other in others if isinstance(other, Encoder))):
            part.activation_checkpointing_enable({"use_reentrant": False})
    if stage.attention == "varlen" or not (stage.compile or torch.cuda.is_available()):
        read_by_document(decoder)
    if stage.compile:
        compile_parts(*others, decoder.model)


class ShardedNetwork:
    """Shards the parameters of `module`, which contains `network`, over the team, and gathers the trained ones.

    They, the buffers and the random state are those of the first process; in the others the network may be on the meta
    device.
    """

    def __init__(self, module: nn.Module, network: nn.Module, precision: str) -> None:
        self._twin = _without_weights(network)
        ignored = _make_shardable(network)
        weights = [parameter.detach() for parameter in network.parameters()]
        _shard(module, network, precision, ignored)
        if not team.is_first():
            module.to_empty(device=team.device())
        for shards, whole in zip(network.parameters(), weights, strict=True):
            _deal(shards, whole)
        buffers = team.broadcast([buffer.cpu() for buffer in network.buffers()] if team.is_first() else [])
        for buffer, value in zip(network.buffers(), buffers, strict=True):
            buffer.copy_(value)
        torch.set_rng_state(team.broadcast(torch.get_rng_state()))
        self._unsharded = dict(zip(network.parameters(), self._twin.parameters(), strict=True))

    def scatter(self, checkpoint: dict[str, Any], weights: dict[str, Any], order: Sequence[nn.Parameter]) -> None:
        """Reduces a single process's checkpoint to this one's shards; `weights` is the module's current state dict."""
        found = checkpoint["state_dict"]
        checkpoint["state_dict"] = {name: _share(value, weights[name]) for name, value in found.items()}
        [optimiser] = checkpoint["optimizer_states"]
        optimiser["state"] = {
            at: {name: _share(value, order[at]) if name != "step" else value for name, value in moments.items()}
            for at, moments in optimiser["state"].items()
        }

    def whole(self) -> nn.Module:
        """The original network with its trained weights in the first process; without weights in the others."""
        filled = {}
        for shards, empty in self._unsharded.items():
            value = _full(shards, empty.shape)
            filled[id(empty)] = empty if value is None else nn.Parameter(value, empty.requires_grad)
        for part in self._twin.modules():
            for name, parameter in part.named_parameters(recurse=False, remove_duplicate=False):
                setattr(part, name, filled[id(parameter)])
        return self._twin


def _without_weights(network: nn.Module) -> nn.Module:
    """A copy of the network with its parameters on the meta device."""
    copies = {
        id(parameter): nn.Parameter(torch.empty_like(parameter, device="meta"), parameter.requires_grad)
        for parameter in network.parameters()
    }
    return copy.deepcopy(network, copies)  # which takes what it finds there for copied already


def _make_shardable(network: nn.Module) -> set[nn.Parameter]:
    """Replaces the parameters that FSDP2 does not support: scalars get a dimension, and those without elements (of a
    shared expert of width 0), which it must ignore and are returned, have no gradient."""
    ignored = set()
    for part in network.modules():
        for name, parameter in part.named_parameters(recurse=False):
            if parameter.ndim == 0:
                setattr(part, name, nn.Parameter(parameter.detach().reshape(1), parameter.requires_grad))
            elif not parameter.numel():
                empty = nn.Parameter(torch.empty_like(parameter, device=team.device()), parameter.requires_grad)
                empty.register_post_accumulate_grad_hook(_drop_gradient)
                setattr(part, name, empty)
                ignored.add(empty)
    return ignored


def _drop_gradient(parameter: torch.Tensor) -> None:
    parameter.grad = None


def _shard(module: nn.Module, network: nn.Module, precision: str, ignored: set[nn.Parameter]) -> None:
    """Shards experts, layers, and the rest of `module` over the team, each to be gathered by itself."""
    mesh = init_device_mesh(team.device().type, (team.size(),))
    policy = MixedPrecisionPolicy()
    if precision == "bf16-mixed":
        # autocast would cast the weights anyway; experts are large, so they are gathered in half precision
        policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    for part in network.modules():
        if isinstance(part, Qwen2MoeExperts):
            fully_shard(part, mesh=mesh, mp_policy=policy)
    for part in (*layers(network), module):
        fully_shard(part, mesh=mesh, ignored_params=ignored)


@torch.no_grad()
def _deal(shards: torch.Tensor, whole: torch.Tensor) -> None:
    """Fills each process's shards of a parameter with the first process's value."""
    if isinstance(shards, DTensor):
        device = shards.to_local().device
        whole = whole.to(device) if team.is_first() else torch.empty_like(whole, device=device)
        shards.to_local().copy_(distribute_tensor(whole, shards.device_mesh, shards.placements).to_local())


def _full(value: Any, shape: torch.Size) -> Any:
    """A DTensor unsharded into the first process's memory (None in the others); other values unchanged."""
    if not isinstance(value, DTensor):
        return value
    full = value.full_tensor().detach()
    return full.reshape(shape).cpu() if team.is_first() else None


def _share(value: torch.Tensor, like: Any) -> torch.Tensor:
    if not isinstance(like, DTensor):
        return value
    return distribute_tensor(value.reshape(like.shape), like.device_mesh, like.placements, src_data_rank=None)
