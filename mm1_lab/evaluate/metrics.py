"""Every benchmark's metric in one place: predictions to points a question."""

from collections.abc import Sequence

from mm1_lab.evaluate.answers import answer_words, questions_of
from mm1_lab.evaluate.benchmark import Benchmark, Question
from mm1_lab.evaluate.cider import cider
from mm1_lab.evaluate.vqa import exact_match, vqa_accuracy

ANSWER_METRICS = {"vqa": vqa_accuracy, "exact": exact_match}
"""Metrics that judge each answer by itself: (prediction, references) to points."""


def score(benchmark: Benchmark, predictions: Sequence[str]) -> list[float]:
    """Points of each prediction; predictions stand in the order of the questions, block after block.

    Answers earn 0 to 100, captions 0 to 1000; the benchmark's score is the mean.
    Raises ValueError where there is not one prediction for each question.
    """
    questions = questions_of(benchmark)
    if len(predictions) != len(questions):
        raise ValueError(f"{benchmark.name}: {len(predictions)} predictions for {len(questions)} questions")
    if benchmark.metric == "cider":
        return cider(predictions, [question.references for question in questions])
    judge = ANSWER_METRICS[benchmark.metric]
    return [judge(prediction, q.references) for prediction, q in zip(predictions, questions, strict=True)]


def majority_score(benchmark: Benchmark) -> float | None:
    """What the best constant answer for each kind of question would earn on these very questions; None for captions.

    A model that does not see cannot do better by knowing which answers are common.
    """
    best = majority_by_kind(benchmark)
    if not best:
        return None
    questions = questions_of(benchmark)
    return sum(best[question.kind] for question in questions) / len(questions)


def majority_by_kind(benchmark: Benchmark) -> dict[str, float]:
    """The same for each kind by itself; empty for captions."""
    if benchmark.metric == "cider":
        return {}
    judge = ANSWER_METRICS[benchmark.metric]
    kinds: dict[str, list[Question]] = {}
    for question in questions_of(benchmark):
        kinds.setdefault(question.kind, []).append(question)
    words = answer_words(benchmark)
    return {
        kind: max(sum(judge(word, question.references) for question in questions) for word in words[kind])
        / len(questions)
        for kind, questions in kinds.items()
    }
