"""From what a model wrote to an answer, and whether it is an answer at all."""

from mm1_lab.evaluate.questions import Benchmark, Question
from mm1_lab.evaluate.vqa import normalise


def cut_answer(text: str, stop: tuple[str, ...]) -> str:
    """`text` up to the first stop word, without blanks around it; what cannot be printed becomes a blank."""
    ends = [at for word in stop if (at := text.find(word)) >= 0]
    answer = text[: min(ends, default=len(text))]
    return "".join(letter if letter.isprintable() else " " for letter in answer).strip()


def questions_of(benchmark: Benchmark) -> list[Question]:
    """All questions, block after block."""
    return [question for block in benchmark.blocks for question in block]


def answer_words(benchmark: Benchmark) -> dict[str, frozenset[str]]:
    """For each kind of question, every normalised answer that some question of the kind accepts."""
    words: dict[str, set[str]] = {}
    for question in questions_of(benchmark):
        words.setdefault(question.kind, set()).update(normalise(answer) for answer in question.references)
    return {kind: frozenset(answers) for kind, answers in words.items()}


def is_parsed(prediction: str, question: Question, benchmark: Benchmark, words: dict[str, frozenset[str]]) -> bool:
    """Whether the prediction, each of its lines, is an answer to its kind of question, right or wrong.

    A caption, or an answer to a published question, only has to say something.

    `words` are the benchmark's `answer_words`. It tells a model that does not see from one that does not know the form.
    """
    answers = map(normalise, prediction.split("\n"))
    if benchmark.official or benchmark.metric == "cider":
        return all(answers)
    return all(answer in words[question.kind] for answer in answers)
