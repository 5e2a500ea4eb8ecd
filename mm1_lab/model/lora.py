"""LoRA (Hu et al. 2021): adapters of low rank, trained in place of the linear layers beside which they stand.

Not peft's, which names each weight anew (`q_proj.base_layer.weight`), so that the processes of a team would not find
their shards of it in a folder, and draws from torch's own generator, whose state depends on the size of the team.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from mm1_lab.config import ModelStage


class AdaptedLinear(nn.Linear):
    """W x + b + alpha / rank · B A x, of which A (rank, in) and B (out, rank) are trained. W and b keep their names."""

    def __init__(self, linear: nn.Linear, rank: int, alpha: float, numbers: torch.Generator) -> None:
        super().__init__(linear.in_features, linear.out_features, bias=False, device="meta")
        self.weight = linear.weight
        self.bias = linear.bias
        self.scaling = alpha / rank
        self.lora_a = nn.Parameter(linear.weight.new_empty(rank, linear.in_features))
        if not self.lora_a.is_meta:
            nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5), generator=numbers)
        self.lora_b = nn.Parameter(linear.weight.new_zeros(linear.out_features, rank))

    def forward(self, values: Tensor) -> Tensor:
        """(…, in) → (…, out)"""
        low = self.scaling * nn.functional.linear(values, self.lora_a)
        return super().forward(values) + nn.functional.linear(low, self.lora_b)

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """The linear layer that computes the same."""
        linear = nn.Linear(self.in_features, self.out_features, bias=self.bias is not None, device="meta")
        self.weight += self.scaling * self.lora_b @ self.lora_a
        linear.weight = self.weight
        linear.bias = self.bias
        return linear


def add_adapters(model: nn.Module, stage: ModelStage) -> dict[str, int]:
    """Fixes the parts in the stage's `lora`, and puts adapters beside all linear layers inside their transformer
    layers: not the embeddings, the head, experts or routers. Returns the adapters' parameters by part.

    Their numbers depend on torch's seed alone, not on how many it has drawn, which are fewer in a team."""
    numbers = torch.Generator().manual_seed(torch.initial_seed() + 1)
    counts = {}
    for name, lora in stage.lora.items():
        assert lora.alpha is not None
        part = getattr(model, name)
        part.requires_grad_(False)
        for holder, child, linear in list(_linear_layers(part)):
            setattr(holder, child, AdaptedLinear(linear, lora.rank, lora.alpha, numbers))
        counts[name] = sum(parameter.numel() for parameter in part.parameters() if parameter.requires_grad)
    return counts


def merge_adapters(model: nn.Module) -> None:
    """Adds all adapters to the weights beside which they stand."""
    for holder in list(model.modules()):
        for name, child in list(holder.named_children()):
            if isinstance(child, AdaptedLinear):
                setattr(holder, name, child.merged())


def _linear_layers(part: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Linear]]:
    """The linear layers inside transformer layers, with the module that holds each and its name there."""
    for layer in part.modules():
        if not isinstance(layer, GradientCheckpointingLayer):
            continue
        for holder in layer.modules():
            if hasattr(holder, "experts"):
                continue  # what is beside these chooses them
            for name, child in holder.named_children():
                if type(child) is nn.Linear and child.weight.numel():  # a shared expert may have width 0
                    yield holder, name, child
