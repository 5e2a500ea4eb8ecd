"""What a benchmark is: questions with references, demonstrations from the training split, and one metric."""

from dataclasses import dataclass
from typing import Literal

from mm1_lab.data.types import Picture

Metric = Literal["cider", "vqa", "exact"]


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt with what counts as right.

    The model reads `picture` (if any), then `prompt`; what it writes up to a stop word is scored against `references`.
    As a demonstration it is followed by `shown`.
    """

    key: str
    """Unique within the benchmark."""
    kind: str
    """What is asked for (`colour`, `count`, `caption`, …)."""
    picture: Picture | None
    prompt: str
    references: tuple[str, ...]
    """Captions; or ten annotators' answers; or one answer."""
    shown: str
    """The answer as a demonstration gives it."""


@dataclass(frozen=True, slots=True)
class Benchmark:
    """Questions in fixed blocks. `blocks[b]` are asked after the first k of `demonstrations[b]`, in every arm."""

    name: str
    family: Literal["captioning", "vqa", "text"]
    mirrors: str
    """The paper's benchmark (`COCO`, `VQAv2`, …)."""
    metric: Metric
    blocks: tuple[tuple[Question, ...], ...]
    demonstrations: tuple[tuple[Question, ...], ...]
    """For each block, as many as the most shots; from the training split."""
    stop: tuple[str, ...]
    """Words that end an answer, beside the end token."""
    new_tokens: int
    """The longest answer, in tokens."""
