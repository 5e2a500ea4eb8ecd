"""Weights, gradients and moments, spread over a team by FSDP2: each process keeps a part of each.

Checkpoints and finished weights are whole, gathered by the first process, and the same whatever the team: what one team
has begun another may finish, or one process alone. The limit is that process's memory: 12 bytes per parameter.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.qwen2_moe.modeling_qwen2_moe import Qwen2MoeExperts

from mm1_lab import team


def layers(*modules: nn.Module) -> list[nn.Module]:
    """The transformer layers within: what is gathered one at a time."""
    return [part for module in modules for part in module.modules() if isinstance(part, GradientCheckpointingLayer)]


def compile_parts(*modules: nn.Module) -> None:
    """Compiles each; in a team layer by layer, for shards are gathered between."""
    for part in modules if team.size() == 1 else layers(*modules):
        part.compile()


class Shards:
    """Spreads the parameters of `module`, which has `network`, over the team, and makes them whole again."""

    def __init__(self, module: nn.Module, network: nn.Module, precision: str) -> None:
        empty = {
            id(parameter): nn.Parameter(torch.empty_like(parameter, device="meta"), parameter.requires_grad)
            for parameter in network.parameters()
        }
        self._network = network
        self._twin = copy.deepcopy(network, dict(empty))
        self._shapes = {f"network.{name}": value.shape for name, value in self._twin.state_dict().items()}
        for part in network.modules():
            for name, parameter in part.named_parameters(recurse=False):
                if parameter.ndim == 0:  # FSDP2 takes no scalars
                    setattr(part, name, nn.Parameter(parameter.detach().reshape(1), parameter.requires_grad))
        nothing = {parameter for parameter in network.parameters() if not parameter.numel()}
        for parameter in nothing:  # a shared expert of width 0, which FSDP2 does not take either
            parameter.register_post_accumulate_grad_hook(_drop_gradient)
        mesh = init_device_mesh(team.device().type, (team.size(),))
        # autocast would make copies in half precision anyway; of experts, which are large, only these are gathered
        half = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
        for experts in network.modules():
            if isinstance(experts, Qwen2MoeExperts):
                fully_shard(experts, mesh=mesh, mp_policy=half if precision == "bf16-mixed" else MixedPrecisionPolicy())
        for part in (*layers(network), module):
            fully_shard(part, mesh=mesh, ignored_params=nothing)
        self._wholes = dict(zip(network.parameters(), self._twin.parameters(), strict=True))

    def gather(self, checkpoint: dict[str, Any], order: Sequence[nn.Parameter]) -> None:
        """Makes a checkpoint whole in the first process, and empty in the others; `order` is the optimiser's."""
        weights = checkpoint["state_dict"]
        checkpoint["state_dict"] = {name: _full(value, self._shapes[name]) for name, value in weights.items()}
        [optimiser] = checkpoint["optimizer_states"]
        optimiser["state"] = {
            at: {name: _full(value, self._wholes[order[at]].shape) for name, value in moments.items()}
            for at, moments in optimiser["state"].items()
        }

    def scatter(self, checkpoint: dict[str, Any], weights: dict[str, Any], order: Sequence[nn.Parameter]) -> None:
        """Leaves of a whole checkpoint this process's shards; `weights` are those of the module as it is."""
        found = checkpoint["state_dict"]
        checkpoint["state_dict"] = {name: _share(value, weights[name]) for name, value in found.items()}
        [optimiser] = checkpoint["optimizer_states"]
        optimiser["state"] = {
            at: {name: _share(value, order[at]) if name != "step" else value for name, value in moments.items()}
            for at, moments in optimiser["state"].items()
        }

    def whole(self) -> nn.Module:
        """The network as it was made, with its trained weights in the first process's memory; elsewhere without."""
        filled = {}
        for shards, empty in self._wholes.items():
            value = _full(shards, empty.shape)
            filled[id(empty)] = empty if value is None else nn.Parameter(value, empty.requires_grad)
        for part in self._twin.modules():
            for name, parameter in part.named_parameters(recurse=False, remove_duplicate=False):
                setattr(part, name, filled[id(parameter)])
        return self._twin


class OneOfTeam(SingleDeviceStrategy):
    """To Lightning each process trains alone. Only the first one writes; what each reads stays on disk until used."""

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        if team.is_first():
            super().save_checkpoint(checkpoint, filepath, storage_options)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        return torch.load(checkpoint_path, map_location="cpu", mmap=True, weights_only=True)

    def teardown(self) -> None:
        """Leaves the shards where they are; Lightning would move them to the CPU."""
        self.precision_plugin.teardown()
        assert self.accelerator is not None
        self.accelerator.teardown()


def _drop_gradient(parameter: torch.Tensor) -> None:
    parameter.grad = None


def _full(value: Any, shape: torch.Size) -> Any:
    """What a DTensor is in the whole, in the first process's memory and None elsewhere; other values as they are."""
    if not isinstance(value, DTensor):
        return value
    full = value.full_tensor().detach()
    return full.reshape(shape).cpu() if team.is_first() else None


def _share(value: torch.Tensor, like: Any) -> torch.Tensor:
    if not isinstance(like, DTensor):
        return value
    return distribute_tensor(value.reshape(like.shape), like.device_mesh, like.placements, src_data_rank=None)
