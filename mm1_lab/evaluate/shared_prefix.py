"""Decoding of many questions that share a prefix.

The questions of a block share their demonstrations, which make up most of a prompt. A block is therefore a single
sequence in the decoder's batch: the prefix, computed once, followed by all questions, each of which attends only to the
prefix and to itself, by a 4-D attention mask and explicit positions. Nothing is computed twice, and the prefix's keys
and values are not copied for each question, which would otherwise dominate decoding time.

    keys of one block:   [ prefix | question 1 | question 2 | … | token 1 of each answer | token 2 of each answer | … ]

Blocks are batched. Questions are padded on the left, so that all end at the same index; nothing attends to padding, so
logits do not depend on the composition of the batch. Given answers continue their questions in the same way.
"""

from collections.abc import Sequence

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
        """`prefixes` are decoder inputs (length, width), one per group; `questions` likewise, several per group."""
        self._decoder = decoder
        self._prefixes = prefixes
        self.counts = [len(group) for group in questions]
        """Questions in each group."""
        largest = max(self.counts)
        self._questions = [[*group, *[group[-1]] * (largest - len(group))] for group in questions]
        self._cache = AutocastCache(config=decoder.config)
        device = prefixes[0].device
        self._prefix_lengths = torch.tensor([len(prefix) for prefix in prefixes], device=device)
        self._lengths = torch.tensor(
            [[len(question) for question in group] for group in self._questions], device=device
        )
        self._visible: torch.Tensor = torch.empty(0)
        """bool (G, Q, keys): what the next token of each question may attend to, apart from itself."""
        self._same_question = torch.eye(largest, dtype=torch.bool, device=device).expand(len(prefixes), -1, -1)
        """(G, Q, Q)"""
        self._after_questions: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None
        """State after reading the questions, before any answer: what may be attended to, next positions, logits."""

    def start(self) -> torch.Tensor:
        """Reads prefixes and questions. Returns the logits (G, Q, vocabulary) of the first new token."""
        in_prefix = self._read_prefixes()
        longest = int(self._lengths.max())
        count = self._lengths.shape[1]
        device = in_prefix.device
        inputs = torch.stack([_pad_left(group, longest).flatten(0, 1) for group in self._questions])
        offsets = torch.arange(longest, device=device) - (longest - self._lengths)[:, :, None]
        positions = self._prefix_lengths[:, None, None] + offsets.clamp(min=0)
        own_keys = (self._same_question[:, :, :, None] & (offsets >= 0)[:, None, :, :]).flatten(2, 3)
        self._visible = torch.cat([in_prefix[:, None, :].expand(-1, count, -1), own_keys], dim=2)
        logits = self._read(inputs, positions.flatten(1, 2), self._visible)
        self._after_questions = self._visible, self._prefix_lengths[:, None] + self._lengths, logits
        return logits

    def log_probabilities(self, answers: Sequence[Sequence[Sequence[Sequence[int]]]]) -> list[list[list[float]]]:
        """Log-probabilities, in nats, of given answers (ids): for each group and question any number, none of no ids.

        Call it after `start`; answers decoded since then are not attended to.
        """
        assert self._after_questions is not None
        visible, positions, logits = self._after_questions
        most = max(len(given) for own in answers for given in own)
        if not most:
            return [[[] for _ in own] for own in answers]
        length = max(len(ids) for own in answers for given in own for ids in given)
        tokens = torch.zeros(*visible.shape[:2], most, length, dtype=torch.long)
        for group, own in enumerate(answers):
            for question, given in enumerate(own):
                for answer, ids in enumerate(given):
                    tokens[group, question, answer, : len(ids)] = torch.tensor(ids)
        tokens = tokens.to(visible.device)
        logs = _log_probabilities(logits, tokens[..., 0])[..., None]
        if length > 1:
            logs = torch.cat([logs, self._after(tokens, visible, positions)], dim=-1)
        return [
            [
                [sum(row[: len(ids)]) for row, ids in zip(rows, given, strict=False)]
                for rows, given in zip(group, own, strict=False)
            ]
            for group, own in zip(logs.tolist(), answers, strict=True)
        ]

    def _after(self, tokens: torch.Tensor, visible: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Log-probabilities (G, Q, A, n - 1) of all but the first of `tokens` (G, Q, A, n), which continue the
        questions with A answers each."""
        _, questions, each, length = tokens.shape
        following, read = tokens[..., 1:].flatten(1, 3), tokens[..., :-1].flatten(1, 3)
        visible, positions = (known.repeat_interleave(each, dim=1) for known in (visible, positions))
        since = self._cache.get_seq_length() - visible.shape[2]
        same_answer = torch.eye(questions * each, dtype=torch.bool, device=tokens.device)
        own_keys = same_answer.repeat_interleave(length - 1, dim=1).expand(len(tokens), -1, -1)
        visible = torch.cat([torch.nn.functional.pad(visible, (0, since)), own_keys], dim=2)
        indices = (positions[:, :, None] + torch.arange(length - 1, device=tokens.device)).flatten(1, 2)
        inputs = self._decoder.get_input_embeddings()(read)
        return self._read(inputs, indices, visible, following).unflatten(1, (questions, each, length - 1))

    def advance(self, tokens: torch.Tensor) -> torch.Tensor:
        """Reads the next token (G, Q) of each answer. Returns the logits (G, Q, vocabulary) of the one after it."""
        self._visible = torch.cat([self._visible, self._same_question], dim=2)
        positions = self._prefix_lengths[:, None] + self._lengths
        self._lengths = self._lengths + 1
        return self._run(self._decoder.get_input_embeddings()(tokens), self._visible, positions, None)

    def _read_prefixes(self) -> torch.Tensor:
        """Fills the KV cache with the right-padded prefixes. Returns bool (G, P): False for padding."""
        inputs = torch.nn.utils.rnn.pad_sequence(list(self._prefixes), batch_first=True)
        indices = torch.arange(inputs.shape[1], device=inputs.device)
        in_prefix = indices < self._prefix_lengths[:, None]
        self._read(inputs, indices.expand(len(inputs), -1), in_prefix[:, None, :])
        return in_prefix

    def _read(
        self,
        inputs: torch.Tensor,
        positions: torch.Tensor,
        visible: torch.Tensor,
        following: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Reads n inputs (G, n, width) in as many passes as it takes for no mask to exceed MASK.

        `visible` is bool (G, spans, keys), these n included: each of n / spans consecutive inputs may attend to such
        keys up to itself, and always to itself, as padding has nothing else. Returns the logits (G, spans, vocabulary)
        of the last input of each span, or the log-probabilities (G, n) of the tokens `following` (G, n) each input, for
        which no pass computes more than LOGITS.
        """
        count, (groups, spans, keys) = inputs.shape[1], visible.shape
        before, length, most = keys - count, count // spans, max(1, MASK // (groups * keys))
        if following is not None:
            most = min(most, max(1, LOGITS // (groups * self._decoder.get_output_embeddings().out_features)))
        results = []
        for start in range(0, count, most):
            end = min(start + most, count)
            own = torch.arange(start, end, device=inputs.device)
            key = torch.arange(before + end, device=inputs.device)
            last = before + own[:, None]
            allowed = visible[:, :, : before + end].index_select(1, own // length)
            allowed &= key <= last
            allowed |= key == last
            kept = [at - start for at in range(start, end) if following is not None or (at + 1) % length == 0]
            keep = torch.tensor(kept, dtype=torch.long, device=inputs.device)
            logits = self._run(inputs[:, start:end], allowed, positions[:, start:end], keep)
            if following is not None:
                logits = _log_probabilities(logits, following[:, start:end, None])[..., 0]
            results.append(logits)
        return torch.cat(results, dim=1)

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
