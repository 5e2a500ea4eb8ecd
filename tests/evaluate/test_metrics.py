"""From written text to points: cutting answers, telling answers from other text, metrics by benchmark, the majority."""

from dataclasses import replace
from random import Random
from statistics import fmean, stdev

import pytest

from mm1_lab.data.world.language import alt_text, annotator, dense_caption, draw_convention, in_convention, page_voice
from mm1_lab.data.world.scenes import sample_scene
from mm1_lab.evaluate.content import content, followed
from mm1_lab.evaluate.generation import cut_answer
from mm1_lab.evaluate.metrics import (
    choice_accuracy,
    f1_points,
    further,
    majority_by_kind,
    majority_score,
    parsed,
    says_yes,
    score,
)
from mm1_lab.evaluate.questions import Benchmark, Question
from tests.evaluate.conftest import make_benchmark


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (" red . blue", "red"),
        (". red", ""),
        ("red question : blue . ", "red"),
        ("red\x00\rcircle\ntwo\n", "red  circle two"),
    ],
)
def test_an_answer_ends_at_the_first_stop_word(text, answer):
    assert cut_answer(text, (".", "question")) == answer


def test_an_answer_of_another_kind_is_not_parsed():
    benchmark = make_benchmark("vqa")
    assert benchmark.questions[0].kind == "color"

    def is_parsed(said: str, benchmark: Benchmark) -> bool:
        """Whether it answers the first question."""
        return parsed(benchmark, [said] * len(benchmark.questions))[0]

    assert is_parsed("The Blue.", benchmark)
    assert not is_parsed("circle", benchmark)
    assert not is_parsed("", benchmark)
    published = replace(benchmark, official=True)
    assert is_parsed("+", published), "which `exact` may find right"
    assert not is_parsed(" \n+", published)
    question = replace(published.questions[0], choices=("red", "blue"))
    lettered = replace(published, metric="choice", blocks=((question,),))
    for said, is_choice in (("B", True), ("(a) red", True), ("Blue.", True), ("C", False), ("green", False)):
        assert is_parsed(said, lettered) == is_choice, said
    for said, is_answer in (("Yes.", True), ("There is not.", True), ("a cat", False), ("nothing", False), ("", False)):
        assert is_parsed(said, replace(published, metric="yes-no")) == is_answer, said
    solved = replace(benchmark, metric="answer")
    for said, is_answer in (("two things . the answer is blue .", True), ("blue", True), ("it is blue", False)):
        assert is_parsed(said, solved) == is_answer, said
    assert not is_parsed("the answer is", replace(solved, official=True))
    captions = make_benchmark("cider")
    for one in (captions, replace(captions, metric="content")):
        assert is_parsed("anything", one)
        assert not is_parsed(" .", one)


def test_majority_is_the_best_constant_answer_of_each_kind():
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
    captions = replace(benchmark, family="captioning", metric="content")
    assert majority_by_kind(captions) == {}
    unlike = [question(number, "description", f"a red {number}") for number in range(40)]
    seen = [question(40, "description", "a blue ring"), question(41, "description", "a blue ring on a blue ring")]
    described = replace(benchmark, family="chat", metric="content", blocks=((*unlike, *seen),))
    assert majority_by_kind(described)["description"] > 100 * 1.5 / 42, "though 40 others are as common"
    below = replace(benchmark, blocks=((question(0, "sum", "-5"),),), metric="exact")
    assert majority_by_kind(below) == {"sum": 100.0}


def of_choices(answer: str, choices: tuple[str, ...]) -> Question:
    return Question("", "", (), "", (answer,), "", choices)


IN_SENTENCES = (
    "[B]",
    "It is B.",
    "I think it's (B)",
    "I think it’s B",
    "Answer:B",
    "So the best answer is B.",
    "The correct answer is **B**.",
    "$\\boxed{B}$",
    "B is correct because it barks.",
    "B - dog",
    "B dog",
    "B!",
    'The answer is "B".',
    "Answer: 'B'",
    "B, because A shows a cat or a bird",
)
"""As lmms-eval's reading of MMMU or VLMEvalKit takes them, too."""
IN_OTHER_LANGUAGES = (
    "Ｂ．犬",
    "B。",
    "（B）",
    "【B】",
    "B、犬",
    "答案：B",
    "答案是B。",
    "答えはBです",
    "الإجابة: B",
    "Antwort: B",
    "犬。",
)
ALTERNATIVES = (
    "A, or it is B",
    "(a) or (b)",
    "A. cat or B. dog",
    "It is A, or maybe B.",
    "Option A or option B",
    "The answer is either A, or it is B",
    "A is correct, or it is **B**",
)


@pytest.mark.parametrize(
    ("said", "choices", "chosen"),
    [
        ("-5", ("5", "-5"), "-5"),
        ("+", ("+", "-"), "+"),
        ("-5.", ("5", "-5"), "-5"),
        ("A", ("C", "A", "B"), "C"),
        ("(b)", ("C", "A", "B"), "A"),
        ("The cat", ("dog", "cat"), "cat"),
        ("", ("dog", "cat"), None),
        ("X", ("X", "Y"), "X"),  # there is no 24th choice
        ("A.M.", ("P.M.", "A.M."), "A.M."),
        ("A. cat", ("cat", "dog"), "cat"),
        ("A. dog", ("cat", "dog"), "cat"),  # the article counts for nothing among words, but is a letter here
        ("(B) Cat.", ("cat", "dog"), "dog"),
        ("B, A", ("cat", "dog"), None),
        ("B. a", ("c", "a"), "a"),
        ("The answer is B.", ("cat", "dog"), "dog"),
        ("**Answer: (b)**", ("cat", "dog"), "dog"),
        ("Choice B", ("Choice B", "Choice A"), "Choice B"),
        ("option 2.", ("Option 1", "Option 2"), "Option 2"),
        ("A big dog", ("cat", "dog"), None),
        *[(said, ("cat", "dog"), "dog") for said in IN_SENTENCES],
        ("It is not B.", ("cat", "dog"), None),
        ("It is a cat", ("dog", "cat"), "cat"),
        ("it " * 5000, ("cat", "dog"), None),
        ("The answer is not A, the answer is B", ("cat", "dog"), "dog"),
        ("ß", ("s", "t"), None),
        *[(said, ("cat", "dog"), None) for said in ALTERNATIVES],
        ("A. Not B", ("cat", "dog"), "cat"),
        ("Either A.", ("cat", "dog"), "cat"),
        ("A cat or dog is shown. The answer is B.", ("cat", "dog"), "dog"),
        ("A. cat or dog", ("cat or dog", "dog"), "cat or dog"),
        ("A. vitamin A or B", ("vitamin A or B", "dog"), "vitamin A or B"),
        ("B, or in other words, a dog", ("cat", "dog"), "dog"),
        ("The answer is dog (B).", ("cat", "dog"), "dog"),
        ("Answer: $5", ("$5", "5 cents"), "$5"),
        *[(said, ("猫", "犬"), "犬") for said in IN_OTHER_LANGUAGES],
        ("答案是A或B", ("猫", "犬"), None),
        ("维生素B吗", ("维生素A", "维生素B"), None),
        ("Let's look at the choices: A. cat, B. dog", ("cat", "dog"), None),
        ("The clock shows 12:30", ("30", "12"), None),
        ("不是B", ("猫", "犬"), None),
        ("一张A4纸", ("猫", "犬"), None),
        ("3 b", ("3", "4"), None),
        ("Bé", ("Ce", "De"), None),
        ("**B. It is a dog**", ("It is a cat", "It is a dog"), "It is a dog"),
    ],
)
def test_a_letter_is_that_of_a_choice_unless_it_begins_other_words(said, choices, chosen):
    benchmark = Benchmark("b", "vqa", "", "choice", (), (), (".",), 4, official=True)
    points = {one: choice_accuracy(said, of_choices(one, choices), benchmark) for one in choices}
    assert points == {one: 100.0 * (one == chosen) for one in choices}
    without_letters = replace(benchmark, official=False)
    assert choice_accuracy("A", of_choices("A", ("C", "A", "B")), without_letters) == 100.0
    assert choice_accuracy("c", of_choices("bow", ("arch", "f", "bow")), without_letters) == 0.0, "a drawn letter"


def test_a_worked_solution_may_end_in_a_letter():
    """As those of ScienceQA and MMMU do; without choices in the prompt a letter is an answer like others."""
    benchmark = Benchmark(
        "b", "vqa", "", "answer", (of_both := (of_choices("dog", ("cat", "dog")),) * 4,), (), (), 4, True
    )
    said = ["It barks. The answer is B.", "The answer is (B) dog.", "the answer is dog", "The answer is A."]
    assert score(benchmark, said) == [100.0, 100.0, 100.0, 0.0]
    without = tuple(replace(question, choices=()) for question in of_both)
    assert score(replace(benchmark, blocks=(without,)), said) == [0.0, 0.0, 100.0, 0.0]


def test_a_constant_answer_may_be_a_letter():
    choices = ("C", "A", "B")
    asked = tuple(of_choices(answer, choices) for answer in "CCA")
    benchmark = Benchmark("b", "vqa", "", "choice", (asked,), ((),), (".",), 4, official=True)
    assert majority_by_kind(benchmark) == {"": pytest.approx(200 / 3)}
    shifted = tuple(of_choices(first, (first, second)) for first, second in ("pq", "qr", "rp"))
    assert majority_by_kind(replace(benchmark, blocks=(shifted,))) == {"": 100.0}, "always A"


def test_popes_two_numbers_from_answers_as_its_program_reads_them():
    """Against counts by hand: 3 true positives, 2 false ones, 1 false negative, 4 true negatives."""
    said = ["yes"] * 3 + ["yes"] * 2 + ["no"] + ["no"] * 4
    true = ["yes"] * 3 + ["no"] * 2 + ["yes"] + ["no"] * 4
    asked = [Question(str(n), "", (), "", (answer,), answer) for n, answer in enumerate(true)]
    benchmark = Benchmark("pope", "chat", "POPE", "yes-no", (tuple(asked),), ((),), (".",), 4)
    means = {one.name: sum(score(one, said)) / 10 for one in (benchmark, *further(benchmark))}
    expected = {"pope": 70, "pope f1": 600 / 9}
    assert means == pytest.approx(expected)
    (f1,) = further(benchmark)
    assert sum(score(f1, ["no"] * 10)) == 0, "no division by zero"
    assert all(map(says_yes, ("yes", "Yes. There is no dog.", "none of it", "NO", "")))
    assert not any(map(says_yes, ("no", "No, there is not", "There is no cat.", "not at all")))


def test_the_spread_of_f1_s_points_is_that_of_f1():
    """The variance of F1 over resampled questions, against that of the mean of its points."""
    random = Random(0)
    true = [random.random() < 0.5 for _ in range(400)]
    said = [random.random() < (0.8 if one else 0.3) for one in true]
    resampled = []
    for _ in range(300):
        numbers = random.choices(range(400), k=400)
        resampled.append(fmean(f1_points([said[n] for n in numbers], [true[n] for n in numbers])))
    assert stdev(resampled) == pytest.approx(stdev(f1_points(said, true)) / 20, rel=0.15)


def test_content_and_the_share_of_words_in_the_references_convention_by_hand():
    seen = ("a red square and a blue ring", "a red square")
    assert content("a red square", seen) == pytest.approx(200 * 2 / (2 + 4))
    assert content("a green square", seen) == pytest.approx(200 * 1 / (2 + 4))
    assert content("", seen) == 0
    assert content("blue ring , red square", seen) == 100
    references = ("there is a crimson square at the upper-left", "a crimson square")
    assert followed("here is a crimson square upper-left", references) == 100
    assert followed("a red square at top-left", references) == pytest.approx(100 / 3)
    assert followed("an azure block", references) == 50, "whether it is true does not count"
    assert followed("it shows a z", references) == 0


def test_a_faultless_caption_says_all_whatever_its_voice():
    for seed in range(30):
        random = Random(seed)
        scene = sample_scene(random, "test")
        truth = [dense_caption(random, scene)]
        voices = [page_voice(random, complete=True), annotator(random)]
        said = [in_convention(voice, draw_convention(random))(random, scene) for voice in voices]
        said.append(alt_text(random, scene, complete=True))
        assert [content(caption, truth) for caption in said] == [100, 100, 100]
