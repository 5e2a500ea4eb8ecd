"""Greedy generation for many questions that share a prefix."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch

from mm1_lab.data.types import Seen, Tokenizer
from mm1_lab.evaluate.embedder import PromptEmbedder
from mm1_lab.evaluate.prompts import Segment
from mm1_lab.evaluate.shared_prefix import SharedPrefixDecoding
from mm1_lab.formatting import printable


@dataclass(frozen=True)
class PromptGroup:
    prefix: Segment
    questions: tuple[Segment, ...]


@torch.no_grad()
def generate(
    embedder: PromptEmbedder, groups: Sequence[PromptGroup], tokenizer: Tokenizer, stop: Sequence[str], new_tokens: int
) -> list[list[list[int]]]:
    """The token ids of an answer to each question of each group, decoded greedily. An answer ends before the end token,
    with the token that completes a stop word, or after `new_tokens` tokens."""
    pictures = _pictures(groups)
    if embedder.holds(pictures):  # all at once fill the encoder's batches
        embedder.see(pictures)
    ids: list[list[list[int]]] = [[] for _ in groups]
    for chunk in _batches(groups, embedder.batch):
        parts = [part for _, part in chunk]
        embedder.see(_pictures(parts))
        prefixes = [embedder.embed(part.prefix) for part in parts]
        questions = [[embedder.embed(question) for question in part.questions] for part in parts]
        decoding = SharedPrefixDecoding(embedder.decoder, prefixes, questions)
        written = _decode(decoding, tokenizer, stop, new_tokens)
        for (index, _), answers in zip(chunk, written, strict=True):
            ids[index] += answers
    return ids


def cut_answer(text: str, stop: tuple[str, ...], lines: bool = False) -> str:
    """Truncates `text` at the first stop word, strips it, and makes it `printable`. `lines`: keeps line breaks and
    tabs, as the answer may have several lines."""
    if stop:
        ends = "|".join(map(re.escape, stop))
        text = re.split(ends, text, maxsplit=1)[0]
    return printable(text, "\n\t" if lines else "").strip()


def _pictures(groups: Iterable[PromptGroup]) -> list[Seen]:
    pictures: list[Seen] = []
    for group in groups:
        for segment in (group.prefix, *group.questions):
            pictures += segment.pictures
    return pictures


def _batches(groups: Sequence[PromptGroup], batch: int) -> Iterator[list[tuple[int, PromptGroup]]]:
    """Yields batches of (index of the group, part of the group) with at most `batch` questions in total."""
    chunk: list[tuple[int, PromptGroup]] = []
    free = batch
    for index, group in enumerate(groups):
        for start in range(0, len(group.questions), batch):
            questions = group.questions[start : start + batch]
            if len(questions) > free:
                yield chunk
                chunk = []
                free = batch
            chunk.append((index, PromptGroup(group.prefix, questions)))
            free -= len(questions)
    if chunk:
        yield chunk


def _decode(
    decoding: SharedPrefixDecoding, tokenizer: Tokenizer, stop: Sequence[str], new_tokens: int
) -> list[list[list[int]]]:
    """Ids of the answer to each question of each group, without the end token."""
    answers: list[list[list[int]]] = [[[] for _ in range(count)] for count in decoding.counts]
    active = [(group, question) for group, count in enumerate(decoding.counts) for question in range(count)]
    # A stop word of n bytes is complete within the last n tokens, because a token is at least one byte.
    tail = max((len(word.encode()) for word in stop), default=0)
    logits = decoding.logits
    for step in range(new_tokens):
        chosen = logits.argmax(dim=-1)
        tokens = chosen.tolist()
        still_active = []
        for group, question in active:
            ids = answers[group][question]
            token = tokens[group][question]
            if token == tokenizer.end:
                continue
            ids.append(token)
            ended = tokenizer.decode(ids[-tail:]) if stop else ""
            if not any(word in ended for word in stop):
                still_active.append((group, question))
        active = still_active
        if not active or step == new_tokens - 1:
            break
        logits = decoding.advance(chosen)
    return answers
