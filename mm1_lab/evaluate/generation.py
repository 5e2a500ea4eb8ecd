"""Greedy generation for many questions that share a prefix.

The questions of a block share their demonstrations, which make up most of a prompt. A block is therefore a single
sequence in the decoder's batch: the prefix, computed once, followed by all questions, each of which attends only to the
prefix and to itself, by a 4-D attention mask and explicit positions. Nothing is computed twice, and the prefix's keys
and values are not copied for each question, which would otherwise dominate decoding time.

    keys of one block:   [ prefix | question 1 | question 2 | … | token 1 of each answer | token 2 of each answer | … ]

Blocks are batched. Questions are padded on the left, so that all end at the same index; nothing attends to padding, so
logits do not depend on the composition of the batch.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from mm1_lab.data.types import Picture, Tokenizer
from mm1_lab.evaluate.cache import AutocastCache
from mm1_lab.evaluate.embedder import PromptEmbedder
from mm1_lab.evaluate.likelihood import LOGITS
from mm1_lab.evaluate.prompts import Segment

MASK = 2**26
"""Pairs of a position and a key in an attention mask, at most; about 10 bytes each while it is made and used."""


@dataclass(frozen=True, slots=True)
class Group:
    """Questions that share a prefix."""

    prefix: Segment
    questions: tuple[Segment, ...]
    references: tuple[tuple[int, ...], ...] = ()
    """For each question, the ids of an answer to compute the probability of; empty for none."""


@torch.inference_mode()
def generate(
    embedder: PromptEmbedder,
    groups: Sequence[Group],
    tokenizer: Tokenizer,
    stop: Sequence[str],
    new_tokens: int,
    batch: int,
) -> tuple[list[list[str]], list[list[float | None]]]:
    """Decodes an answer to each question of each group greedily, at most `batch` questions at once.

    An answer ends before the end token, with the token that completes a stop word, or after `new_tokens` tokens.
    Returns the answers, and the probability of each question's reference as the geometric mean over its tokens.
    """
    if embedder.holds(shown := _pictures(groups)):
        embedder.see(shown)
    texts: list[list[str]] = [[] for _ in groups]
    scores: list[list[float | None]] = [[] for _ in groups]
    for chunk in _batches(groups, batch):
        embedder.see(_pictures([group for _, group in chunk]))
        prefixes = [embedder.embed(group.prefix) for _, group in chunk]
        questions = [[embedder.embed(question) for question in group.questions] for _, group in chunk]
        decoding = SharedPrefixDecoding(embedder.decoder, prefixes, questions)
        answers = _decode(decoding, tokenizer, stop, new_tokens)
        probabilities = decoding.probabilities([group.references for _, group in chunk])
        for (index, _), rows, values in zip(chunk, answers, probabilities, strict=True):
            texts[index] += [tokenizer.decode(ids) for ids in rows]
            scores[index] += values
    return texts, scores


def answer_one(
    embedder: PromptEmbedder,
    prefix: Segment,
    question: Segment,
    tokenizer: Tokenizer,
    stop: tuple[str, ...],
    new_tokens: int,
    lines: bool = False,
) -> str:
    """The answer to a single question, up to the first stop word; see `cut_answer` for `lines`."""
    ((text,),), _ = generate(embedder, [Group(prefix, (question,))], tokenizer, stop, new_tokens, 1)
    return cut_answer(text, stop, lines)


def cut_answer(text: str, stop: tuple[str, ...], lines: bool = False) -> str:
    """Truncates `text` at the first stop word, strips it, and replaces unprintable characters by spaces.

    `lines`: keeps line breaks and tabs, as the answer may have several lines.
    """
    ends = [at for word in stop if (at := text.find(word)) >= 0]
    answer, kept = text[: min(ends, default=len(text))], "\n\t" if lines else ""
    return "".join(letter if letter.isprintable() or letter in kept else " " for letter in answer).strip()


def _pictures(groups: Sequence[Group]) -> list[Picture]:
    segments = [segment for group in groups for segment in (group.prefix, *group.questions)]
    return [picture for segment in segments for picture in segment.pictures]


def _batches(groups: Sequence[Group], batch: int) -> Iterator[list[tuple[int, Group]]]:
    """Yields batches of (index of the group, part of the group) with at most `batch` questions in total."""
    chunks: list[tuple[int, Group]] = []
    free = batch
    for index, group in enumerate(groups):
        for start in range(0, len(group.questions), batch):
            taken = slice(start, start + batch)
            chunk = Group(group.prefix, group.questions[taken], group.references[taken])
            if len(chunk.questions) > free:
                yield chunks
                chunks, free = [], batch
            chunks.append((index, chunk))
            free -= len(chunk.questions)
    if chunks:
        yield chunks


def _decode(
    decoding: "SharedPrefixDecoding", tokenizer: Tokenizer, stop: Sequence[str], new_tokens: int
) -> list[list[list[int]]]:
    """Ids of the answer to each question of each group, without the end token."""
    # A stop word of n bytes is complete within the last n tokens, because a token is at least one byte.
    tail = max((len(word.encode()) for word in stop), default=0)
    logits = decoding.start()
    answers: list[list[list[int]]] = [[[] for _ in range(count)] for count in decoding.counts]
    active = [(group, question) for group, count in enumerate(decoding.counts) for question in range(count)]
    for step in range(new_tokens):
        chosen = logits.argmax(dim=-1)
        tokens = chosen.tolist()
        still_active = []
        for group, question in active:
            ids, token = answers[group][question], tokens[group][question]
            if token == tokenizer.end:
                continue
            ids.append(token)
            if not (tail and any(word in tokenizer.decode(ids[-tail:]) for word in stop)):
                still_active.append((group, question))
        active = still_active
        if not active or step == new_tokens - 1:
            break
        logits = decoding.advance(chosen)
    return answers


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

    def probabilities(self, answers: Sequence[Sequence[Sequence[int]]]) -> list[list[float | None]]:
        """Probabilities of given `answers` (ids) to the questions: the geometric mean over the tokens of each answer.

        Call it after `start`; answers decoded since then are not attended to. None for an answer that is empty.
        """
        assert self._after_questions is not None
        visible, positions, logits = self._after_questions
        lists = [[list(own[at]) if at < len(own) else [] for at in range(visible.shape[1])] for own in answers]
        length = max(len(ids) for own in lists for ids in own)
        if not length:
            return [[None] * count for count in self.counts]
        padded = [[ids + [0] * (length - len(ids)) for ids in own] for own in lists]
        tokens = torch.tensor(padded, device=visible.device)
        logs = _log_probabilities(logits[:, :, None], tokens[:, :, :1])
        if length > 1:
            logs = torch.cat([logs, self._after(tokens, visible, positions)], dim=2)
        return [
            [_geometric_mean(own[: len(ids)]) for own, ids in zip(rows[:count], group[:count], strict=True)]
            for rows, group, count in zip(logs.tolist(), lists, self.counts, strict=True)
        ]

    def _after(self, tokens: torch.Tensor, visible: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Log-probabilities (G, Q, n - 1) of all but the first of `tokens` (G, Q, n), which continue the questions."""
        following, tokens = tokens[:, :, 1:].flatten(1, 2), tokens[:, :, :-1]
        questions, length = tokens.shape[1:]
        since = self._cache.get_seq_length() - visible.shape[2]
        own_keys = self._same_question.repeat_interleave(length, dim=2)
        visible = torch.cat([torch.nn.functional.pad(visible, (0, since)), own_keys], dim=2)
        indices = (positions[:, :, None] + torch.arange(length, device=tokens.device)).flatten(1, 2)
        inputs = self._decoder.get_input_embeddings()(tokens.flatten(1, 2))
        return self._read(inputs, indices, visible, following).unflatten(1, (questions, length))

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
            results.append(logits if following is None else _log_probabilities(logits, following[:, start:end]))
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
    """(…, vocabulary) and the id of a token for each → (…), in nats."""
    return logits.float().log_softmax(dim=-1).gather(-1, tokens[..., None])[..., 0]


def _geometric_mean(log_probabilities: Sequence[float]) -> float | None:
    return math.exp(sum(log_probabilities) / len(log_probabilities)) if log_probabilities else None
