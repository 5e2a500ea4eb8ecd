"""Decoding of many questions that share a prefix.

A block is a single sequence in the decoder's batch: the prefix, computed once, followed by all questions, each of which
attends only to the prefix and to itself, by a 4-D attention mask and explicit positions. So the prefix's keys and
values are not copied for each question, which would otherwise dominate decoding time.

    keys of one block:   [ prefix | question 1 | question 2 | … | token 1 of each answer | token 2 of each answer | … ]

Blocks are batched. Questions are padded on the left, so that all end at the same index; nothing attends to padding, so
logits do not depend on the composition of the batch.
"""

from collections.abc import Sequence
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache, PreTrainedModel

from mm1_lab.model import masks_of

MASK = 2**26
"""Pairs of a position and a key in an attention mask, at most; about 10 bytes each while it is made and used."""


class AutocastCache(DynamicCache):
    """Keeps keys and values in the precision to which autocast, where it is on, rounds them in every attention. Keys
    are in fp32 after RoPE, and values would follow them: twice the memory, and a cast of all of it at every step."""

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *rest: Any, **more: Any
    ) -> tuple[Tensor, Tensor]:
        device = key_states.device.type
        if torch.is_autocast_enabled(device):
            half = torch.get_autocast_dtype(device)
            key_states = key_states.to(half)
            value_states = value_states.to(half)
        return super().update(key_states, value_states, layer_idx, *rest, **more)


class SharedPrefixDecoding:
    """Decodes a batch of groups token by token, with one KV cache.

    Shapes: G groups, Q questions in the largest group, P and L tokens in the longest prefix and question, K keys in the
    cache. Smaller groups are padded with copies of their last question.
    """

    def __init__(
        self,
        decoder: PreTrainedModel,
        prefixes: Sequence[Tensor],
        questions: Sequence[Sequence[Tensor]],
    ) -> None:
        """Reads `prefixes`, decoder inputs (length, width), one per group, and `questions`, several per group."""
        self._decoder = decoder
        self._embed = decoder.get_input_embeddings()
        self._cache = AutocastCache()  # of all keys, also in layers with sliding windows: theirs are of many sequences
        # `past_key_values` before transformers 5.24
        self._cache_name = "cache" if "cache" in signature(decoder.forward).parameters else "past_key_values"
        self._device = prefixes[0].device
        self._keys = torch.empty(len(prefixes), 0, dtype=torch.long, device=self._device)
        """(G, keys): the position of each key in the cache."""
        self.counts = [len(group) for group in questions]
        """Questions in each group."""
        self._same_question = torch.eye(max(self.counts), dtype=torch.bool, device=self._device)
        """(Q, Q)"""
        self._decoded = 0
        """Tokens of each answer that have been read."""
        in_prefix = self._read_prefixes(prefixes)
        self._visible, self._positions, self.logits = self._read_questions(questions, in_prefix)
        """Of the first token of each answer: bool (G, Q, keys), what it may attend to apart from itself; its position
        (G, Q); and its logits (G, Q, vocabulary)."""

    def _read_prefixes(self, prefixes: Sequence[Tensor]) -> Tensor:
        """Fills the KV cache with the right-padded prefixes. Returns bool (G, P): False for padding."""
        inputs = pad_sequence(list(prefixes), batch_first=True)
        groups, longest, _ = inputs.shape
        lengths = torch.tensor([len(prefix) for prefix in prefixes], device=self._device)
        positions = torch.arange(longest, device=self._device).expand(groups, -1)
        in_prefix = positions < lengths[:, None]
        self._read(inputs, positions, in_prefix[:, None])
        return in_prefix

    def _read_questions(
        self, questions: Sequence[Sequence[Tensor]], in_prefix: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Reads the left-padded questions (length, width). Returns `_visible`, `_positions` and `logits`."""
        most = max(self.counts)
        filled: list[Tensor] = []
        for group in questions:
            filled += group
            filled += [group[-1]] * (most - len(group))
        lengths = torch.tensor([len(question) for question in filled], device=self._device).view(-1, most)
        padded = pad_sequence(filled, batch_first=True, padding_side="left")
        inputs = padded.unflatten(0, (-1, most))  # (G, Q, L, width)
        longest = inputs.shape[2]
        # (G, Q, L): the place of each input in its question, negative in the padding before it
        places = torch.arange(longest, device=self._device) - (longest - lengths)[..., None]
        start = in_prefix.sum(dim=1, keepdim=True)  # (G, 1)
        positions = start[..., None] + places.clamp(min=0)
        # a question sees all of the prefix, and of the questions' keys its own that are no padding: (G, Q, Q, L)
        is_token = places >= 0
        own_keys = self._same_question[..., None] & is_token[:, None]
        prefix_keys = in_prefix[:, None].expand(-1, most, -1)
        visible = torch.cat([prefix_keys, own_keys.flatten(2, 3)], dim=2)
        logits = self._read(inputs.flatten(1, 2), positions.flatten(1, 2), visible)
        return visible, start + lengths, logits

    def advance(self, tokens: Tensor) -> Tensor:
        """Reads the next token (G, Q) of each answer. Returns the logits (G, Q, vocabulary) of the one after it."""
        positions = self._positions + self._decoded
        self._decoded += 1
        own_keys = self._same_question.repeat(1, self._decoded)
        own_keys = own_keys.expand(len(tokens), -1, -1)
        visible = torch.cat([self._visible, own_keys], dim=2)
        return self._run(self._embed(tokens), visible, positions)

    def _read(self, inputs: Tensor, positions: Tensor, visible: Tensor) -> Tensor:
        """Reads n inputs (G, n, width) in as many passes as it takes for no mask to exceed MASK.

        `visible` is bool (G, spans, K), these n included: each of n / spans consecutive inputs may attend to such keys
        up to itself, and always to itself, as padding has nothing else. Returns the logits (G, spans, vocabulary) of
        the last input of each span.
        """
        count = inputs.shape[1]
        groups, spans, keys = visible.shape
        length = count // spans
        before = keys - count
        at_once = MASK // (groups * keys) or 1
        indices = torch.arange(keys, device=self._device)
        ends = indices[length - 1 : count : length]
        logits = []
        for start in range(0, count, at_once):
            end = min(start + at_once, count)
            own = indices[start:end]
            keys_read = indices[: before + end]
            itself = before + own[:, None]
            allowed = visible[..., : before + end].index_select(1, own // length)
            allowed &= keys_read <= itself
            allowed |= keys_read == itself
            last_of_spans = ends[start // length : end // length] - start
            logits.append(self._run(inputs[:, start:end], allowed, positions[:, start:end], last_of_spans))
        return torch.cat(logits, dim=1)

    def _run(self, inputs: Tensor, allowed: Tensor, positions: Tensor, keep: Tensor | int = 0) -> Tensor:
        """Runs the decoder; `allowed` is bool (G, queries, K). Returns logits at the indices `keep`; 0: at all."""
        self._keys = torch.cat([self._keys, positions], dim=1)
        masks = masks_of(self._decoder.config, allowed, positions, self._keys)
        zero = inputs.new_zeros(())
        least = torch.finfo(inputs.dtype).min
        if isinstance(masks, dict):
            added: Any = {kind: torch.where(mask, zero, least) for kind, mask in masks.items()}
        else:
            added = torch.where(masks, zero, least)
        output = self._decoder(
            inputs_embeds=inputs,
            attention_mask=added,
            position_ids=positions,
            use_cache=True,
            logits_to_keep=keep,
            **{self._cache_name: self._cache},
        )
        return output.logits
