"""Shards weights, gradients and optimiser moments over a team with FSDP2; and a trained model, to evaluate it.

Each process fills its shards of the weights that the network's parts name in `unread`. The rest the first process
makes; the others build the network on the meta device (`only_in_first`) and get their shards from it. It also gathers
the final weights, which must fit its memory: 4 bytes per parameter. For checkpoints see checkpoints.py.
"""

import copy
import math
import os
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import distributed, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import Shard
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.qwen2_moe.modeling_qwen2_moe import Qwen2MoeExperts, Qwen2MoeTopKRouter

from mm1_lab import team
from mm1_lab.config import DecoderStage, ModelStage, Resources
from mm1_lab.config.cost import keeps_whole_gradients, shard_group, state_bytes
from mm1_lab.model import MM1, Encoder, read_by_document
from mm1_lab.model.filling import fill, read_stored

AnyModule = TypeVar("AnyModule", bound=nn.Module)


def layers(*modules: nn.Module) -> list[nn.Module]:
    """The transformer layers in `modules`, which are gathered one at a time."""
    return [part for module in modules for part in module.modules() if isinstance(part, GradientCheckpointingLayer)]


def compile_parts(*modules: nn.Module) -> None:
    """Compiles the transformer layers in `modules`: a layer is compiled once for all that are alike."""
    torch.compiler.reset()  # networks of earlier stages count towards the shapes that it compiles
    # a router notes its logits; when a checkpointed layer is computed for the second time, nobody reads them
    torch._dynamo.config.skip_fwd_side_effects_in_bwd_under_checkpoint = True
    for layer in layers(*modules):
        layer.compile()


def prepare(
    stage: DecoderStage | ModelStage, resources: Resources, decoder: PreTrainedModel, *others: nn.Module
) -> None:
    """Sets checkpointing, attention and compilation of a stage's parts; `others` are MM1's encoder and connector."""
    parts = stage if isinstance(stage, DecoderStage) else stage.architecture
    if resources.gradient_checkpointing is True:  # `auto` is for a plan to decide
        encoders = [part for other in others for part in other.modules() if isinstance(part, Encoder)]
        for part in (decoder, *(encoder.vision for encoder in encoders)):
            part.activation_checkpointing_enable({"use_reentrant": False})
    if parts.attention == "varlen" or not (stage.compile or team.device().type == "cuda"):
        read_by_document(decoder)
    if stage.compile:
        compile_parts(*others, decoder.model)


class ShardedNetwork:
    """Shards the parameters of `module`, which contains `network`, over the team, and gathers the trained ones. They
    are the first process's; in the others the network may be on the meta device. `per_trained`: see `state_bytes`."""

    def __init__(self, module: nn.Module, network: nn.Module, precision: str, per_trained: float = 16.0) -> None:
        self._network = network
        self._twin = without_weights(network)
        ignored = _make_shardable(network)
        weights = network.state_dict() if team.is_first() else {}
        unread = {prefix: part for prefix, part in network.named_modules() if hasattr(part, "unread")}
        for prefix, part in unread.items():
            for name in part.unread:
                weights.pop(f"{prefix}.{name}" if prefix else name, None)
        memory = _memory()
        self._keeps_whole_gradients = keeps_whole_gradients(_numbers(network.parameters()), memory)
        _shard(module, network, precision, ignored, _mesh(network, per_trained, memory))
        if not team.is_first():
            module.to_empty(device=team.device())
        from_first = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True, strict=False)
        set_model_state_dict(network, weights, options=from_first)
        for part in unread.values():
            fill(part, part.unread)
        own = [buffer.cpu() for buffer in network.buffers()] if team.is_first() else []
        for buffer, value in zip(network.buffers(), team.broadcast(own), strict=True):
            buffer.copy_(value)  # those that are in no state dict
        torch.set_rng_state(team.broadcast(torch.get_rng_state()))

    def exchange_gradients(self, module: nn.Module, parts: Sequence[Any], is_last: bool) -> None:
        """Lets the sharded `module` exchange gradients only in the last of a step's `parts`, if whole ones fit the
        memory; otherwise, if each node has all shards, lets nodes do so."""
        assert isinstance(module, FSDPModule)
        if self._keeps_whole_gradients:
            module.set_requires_gradient_sync(is_last)
            return
        # FSDP adds up what a node has of the parameters with gradients, which must be the same ones in all parts
        are_alike = len({part.most_images > 0 for part in parts}) == 1
        module.set_requires_all_reduce(is_last or not are_alike)

    def whole(self) -> nn.Module:
        """The original network with its trained weights in the first process; without weights in the others."""
        in_first = StateDictOptions(full_state_dict=True, cpu_offload=True)
        weights: dict[str, Any] = get_model_state_dict(self._network, options=in_first)
        if team.is_first():
            empty = self._twin.state_dict()
            shaped = {name: weights[name].view(like.shape) for name, like in empty.items()}
            self._twin.load_state_dict(shaped, assign=True)
            for part in self._twin.modules():
                if isinstance(part, PreTrainedModel):
                    part.tie_weights()  # assigned one by one
        return self._twin


def read_sharded(model: MM1, folder: Path, shards: int) -> None:
    """Reads weights for inference into `model`, whose parameters are on the meta device, in their precision there.

    Each `shards` consecutive processes of the team divide the decoder's layers, which they gather one at a time, and
    must compute the same batches. The rest each has whole: it is small, and used outside of the decoder's forward pass.
    """
    device = team.device()
    groups = (team.size() // shards, shards)
    mesh = init_device_mesh(device.type, groups, mesh_dim_names=("groups", "processes"))["processes"]
    decoder = model.decoder
    whole = set(decoder.parameters())
    for layer in layers(decoder):
        whole -= {one for one in layer.parameters() if one.ndim and one.numel()}
    _shard(decoder.model, decoder.model, "32-true", whole, mesh)
    model._apply(lambda values: torch.empty_like(values, device=device) if values.is_meta else values.to(device))
    tied = model.all_tied_weights_keys
    names = [name for name, values in model.state_dict().items() if name not in tied and values.numel()]
    fill(model, dict.fromkeys(names, partial(read_stored, folder)))
    for name, source in tied.items():
        model.get_parameter(name).data.copy_(model.get_parameter(source))

    def follow_first(_: nn.Module, inputs: Any, output: Any) -> None:
        # experts' sums on GPUs differ in rounding: who chose another token could end an answer before the others
        distributed.broadcast(output.logits, group=mesh.get_group(), group_src=0)

    decoder.register_forward_hook(follow_first)


def without_weights(network: AnyModule) -> AnyModule:
    """A copy of the network with its parameters on the meta device."""
    copies = {}
    for parameter in network.parameters():
        empty = torch.empty_like(parameter, device="meta")
        copies[id(parameter)] = nn.Parameter(empty, parameter.requires_grad)
    return copy.deepcopy(network, copies)  # which takes what it finds there for copied already


def _make_shardable(network: nn.Module) -> set[nn.Parameter]:
    """Replaces the parameters that FSDP2 does not support: scalars get a dimension, and those without elements (of a
    shared expert of width 0), which it must ignore and are returned, are not trained."""
    ignored = set()
    for part in network.modules():
        for name, parameter in part.named_parameters(recurse=False):
            if parameter.ndim == 0:
                row = parameter.detach().reshape(1)
                setattr(part, name, nn.Parameter(row, parameter.requires_grad))
            elif not parameter.numel():
                empty = nn.Parameter(torch.empty_like(parameter, device=team.device()), requires_grad=False)
                setattr(part, name, empty)
                ignored.add(empty)
    return ignored


def _shard(module: nn.Module, network: nn.Module, precision: str, ignored: set[nn.Parameter], mesh: DeviceMesh) -> None:
    """Shards experts, layers, and the rest of `module` over the team, each to be gathered by itself."""
    half = MixedPrecisionPolicy()
    if precision == "bf16-mixed":
        # autocast would cast the weights anyway: cast before they are gathered, they take half the time
        half = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)

    def place(experts: nn.Parameter) -> Shard:
        """By the first dimension of (experts, rows, columns) that the processes divide evenly. FSDP2 would fill up the
        experts to a multiple of their number, and divides the other dimensions only evenly."""
        for dimension, length in enumerate(experts.shape):
            if length % mesh.shape[-1] == 0:
                return Shard(dimension)
        return Shard(0)

    for part in network.modules():
        if isinstance(part, Qwen2MoeExperts):
            fully_shard(part, mesh=mesh, mp_policy=half, shard_placement_fn=place)
        elif isinstance(part, Qwen2MoeTopKRouter):
            fully_shard(part, mesh=mesh)  # chooses experts in single precision
    for layer in layers(network):
        # on CPUs autocast leaves LayerNorm (of the encoders) alone, which then needs the precision of its input
        keeps = mesh.device_type == "cpu" and any(isinstance(part, nn.LayerNorm) for part in layer.modules())
        fully_shard(layer, mesh=mesh, mp_policy=MixedPrecisionPolicy() if keeps else half, ignored_params=ignored)
    # the rest in full precision: half-precision embeddings would make the residual stream half-precision, too
    fully_shard(module, mesh=mesh, ignored_params=ignored)


def _mesh(network: nn.Module, per_trained: float, memory: float) -> DeviceMesh:
    """All processes in a row, or by nodes: each node then has all shards, and only gradients pass between nodes."""
    size = team.size()
    kind = team.device().type
    on_nodes = team.numbers(int(os.environ.get("LOCAL_WORLD_SIZE", size)))  # of torchrun and Ray Train
    per_node = on_nodes[0] if len(set(on_nodes)) == 1 else size  # Ray may spread them unevenly
    parameters = _numbers(network.parameters())
    trained = _numbers(parameter for parameter in network.parameters() if parameter.requires_grad)
    if size == shard_group(size, per_node, state_bytes(parameters, trained, per_trained), memory):
        return init_device_mesh(kind, (size,))
    return init_device_mesh(kind, (size // per_node, per_node), mesh_dim_names=("nodes", "processes"))


def _numbers(parameters: Iterable[nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters)


def _memory() -> float:
    """Bytes of the smallest GPU of the team, so that all processes decide alike."""
    device = team.device()
    if device.type != "cuda":
        return math.inf
    return min(team.numbers(torch.cuda.get_device_properties(device).total_memory))
