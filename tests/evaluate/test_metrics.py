"""From written text to points: cutting answers, telling answers from other text, metrics by benchmark, the majority."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from mm1_lab.evaluate.answers import answer_words, cut_answer, is_parsed, questions_of
from mm1_lab.evaluate.cider import cider
from mm1_lab.evaluate.metrics import (
    anls,
    choice_accuracy,
    majority_by_kind,
    majority_score,
    relaxed_accuracy,
    score,
)
from mm1_lab.evaluate.questions import Benchmark, Question


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (" red . blue", "red"),
        ("red", "red"),
        (". red", ""),
        ("red question : blue . ", "red"),
        ("red\x00\rcircle\n", "red  circle"),
        ("", ""),
    ],
)
def test_an_answer_ends_at_the_first_stop_word(text: str, answer: str) -> None:
    assert cut_answer(text, (".", "question")) == answer


def test_an_answer_of_another_kind_is_not_parsed(benchmark_of: Callable[..., Benchmark]) -> None:
    benchmark = benchmark_of("vqa")
    words = answer_words(benchmark)
    colour = benchmark.blocks[0][0]
    assert colour.kind == "color"
    assert is_parsed("The Blue.", colour, benchmark, words)
    assert not is_parsed("circle", colour, benchmark, words)
    assert not is_parsed("", colour, benchmark, words)
    captions = benchmark_of("cider")
    assert is_parsed("anything", captions.blocks[0][0], captions, answer_words(captions))
    assert not is_parsed(" .", captions.blocks[0][0], captions, answer_words(captions))


def test_each_metric_judges_in_the_order_of_the_questions(benchmark_of: Callable[..., Benchmark]) -> None:
    for metric in ("vqa", "exact"):
        benchmark = benchmark_of(metric)
        right = [question.references[0] for question in questions_of(benchmark)]
        wrong_second = [right[0], "nonsense", *right[2:]]
        assert score(benchmark, wrong_second) == [100.0, 0.0, *[100.0] * (len(right) - 2)]
    captions = benchmark_of("cider")
    references = [question.references for question in questions_of(captions)]
    said = [texts[0] for texts in references]
    assert score(captions, said) == cider(said, references)
    with pytest.raises(ValueError, match="cider-test: 1 predictions for 12"):
        score(captions, ["red"])


def test_majority_is_the_best_constant_answer_of_each_kind() -> None:
    def question(number: int, kind: str, *answers: str) -> Question:
        return Question(str(number), kind, (), "?", answers, answers[0])

    # count: "2" earns 100 on two of three. color: answers differ within the ten; "blue" earns 100 + 30, "red" 100 + 0.
    questions = (
        question(0, "count", *["2"] * 10),
        question(1, "count", *["two"] * 10),
        question(2, "count", *["3"] * 10),
        question(3, "color", *["red"] * 5, *["blue"] * 5),
        question(4, "color", "blue", *["green"] * 9),
    )
    benchmark = Benchmark("x", "vqa", "VQAv2", "vqa", (questions,), ((),), (".",), 3)
    by_kind = majority_by_kind(benchmark)
    assert by_kind == {"count": pytest.approx(200 / 3), "color": pytest.approx(65)}
    assert majority_score(benchmark, by_kind) == pytest.approx((100 + 100 + 0 + 100 + 30) / 5)
    assert majority_by_kind(replace(benchmark, family="captioning", metric="cider")) == {}


@pytest.mark.parametrize(
    ("said", "references", "points"),
    [
        ("Main  Street", ["main street"], 100 * (1 - 0 / 12)),  # nothing to edit; the length counts both spaces
        ("main stret", ["main street"], 100 * (1 - 1 / 11)),
        ("kitten", ["sitting"], 100 * (1 - 3 / 7)),
        ("abcd", ["wxyz"], 0.0),
        ("abcd", ["abxy"], 50.0),  # exactly alike by half still counts
        ("abc", ["axy"], 0.0),  # a third
        ("b", ["a", "b"], 100.0),
        ("", [""], 100.0),
    ],
)
def test_anls_by_hand(said: str, references: list[str], points: float) -> None:
    assert anls(said, references) == pytest.approx(points)


@pytest.mark.parametrize(
    ("said", "reference", "right"),
    [
        ("104.9", "100", True),
        ("105", "100", True),
        ("105.1", "100", False),
        ("95", "100", True),
        ("12%", "0.12", True),
        ("12", "12%", False),
        ("0", "0", True),  # nothing can be near zero: the words must agree
        ("0.0", "0", False),
        ("-3", "3", False),
        ("Blue", "blue", True),
        ("blue.", "blue", False),
        ("2,000", "2000", False),  # not a number to the original either
    ],
)
def test_relaxed_accuracy_by_hand(said: str, reference: str, right: bool) -> None:
    assert relaxed_accuracy(said, [reference]) == 100.0 * right


@pytest.mark.parametrize(
    ("said", "right"),
    [
        *[(right, True) for right in ("B", "(b)", "B. red", "b", "red", "The red")],
        *[(wrong, False) for wrong in ("A", "C", "D", "", "blue", "because", "2")],
    ],
)
def test_a_choice_is_made_by_letter_or_words(said: str, right: bool) -> None:
    assert choice_accuracy(said, ["red"], ["blue", "red", "green"]) == 100.0 * right
