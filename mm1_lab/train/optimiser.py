"""AdamW or Adafactor, with linear warm-up and cosine decay, as notes on the paper report."""

import math
from collections import defaultdict
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor, Replicate
from transformers import Adafactor
from transformers.models.qwen2_moe.modeling_qwen2_moe import Qwen2MoeExperts, Qwen2MoeTopKRouter

from mm1_lab.config import MultimodalTraining, Optimiser

CONVOLUTION = nn.modules.conv._ConvNd  # the base class of all, which torch has under this name alone
DECAYED = (nn.Linear, nn.Bilinear, CONVOLUTION, nn.MultiheadAttention, Qwen2MoeExperts, Qwen2MoeTopKRouter)


class ShardedAdafactor(Adafactor):
    """The library's Adafactor, whose moments, made before the first step, are sharded as the parameters are: a row's
    mean square stands where the row does, or everywhere if rows are divided, and each process has those of all columns.
    """

    @torch.no_grad()
    def __init__(self, groups: Any, **settings: Any) -> None:
        super().__init__(groups, **settings)
        self.placements: dict[torch.Size, Any] = {}
        """Of parameters, by their shape."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if not isinstance(parameter, DTensor):
                    continue
                state = self.state[parameter]
                state["step"] = 0
                if parameter.ndim < 2:
                    state["exp_avg_sq"] = torch.zeros_like(parameter)
                    continue
                everywhere = [Replicate()] * parameter.device_mesh.ndim
                self.placements[parameter.shape] = parameter.placements
                rows: Any = parameter.mean(dim=-1)
                whole = [Replicate() if place.is_partial() else place for place in rows.placements]
                state["exp_avg_sq_row"] = torch.zeros_like(rows.redistribute(placements=whole))
                columns: Any = parameter.mean(dim=-2)
                state["exp_avg_sq_col"] = torch.zeros_like(columns.redistribute(placements=everywhere))

    def _approx_sq_grad(self, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = Adafactor._approx_sq_grad(rows, columns)
        if isinstance(found, DTensor):
            # of a parameter with a single row torch makes a replica, which it refuses to add to shards
            return found.redistribute(placements=self.placements[found.shape])
        return found

    def step(self, closure: Any = None) -> Any:
        loss = super().step(closure)
        for state in self.state.values():
            state["RMS"] = 0.0  # nobody reads it, and in a team it is no whole tensor
        return loss


def rate_factor(step: int, config: Optimiser) -> float:
    """Learning rate of the update after `step` completed ones, as a share of the peak. Warm-up reaches the peak at its
    last step; the cosine reaches `min_lr_ratio` at the very last step."""
    warmup = round(config.warmup_fraction * config.steps)
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, config.steps - 1 - warmup)
    least = config.min_lr_ratio
    return least + (1 - least) * (1 + math.cos(math.pi * progress)) / 2


def build_optimiser(
    module: nn.Module, config: Optimiser
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
    """The optimiser for the parameters of `module`, and its learning-rate schedule.

    Weight decay applies only to matrices and convolutions, experts and routers included: embeddings, learnt positions
    and queries, norms, biases and scalars would be pulled towards 0, which is not their neutral value.
    """
    matrices, embeddings = set(), set()
    for part in module.modules():
        for parameter in part.parameters(recurse=False):
            if isinstance(part, nn.Embedding):
                embeddings.add(parameter)
            elif isinstance(part, DECAYED) and parameter.ndim >= 2:
                matrices.add(parameter)
    decayed = matrices - embeddings  # of which one may be tied to the output head
    rates: dict[nn.Parameter, float] = {}
    for name, rate in config.lr_multipliers.items() if isinstance(config, MultimodalTraining) else ():
        rates |= dict.fromkeys(getattr(module, name).parameters(), rate)
    members: dict[tuple[float, bool], list[nn.Parameter]] = defaultdict(list)
    for parameter in module.parameters():
        if parameter.requires_grad and parameter.numel():  # a shared expert may have width 0
            members[rates.get(parameter, 1.0), parameter in decayed].append(parameter)
    groups = []
    for (rate, decays), parameters in members.items():
        decay = config.weight_decay * decays
        groups.append({"params": parameters, "lr": config.learning_rate * rate, "weight_decay": decay})
    optimiser: torch.optim.Optimizer
    if config.optimiser == "adafactor":
        # at the schedule's learning rate: by default the library scales it by the magnitude of each parameter
        optimiser = ShardedAdafactor(groups, lr=config.learning_rate, scale_parameter=False, relative_step=False)
    else:
        optimiser = torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, partial(rate_factor, config=config))
    return optimiser, schedule
