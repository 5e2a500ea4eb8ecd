"""The cache of keys and values of an evaluation."""

from typing import Any

import torch
from transformers import DynamicCache


class AutocastCache(DynamicCache):
    """Keeps keys and values in the precision to which autocast, where it is on, rounds them in every attention.

    Keys are in fp32 after RoPE, and values would follow them: twice the memory, and a cast of all of it at every step.
    """

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *rest: Any, **more: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        device = key_states.device.type
        if torch.is_autocast_enabled(device):
            half = torch.get_autocast_dtype(device)
            key_states, value_states = key_states.to(half), value_states.to(half)
        return super().update(key_states, value_states, layer_idx, *rest, **more)
