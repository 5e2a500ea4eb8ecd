"""The metrics of all benchmarks: points per question, and whether a prediction has the form of an answer."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import cycle
from string import ascii_uppercase

from mm1_lab.evaluate.cider import cider
from mm1_lab.evaluate.content import content
from mm1_lab.evaluate.questions import Benchmark, Question
from mm1_lab.evaluate.vqa import exact_match, normalise, textvqa_accuracy, vqa_accuracy

ANLS_THRESHOLD = 0.5
"""Answers with a lower similarity score 0 (Biten et al., ICCV 2019)."""
RELAXED = 0.05
"""Relative tolerance for numbers (Methani et al., WACV 2020; ChartQA)."""
ANSWER_IS = re.compile("the answer is", re.IGNORECASE)
"""In a worked solution, the text after this phrase is the answer; MathVista uses a model to extract it instead."""
LETTERED = re.compile(r"\(?([A-Za-z])(?:[).:,]+(.*))?", re.DOTALL)
"""A choice's letter (`B`, `(b)`, `B.`), and what follows it (`B. red`)."""
CONSTANT_ANSWERS = 20
"""Number of most common answers of a kind tried as the best constant answer."""


def choice_accuracy(
    prediction: str, references: Sequence[str], choices: Sequence[str], lettered: bool = False
) -> float:
    """100 points if the prediction is the letter of a right choice (`B`, `(b)`, `B. red`) or its words, else 0.

    `references` are among the `choices`. `lettered`: the prompt shows letters, so that a letter alone is the choice's
    letter, even if another choice consists of that letter.
    """
    said = prediction.strip()
    letter = LETTERED.fullmatch(said)
    named = dict(zip(ascii_uppercase, choices, strict=False)).get(letter[1].upper()) if letter else None
    if lettered and letter and named and not letter[2]:
        return 100.0 * (named in references)
    if said in choices:
        return 100.0 * (said in references)
    alike = {choice for choice in choices if normalise(choice) == normalise(said)} if normalise(said) else set()
    return 100.0 * ((alike.pop() if len(alike) == 1 else named) in references)


def circular_accuracy(said: str, question: Question, lettered: bool = False) -> float:
    """100 points if the question is answered correctly in each order of its choices, else 0 (Liu et al., ECCV 2024).

    `said` has one line per order; a single line is taken as the answer for all orders.
    """
    asked = zip((question, *question.rotated), cycle(said.split("\n")), strict=False)
    return min(choice_accuracy(answer, one.references, one.choices, lettered) for one, answer in asked)


def says_yes(answer: str) -> bool:
    """Reads an answer as POPE's program does: no if `no` or `not` is a word of the first sentence, otherwise yes."""
    return {"No", "no", "not"}.isdisjoint(answer.partition(".")[0].replace(",", "").split(" "))


def anls(prediction: str, references: Sequence[str]) -> float:
    """Average normalised Levenshtein similarity (0 to 100), the best over the references, as in DocVQA's program.

    Case and repeated spaces are ignored in the distance, but repeated spaces count in the length that divides it.
    """
    said = " ".join(prediction.lower().split())
    similarities = [0.0]
    for reference in references:
        length = max(len(reference), len(prediction))
        distance = _edits(said, " ".join(reference.lower().split()))
        similarities.append(1.0 - distance / length if length else 1.0)
    best = max(similarities)
    return 100.0 * best if best >= ANLS_THRESHOLD else 0.0


def _edits(one: str, other: str) -> int:
    """Levenshtein distance."""
    row = list(range(len(other) + 1))
    for at, letter in enumerate(one, start=1):
        diagonal, row[0] = row[0], at
        for place, wanted in enumerate(other, start=1):
            diagonal, row[place] = row[place], min(row[place] + 1, row[place - 1] + 1, diagonal + (letter != wanted))
    return row[-1]


def relaxed_accuracy(prediction: str, references: Sequence[str]) -> float:
    """100 points for a number within 5 % of a reference (`12%` is 0.12), or a case-insensitive match; else 0."""
    return 100.0 if any(_is_near(prediction.strip(), reference.strip()) for reference in references) else 0.0


def _is_near(said: str, wanted: str) -> bool:
    number, target = _number(said), _number(wanted)
    if number is not None and target:
        return abs(number - target) <= RELAXED * abs(target)
    return said.lower() == wanted.lower()


def _number(text: str) -> float | None:
    try:
        return float(text.removesuffix("%")) / (100.0 if text.endswith("%") else 1.0)
    except ValueError:
        return None


Judge = Callable[[str, Question, Benchmark], float]

METRICS: dict[str, Judge] = {
    "vqa": lambda said, question, benchmark: vqa_accuracy(said, question.references, benchmark.official),
    "textvqa": lambda said, question, _: textvqa_accuracy(said, question.references),
    "exact": lambda said, question, _: exact_match(said, question.references),
    "choice": lambda said, question, benchmark: choice_accuracy(
        said.split("\n")[0], question.references, question.choices, benchmark.official
    ),
    "circular": lambda said, question, benchmark: circular_accuracy(said, question, benchmark.official),
    "yes-no": lambda said, question, _: 100.0 * (says_yes(said) == says_yes(question.references[0])),
    "content": lambda said, question, _: content(said, question.references),
    "answer": lambda said, question, _: exact_match(ANSWER_IS.split(said)[-1], question.references),
    "anls": lambda said, question, _: anls(said, question.references),
    "relaxed": lambda said, question, _: relaxed_accuracy(said, question.references),
}
"""Metrics that score each answer separately, in points from 0 to 100; `cider` needs all captions at once."""

RATES: dict[str, Callable[[bool, bool], tuple[int, int]]] = {
    "f1": lambda said, true: (2 * (said and true), said + true),
    "precision": lambda said, true: (said and true, said),
    "recall": lambda said, true: (said and true, true),
    "yes": lambda said, true: (said, 1),
}
"""Rates for yes/no questions, `yes` being the positive class and its rate its share of all answers (POPE: Li et al.,
EMNLP 2023). Maps (is `yes` predicted, is it true) to a question's parts of the numerator and the denominator."""

FURTHER = {"yes-no": tuple(RATES), "circular": ("choice",)}
"""Metric → further metrics of the same answers, reported as benchmarks of their own, such as `pope-random f1`."""


def names_of(name: str, metric: str) -> list[str]:
    """The names under which a benchmark may have scores, if its questions have choices (`likelihood.py`)."""
    return [name, f"{name} by likelihood", *(f"{name} {one}" for one in FURTHER.get(metric, ()))]


def further(benchmark: Benchmark) -> list[Benchmark]:
    """The benchmark once per further metric, with a corresponding name."""
    metrics = () if benchmark.submission else FURTHER.get(benchmark.metric, ())
    return [replace(benchmark, name=f"{benchmark.name} {one}", metric=one, family="further") for one in metrics]


def rate_points(metric: str, said: Iterable[bool], true: Iterable[bool]) -> list[float]:
    """Points per question, given whether `yes` is predicted and true; mean and spread are those of the rate.

    A rate is a ratio of two sums, and the points are its linearisation: a question deviates from the rate as far as its
    part of the numerator deviates from the rate times its part of the denominator. With denominator 0, the rate is 0.
    """
    parts = list(map(RATES[metric], said, true))
    above, below = (sum(part) for part in zip(*parts, strict=True))
    if not below:
        return [0.0] * len(parts)
    rate = above / below
    return [100.0 * (rate + (one - rate * other) * len(parts) / below) for one, other in parts]


def score(benchmark: Benchmark, predictions: Sequence[str]) -> list[float]:
    """Points of each prediction: 0 to 100, captions 0 to 1000; their mean is the benchmark's score.

    Predictions are in the order of the questions, block after block. Raises ValueError if their numbers differ.
    """
    questions = benchmark.questions
    if len(predictions) != len(questions):
        raise ValueError(f"{benchmark.name}: {len(predictions)} predictions for {len(questions)} questions")
    if benchmark.metric == "cider":
        return cider(predictions, [question.references for question in questions])
    if benchmark.metric in RATES:
        true = (says_yes(question.references[0]) for question in questions)
        return rate_points(benchmark.metric, map(says_yes, predictions), true)
    if benchmark.family == "likelihood":  # each prediction is one of the choices, whatever it looks like
        return [100.0 * (said in one.references) for said, one in zip(predictions, questions, strict=True)]
    judge = METRICS[benchmark.metric]
    return [judge(prediction, question, benchmark) for prediction, question in zip(predictions, questions, strict=True)]


def answer_words(benchmark: Benchmark) -> dict[str, frozenset[str]]:
    """For each kind of question, all normalised answers that are a reference of some question of that kind."""
    words: dict[str, set[str]] = {}
    for question in benchmark.questions:
        words.setdefault(question.kind, set()).update(normalise(answer) for answer in question.references)
    return {kind: frozenset(answers) for kind, answers in words.items()}


def is_parsed(prediction: str, question: Question, benchmark: Benchmark, words: dict[str, frozenset[str]]) -> bool:
    """Whether each line of the prediction is a possible answer to its kind of question, right or wrong.

    Captions and answers to published questions need only be non-empty. `words` are the benchmark's `answer_words`.
    This distinguishes a model that does not see from one that does not know the answer format.
    """
    answers = map(normalise, prediction.split("\n"))
    if benchmark.official or benchmark.metric == "cider":
        return all(answers)
    return all(answer in words[question.kind] for answer in answers)


def majority_by_kind(benchmark: Benchmark) -> dict[str, float]:
    """For each kind of question, the score of the best constant answer on these questions.

    This bounds what a model can reach without seeing, merely by knowing which answers are common. Empty for captions,
    and for benchmarks whose references are not published.
    """
    if benchmark.metric == "cider" or benchmark.submission:
        return {}
    judge = METRICS[benchmark.metric]
    kinds: dict[str, list[Question]] = {}
    for question in benchmark.questions:
        kinds.setdefault(question.kind, []).append(question)
    best = {}
    for kind, questions in kinds.items():
        counts = Counter(
            answer
            for question in questions
            for answer in {*(question.references if question.choices else map(normalise, question.references))}
        )
        constants = [answer for answer, _ in counts.most_common(CONSTANT_ANSWERS)]
        if benchmark.official:  # choices are shown with letters
            constants += ascii_uppercase[: max(len(question.choices) for question in questions)]
        best[kind] = max(sum(judge(c, question, benchmark) for question in questions) for c in constants)
        best[kind] /= len(questions)
    return best


def majority_score(benchmark: Benchmark, by_kind: Mapping[str, float]) -> float:
    """The mean of `majority_by_kind` over the questions."""
    questions = benchmark.questions
    return sum(by_kind[question.kind] for question in questions) / len(questions)
