"""Defines a benchmark: questions with references, demonstrations from the training split, and one metric."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice

from mm1_lab.config import EvaluationSettings
from mm1_lab.data.types import Picture, Tokenizer
from mm1_lab.rows import Family

LONGEST_CAPTION, LONGEST_ANSWER, LONGEST_SOLUTION = 48, 24, 256
"""Maximum tokens generated on users' data; references are never truncated for scoring."""
SHORTEST_LIMIT = 10
"""Tokens that may be generated at least, so that `red, blue` is not cut to a right `red`."""


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt with its references.

    The model reads `pictures`, then `prompt`, of which `<image>` marks the places of the last ones; its output up to a
    stop word is scored against `references`.
    In a demonstration, the prompt is followed by `shown`.
    """

    key: str
    """Unique within the benchmark."""
    kind: str
    """Type of question (`colour`, `count`, `caption`, …)."""
    pictures: tuple[Picture, ...]
    prompt: str
    references: tuple[str, ...]
    """Captions, ten annotators' answers, or a single answer."""
    shown: str
    """The answer given in a demonstration."""
    choices: tuple[str, ...] = ()
    """The choices A, B, … if the prompt offers any."""
    rotated: tuple["Question", ...] = ()
    """For the metric `circular`: the same question with each other rotation of its choices; all of them are asked."""


Blocks = tuple[tuple[Question, ...], ...]


@dataclass(frozen=True)
class Benchmark:
    """Questions in fixed blocks. In every arm, k-shot prompts of `blocks[b]` start with the first k of
    `demonstrations[b]`."""

    name: str
    family: Family
    mirrors: str
    """The paper's benchmark (`COCO`, `VQAv2`, …)."""
    metric: str
    """A key of `metrics.METRICS`."""
    blocks: Blocks
    demonstrations: Blocks
    """For each block, as many as the largest number of shots; from the training split."""
    stop: tuple[str, ...]
    """Strings that end an answer, in addition to the end token; at least one."""
    new_tokens: int
    """Maximum length of an answer in tokens."""
    official: bool = False
    """Not of the world: any text counts as an answer, of choices any of these; VQAv2 and OK-VQA keep their program's
    quirks (`vqa.py`)."""
    shots: tuple[int, ...] | None = None
    """Numbers of shots to evaluate at; None: those of the settings."""
    note: str = ""
    """Remarks that tables must show with the score: split, number of questions, prompt, stop rule."""

    def shots_at(self, settings: EvaluationSettings) -> tuple[int, ...]:
        """The benchmark's own numbers of shots, or else those of the settings."""
        return settings.shots if self.shots is None else self.shots

    @property
    def questions(self) -> list[Question]:
        return [question for block in self.blocks for question in block]


def longer_captions(questions: Sequence[Question], tokenizer: Tokenizer, new_tokens: int) -> str:
    """The remark that many captions are longer than models may write, as in scripts that a tokenizer hardly knows."""
    captions = [caption for question in questions for caption in question.references]
    longer = sum(len(tokenizer.encode(caption)) > new_tokens for caption in captions)
    if longer < 0.05 * len(captions):
        return ""
    return (
        f"{longer:,} of {len(captions):,} captions have more than the {new_tokens} tokens after which an answer is cut"
    )


def with_rotations(question: Question, prompt: Callable[[tuple[str, ...]], str]) -> Question:
    """The question with `rotated` filled in; `prompt` returns the prompt for a given order of its choices."""
    rotated = []
    for start in range(1, len(question.choices)):
        choices = question.choices[start:] + question.choices[:start]
        rotated.append(replace(question, prompt=prompt(choices), choices=choices))
    return replace(question, rotated=tuple(rotated))


def in_blocks(questions: list[Question], shown: list[Question], settings: EvaluationSettings) -> tuple[Blocks, Blocks]:
    """Splits questions into blocks of equal size, and assigns demonstrations to blocks, reusing them if they run out.

    The number of blocks is that of the settings, or that of the questions if smaller.
    """
    count = min(settings.blocks, len(questions))
    shots = max(settings.shots)
    supply = cycle(shown)
    blocks, demonstrations = [], []
    for block in range(count):
        start = len(questions) * block // count
        end = len(questions) * (block + 1) // count
        blocks.append(tuple(questions[start:end]))
        demonstrations.append(tuple(islice(supply, shots)))
    return tuple(blocks), tuple(demonstrations)
