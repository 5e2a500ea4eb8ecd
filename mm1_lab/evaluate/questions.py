"""What a benchmark is: questions with references, demonstrations from the training split, and one metric."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from mm1_lab.config import EvaluationSettings
from mm1_lab.data.types import Picture

Family = Literal["captioning", "vqa", "novel", "text", "chat", "solutions", "likelihood", "further"]
"""Those but captioning, vqa and text stay out of the means over all benchmarks: what no training picture shows, which
the miniature's models do not say (results/LOG.md); a tuned model's short answers in the form of a
conversation, and its worked solutions; multiple choice by likelihood; and further metrics of the same answers."""
LONGEST_CAPTION, LONGEST_ANSWER = 48, 24
"""Tokens that are written at most, where data are not the world's; longer references are still scored whole."""


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt with what counts as right.

    The model reads `pictures`, then `prompt`; what it writes up to a stop word is scored against `references`.
    As a demonstration it is followed by `shown`.
    """

    key: str
    """Unique within the benchmark."""
    kind: str
    """What is asked for (`colour`, `count`, `caption`, …)."""
    pictures: tuple[Picture, ...]
    prompt: str
    references: tuple[str, ...]
    """Captions; or ten annotators' answers; or one answer; none where only a test server knows them."""
    shown: str
    """The answer as a demonstration gives it."""
    choices: tuple[str, ...] = ()
    """What can be chosen from, if the prompt offers that: A, B, …"""
    rotated: tuple["Question", ...] = ()
    """The same with its choices in every other order of the circle, where the metric is `circular`: all are asked."""


@dataclass(frozen=True, slots=True)
class Submission:
    """How a test server wants an answer: `{id_key: id, answer_key: answer}`."""

    id_key: str
    answer_key: str
    numbered: bool = False
    """Whether ids are numbers."""

    def entry(self, key: str, answer: str) -> dict[str, str | int]:
        return {self.id_key: int(key) if self.numbered else key, self.answer_key: answer}


@dataclass(frozen=True, slots=True)
class Benchmark:
    """Questions in fixed blocks. `blocks[b]` are asked after the first k of `demonstrations[b]`, in every arm."""

    name: str
    family: Family
    mirrors: str
    """The paper's benchmark (`COCO`, `VQAv2`, …)."""
    metric: str
    """A key of `metrics.METRICS`, or `cider`."""
    blocks: tuple[tuple[Question, ...], ...]
    demonstrations: tuple[tuple[Question, ...], ...]
    """For each block, as many as the most shots; from the training split."""
    stop: tuple[str, ...]
    """Words that end an answer, beside the end token."""
    new_tokens: int
    """The longest answer, in tokens."""
    official: bool = False
    """Of published data: any words are an answer, and VQA accuracy keeps its official program's quirks (`vqa.py`)."""
    submission: Submission | None = None
    """Where nobody outside has the references: answers are written to a file and not scored."""
    shots: tuple[int, ...] | None = None
    """Numbers of shots that it is asked at; those of the settings, unless given."""
    content: Callable[[str, Sequence[str]], float] | None = None
    """Of captions: a score of what is said, whatever the wording, from prediction and references."""
    note: str = ""
    """What a table must say beside the score: split, number of questions, prompt, stop rule."""

    @property
    def questions(self) -> list[Question]:
        """All, block after block."""
        return [question for block in self.blocks for question in block]


def with_rotations(question: Question, prompt: Callable[[tuple[str, ...]], str]) -> Question:
    """The question with its `rotated`; `prompt` gives what is asked when its choices stand in an order."""
    orders = [question.choices[at:] + question.choices[:at] for at in range(1, len(question.choices))]
    return replace(question, rotated=tuple(replace(question, prompt=prompt(one), choices=one) for one in orders))


Blocks = tuple[tuple[Question, ...], ...]


def in_blocks(questions: list[Question], shown: list[Question], settings: EvaluationSettings) -> tuple[Blocks, Blocks]:
    """Questions cut into blocks of equal size, and each block's demonstrations, used again where there are too few.

    There are as many blocks as the settings say, or as questions if those are fewer.
    """
    count = min(settings.blocks, len(questions))
    shots = max(settings.shots, default=0) if shown else 0
    cuts = [len(questions) * block // count for block in range(count + 1)]
    blocks = tuple(tuple(questions[cuts[block] : cuts[block + 1]]) for block in range(count))
    return blocks, tuple(
        tuple(shown[(block * shots + at) % len(shown)] for at in range(shots)) for block in range(count)
    )
