"""Decoding of many questions that share a prefix.

The questions of a block share their demonstrations, which make up most of a prompt. A block is therefore a single
sequence in the decoder's batch: the prefix, computed once, followed by all questions, each of which attends only to the
prefix and to itself, by a 4-D attention mask and explicit positions. Nothing is computed twice, and the prefix's keys
and values are not copied for each question, which would otherwise dominate decoding time.

    keys of one block:   [ prefix | question 1 | question 2 | … | token 1 of each answer | token 2 of each answer | … ]

Blocks are batched. Questions are padded on the left, so that all end at the same index; nothing attends to padding, so
logits do not depend on the composition of the batch. Given answers continue their questions in the same way.
"""

from collections.abc import Iterator, Sequence

import torch
from transformers import PreTrainedModel

from mm1_lab.evaluate.cache import AutocastCache

MASK = 2**26
"""Pairs of a position and a key in an attention mask, at most; about 10 bytes each while it is made and used."""
LOGITS = 2**28
"""Logits computed at once, at most, unless one row has more: 0.5 GB in half precision."""


class SharedPrefixDecoding:
    """Decodes a batch of groups token by token, with one KV cache.

    Shapes: G groups, Q questions in the largest group, P and L tokens in the longest prefix and question. Smaller
    groups are padded with copies of their last question.
    """

    def __init__(
        self, decoder: PreTrainedModel, prefixes: Sequence[torch.Tensor], questions: Sequence[Sequence[torch.Tensor]]
    ) -> None:
        """Reads `prefixes`, decoder inputs (length, width), one per group, and `questions`, several per group."""
        self._decoder = decoder
        self._cache = AutocastCache(config=decoder.config)
        self.counts = [len(group) for group in questions]
        """Questions in each group."""
        largest = max(self.counts)
        filled = [[*group, *[group[-1]] * (largest - len(group))] for group in questions]
        self._same_question = torch.eye(largest, dtype=torch.bool, device=prefixes[0].device)
        """(Q, Q)"""
        self._visible, self._positions, self.logits = self._read_questions(filled, self._read_prefixes(prefixes))
        """Of the first token of each answer: bool (G, Q, keys), what it may attend to apart from itself; its position
        (G, Q); and its logits (G, Q, vocabulary)."""
        self._decoded = 0
        """Tokens of each answer that have been read."""

    def _read_prefixes(self, prefixes: Sequence[torch.Tensor]) -> torch.Tensor:
        """Fills the KV cache with the right-padded prefixes. Returns bool (G, P): False for padding."""
        inputs = torch.nn.utils.rnn.pad_sequence(list(prefixes), batch_first=True)
        indices = torch.arange(inputs.shape[1], device=inputs.device)
        in_prefix = indices < torch.tensor([[len(prefix)] for prefix in prefixes], device=inputs.device)
        if len(indices):
            self._read(inputs, indices.expand(len(inputs), -1), in_prefix[:, None, :])
        return in_prefix

    def _read_questions(
        self, questions: Sequence[Sequence[torch.Tensor]], in_prefix: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Reads as many questions (length, width) in each group. Returns `_visible`, `_positions` and `logits`."""
        device = in_prefix.device
        lengths = torch.tensor([[len(question) for question in group] for group in questions], device=device)
        longest, count = int(lengths.max()), lengths.shape[1]
        inputs = torch.stack([_pad_left(group, longest).flatten(0, 1) for group in questions])
        offsets = torch.arange(longest, device=device) - (longest - lengths)[:, :, None]
        start = in_prefix.sum(dim=1)[:, None]
        positions = start[:, :, None] + offsets.clamp(min=0)
        own_keys = (self._same_question[:, :, None] & (offsets >= 0)[:, None, :, :]).flatten(2, 3)
        visible = torch.cat([in_prefix[:, None, :].expand(-1, count, -1), own_keys], dim=2)
        return visible, start + lengths, self._read(inputs, positions.flatten(1, 2), visible)

    def advance(self, tokens: torch.Tensor) -> torch.Tensor:
        """Reads the next token (G, Q) of each answer. Returns the logits (G, Q, vocabulary) of the one after it."""
        positions = self._positions + self._decoded
        self._decoded += 1
        own_keys = self._same_question.repeat(1, self._decoded).expand(len(tokens), -1, -1)
        visible = torch.cat([self._visible, own_keys], dim=2)
        return self._run(self._decoder.get_input_embeddings()(tokens), visible, positions, None)

    def log_probabilities(self, answers: Sequence[Sequence[Sequence[Sequence[int]]]]) -> list[list[list[float]]]:
        """Log-probabilities, in nats, of given answers (ids): for each group and question any number, none of no ids.

        Answers decoded before are not attended to.
        """
        most = max(len(given) for own in answers for given in own)
        length = max((len(ids) for own in answers for given in own for ids in given), default=0)
        if not length:
            return [[[0.0] * len(given) for given in own] for own in answers]
        tokens = torch.zeros(*self._positions.shape, most, length, dtype=torch.long)
        for group, own in enumerate(answers):
            for question, given in enumerate(own):
                for answer, ids in enumerate(given):
                    tokens[group, question, answer, : len(ids)] = torch.tensor(ids)
        tokens = tokens.to(self._positions.device)
        logs = _log_probabilities(self.logits, tokens[..., 0])[..., None]
        if length > 1:
            logs = torch.cat([logs, self._after_first(tokens)], dim=-1)
        return [
            [
                [sum(row[: len(ids)]) for row, ids in zip(rows, given, strict=False)]
                for rows, given in zip(group, own, strict=False)
            ]
            for group, own in zip(logs.tolist(), answers, strict=True)
        ]

    def _after_first(self, tokens: torch.Tensor) -> torch.Tensor:
        """Log-probabilities (G, Q, A, n - 1) of all but the first of `tokens` (G, Q, A, n), A answers per question."""
        _, questions, each, length = tokens.shape
        following, read = tokens[..., 1:].flatten(1, 3), tokens[..., :-1].flatten(1, 3)
        visible, positions = (known.repeat_interleave(each, dim=1) for known in (self._visible, self._positions))
        since = self._cache.get_seq_length() - visible.shape[2]
        same_answer = torch.eye(questions * each, dtype=torch.bool, device=tokens.device)
        own_keys = same_answer.repeat_interleave(length - 1, dim=1).expand(len(tokens), -1, -1)
        visible = torch.cat([torch.nn.functional.pad(visible, (0, since)), own_keys], dim=2)
        indices = (positions[:, :, None] + torch.arange(length - 1, device=tokens.device)).flatten(1, 2)
        inputs = self._decoder.get_input_embeddings()(read)
        found = [
            _log_probabilities(logits, following[:, part, None])[..., 0]
            for part, logits in self._passes(inputs, indices, visible, every=1)
        ]
        return torch.cat(found, dim=1).unflatten(1, (questions, each, length - 1))

    def _read(self, inputs: torch.Tensor, positions: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        """Reads inputs as `_passes` does. Returns the logits (G, spans, vocabulary) of the last input of each span."""
        length = inputs.shape[1] // visible.shape[1]
        return torch.cat([logits for _, logits in self._passes(inputs, positions, visible, length)], dim=1)

    def _passes(
        self, inputs: torch.Tensor, positions: torch.Tensor, visible: torch.Tensor, every: int
    ) -> Iterator[tuple[slice, torch.Tensor]]:
        """Reads n inputs (G, n, width) in as many passes as it takes for no mask to exceed MASK, no logits LOGITS.

        `visible` is bool (G, spans, keys), these n included: each of n / spans consecutive inputs may attend to such
        keys up to itself, and always to itself, as padding has nothing else. Yields which of the n each pass reads, and
        the logits (G, k, vocabulary) of those k of them that are, among the n, an `every`-th.
        """
        count, (groups, spans, keys) = inputs.shape[1], visible.shape
        before, length = keys - count, count // spans
        vocabulary = self._decoder.get_output_embeddings().out_features
        most = max(1, min(MASK // (groups * keys), LOGITS * every // (groups * vocabulary)))
        for start in range(0, count, most):
            end = min(start + most, count)
            own = torch.arange(start, end, device=inputs.device)
            key = torch.arange(before + end, device=inputs.device)
            last = before + own[:, None]
            allowed = visible[:, :, : before + end].index_select(1, own // length)
            allowed &= key <= last
            allowed |= key == last
            kept = [at - start for at in range(start, end) if (at + 1) % every == 0]
            keep = torch.tensor(kept, dtype=torch.long, device=inputs.device)
            yield slice(start, end), self._run(inputs[:, start:end], allowed, positions[:, start:end], keep)

    def _run(
        self, inputs: torch.Tensor, allowed: torch.Tensor, positions: torch.Tensor, keep: torch.Tensor | None
    ) -> torch.Tensor:
        """Runs the decoder; `allowed` is bool (G, queries, keys). Returns logits at the indices `keep`, or at all."""
        mask = torch.where(allowed, inputs.new_zeros(()), torch.finfo(inputs.dtype).min)
        output = self._decoder(
            inputs_embeds=inputs,
            attention_mask=mask[:, None],
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=0 if keep is None else keep,
        )
        return output.logits


def _pad_left(inputs: Sequence[torch.Tensor], length: int) -> torch.Tensor:
    """(length of each, width) → (n, `length`, width)"""
    return torch.stack([torch.nn.functional.pad(one, (0, 0, length - len(one), 0)) for one in inputs])


def _log_probabilities(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """(…, vocabulary) and the ids of k tokens for each (…, k) → (…, k), in nats."""
    return logits.float().log_softmax(dim=-1).gather(-1, tokens)
