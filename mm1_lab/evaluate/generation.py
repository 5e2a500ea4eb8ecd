"""Greedy generation for many questions that share a prefix, and the probabilities of given answers to them."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch

from mm1_lab.data.types import Picture, Tokenizer
from mm1_lab.evaluate.embedder import PromptEmbedder
from mm1_lab.evaluate.prompts import Segment
from mm1_lab.evaluate.shared_prefix import SharedPrefixDecoding


@dataclass(frozen=True, slots=True)
class Group:
    """Questions that share a prefix."""

    prefix: Segment
    questions: tuple[Segment, ...]
    answers: tuple[tuple[tuple[int, ...], ...], ...] = ()
    """For each question, the ids of answers to compute the probabilities of."""


@torch.inference_mode()
def generate(
    embedder: PromptEmbedder,
    groups: Sequence[Group],
    tokenizer: Tokenizer,
    stop: Sequence[str],
    new_tokens: int,
    batch: int,
) -> tuple[list[list[str]], list[list[list[float]]]]:
    """Decodes an answer to each question of each group greedily, at most `batch` questions at once.

    An answer ends before the end token, with the token that completes a stop word, or after `new_tokens` tokens.
    Returns these answers, and for each question the log-probabilities, in nats, of those given in its group.
    """
    if embedder.holds(shown := _pictures(groups)):
        embedder.see(shown)
    texts: list[list[str]] = [[] for _ in groups]
    scores: list[list[list[float]]] = [[] for _ in groups]
    for chunk in _batches(groups, batch):
        embedder.see(_pictures([group for _, group in chunk]))
        prefixes = [embedder.embed(group.prefix) for _, group in chunk]
        questions = [[embedder.embed(question) for question in group.questions] for _, group in chunk]
        decoding = SharedPrefixDecoding(embedder.decoder, prefixes, questions)
        answers = _decode(decoding, tokenizer, stop, new_tokens)
        logs = decoding.log_probabilities([group.answers or ((),) * len(group.questions) for _, group in chunk])
        for (index, _), rows, values in zip(chunk, answers, logs, strict=True):
            texts[index] += [tokenizer.decode(ids) for ids in rows]
            scores[index] += values
    return texts, scores


def answer_each(
    embedder: PromptEmbedder,
    prompts: Iterable[tuple[Segment, Segment]],
    tokenizer: Tokenizer,
    stop: tuple[str, ...],
    new_tokens: int,
    batch: int,
    lines: bool = False,
) -> list[str]:
    """The answers to questions with a prefix each, up to the first stop word; see `cut_answer` for `lines`."""
    groups = [Group(prefix, (question,)) for prefix, question in prompts]
    texts, _ = generate(embedder, groups, tokenizer, stop, new_tokens, batch)
    return [cut_answer(text, stop, lines) for (text,) in texts]


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
            chunk = Group(group.prefix, group.questions[taken], group.answers[taken])
            if len(chunk.questions) > free:
                yield chunks
                chunks, free = [], batch
            chunks.append((index, chunk))
            free -= len(chunk.questions)
    if chunks:
        yield chunks


def _decode(
    decoding: SharedPrefixDecoding, tokenizer: Tokenizer, stop: Sequence[str], new_tokens: int
) -> list[list[list[int]]]:
    """Ids of the answer to each question of each group, without the end token."""
    # A stop word of n bytes is complete within the last n tokens, because a token is at least one byte.
    tail = max((len(word.encode()) for word in stop), default=0)
    logits = decoding.logits
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
