"""Multiple choice by likelihood: picks the choice to which the model assigns the highest probability."""

from collections.abc import Sequence
from dataclasses import replace
from string import ascii_uppercase

from mm1_lab.evaluate.choosing import LETTERED
from mm1_lab.evaluate.embedder import PromptEmbedder
from mm1_lab.evaluate.generation import PromptGroup, generate
from mm1_lab.evaluate.prompts import PromptWriter
from mm1_lab.evaluate.questions import Benchmark, Question


def by_likelihood(benchmark: Benchmark) -> Benchmark | None:
    """The benchmark under the name and family of its likelihood variant; None if not all questions have choices."""
    if not all(question.choices for question in benchmark.questions):
        return None
    metric = "choice" if benchmark.metric == "circular" else benchmark.metric  # choices in one order only
    return replace(benchmark, name=f"{benchmark.name} by likelihood", family="likelihood", metric=metric)


def likeliest_choices(
    embedder: PromptEmbedder,
    writer: PromptWriter,
    benchmark: Benchmark,
    shots: int,
    block: int,
    batch: int,
) -> list[str]:
    """For each question of a block, the choice with the highest probability, including that of the answer's end: of its
    letter if demonstrations answer with letters, otherwise of its words.

    The demonstrations are read once for questions with `batch` choices in total, and a question once for its choices.
    """
    questions = benchmark.blocks[block]
    prompts, answers = [], []
    most = 1
    for question in questions:
        said = _as_demonstrated(benchmark, question)
        prompts.append(writer.question(question))
        answers.append(tuple(writer.answer(question, text, benchmark.stop[0]) for text in said))
        most = max(most, len(said))
    group = PromptGroup(writer.prefix(benchmark, block, shots), tuple(prompts), tuple(answers))
    _, (logs,) = generate(embedder, [group], writer.tokenizer, stop=(), new_tokens=0, batch=max(1, batch // most))
    chosen = []
    for question, own in zip(questions, logs, strict=True):
        chosen.append(question.choices[own.index(max(own))])
    return chosen


def _as_demonstrated(benchmark: Benchmark, question: Question) -> Sequence[str]:
    """The choices as a demonstration would give them."""
    if benchmark.official and benchmark.metric in LETTERED:
        return ascii_uppercase[: len(question.choices)]
    return question.choices
