"""VQA accuracy and its normalisation, by hand from the published rules."""

import pytest

from mm1_lab.evaluate.generation import cut_answer
from mm1_lab.evaluate.vqa import CONTRACTIONS, exact_match, normalise, textvqa_accuracy, vqa_accuracy


@pytest.mark.parametrize(
    ("agreeing", "points"),
    # Left out one by one: each who agrees leaves n − 1 matches, each who does not leaves n.
    # n = 1: (1·0 + 9·1/3) / 10;  2: (2·1/3 + 8·2/3) / 10;  3: (3·2/3 + 7·1) / 10;  4: all at least 3/3.
    [(0, 0.0), (1, 30.0), (2, 60.0), (3, 90.0), (4, 100.0), (10, 100.0)],
)
def test_leave_one_out_over_ten_answers(agreeing, points):
    answers = ["Red."] * agreeing + ["blue"] * (10 - agreeing)
    assert vqa_accuracy("the red", answers) == pytest.approx(points)


@pytest.mark.parametrize(
    ("answer", "normal"),
    [
        ("  A Red\tCar\n", "red car"),
        ("Two dogs and an owl", "2 dogs and owl"),
        ("none", "0"),
        ("eleven", "eleven"),
        ("couldn'tve", "couldn't've"),
        ("shed", "shed"),  # a word of its own
        ("yes.", "yes"),
        ("3.5", "3.5"),
        ("5. 1", "5 1"),
        ("1,000", "1000"),
        ("t-shirt", "t shirt"),  # no space beside the mark: a space takes its place
        ("black/white", "black white"),
        ("what?!", "what"),
        ("1,000 t-shirts", "1000 tshirts"),  # a comma between digits: every mark falls away
        ("o'clock", "o'clock"),
        ("a", "a"),  # nothing else is left: a printed letter
        ("", ""),
    ],
)
def test_normalisation(answer, normal):
    assert normalise(answer) == normal


def test_the_table_of_contractions_is_the_official_one():
    assert len(CONTRACTIONS) == 114, "its 120 less two that change nothing and four in capitals, which are never met"
    assert normalise("hes") == "he's" and normalise("'ow'sat") == "'ow's'at"
    assert normalise("somebody'd") == "somebodyd", "turned round there"
    for unchanged in ("couldntve", "Im", "let's", "well", "its", "somebodyd"):
        assert normalise(unchanged) == unchanged.lower()


@pytest.mark.parametrize(
    ("prediction", "answers", "official", "ours"),
    [
        ("Yes", ["yes"] * 10, 0.0, 100.0),  # ten equal answers: nothing is normalised
        (" yes\n", ["yes"] * 10, 100.0, 100.0),
        ("yes", [" yes\n"] * 9 + ["yes"], 100.0, 100.0),  # blanks around answers go before they are counted
        ("yes", ["Yes."] * 10, 0.0, 100.0),
        ("Yes", ["yes"] * 9 + ["no"], 100.0, 100.0),
        ("a", ["a"] * 9 + ["b"], 100.0, 100.0),  # both become nothing
        (".", ["the ."] * 5 + ["b"] * 5, 100.0, 0.0),  # so does a stop
        ("the", ["a"] * 5 + ["b"] * 5, 100.0, 0.0),
    ],
)
def test_official_quirks(prediction, answers, official, ours):
    assert vqa_accuracy(prediction, answers, official=True) == pytest.approx(official)
    assert vqa_accuracy(prediction, answers) == pytest.approx(ours)


@pytest.mark.parametrize(
    ("prediction", "answer", "points"),
    [
        ("Nokia", "nokia", 100.0),  # always normalised, where VQAv2's program leaves ten equal answers as they are
        ("1,000 t-shirts", "1000 t shirts", 100.0),  # with commas gone, no number removes every mark
        ("the nokia, two", "nokia 2", 100.0),
        ("nokia,two", "nokiatwo", 100.0),
        ("it's", "it 's", 100.0),
        ("what? 5.5", "what 5.5", 100.0),
        ("nokia - two", "nokia 2", 100.0),  # a mark beside a space falls away
        ("dont", "don't", 100.0),
        ("the", "a", 100.0),  # both become nothing
        ("nokia/two", "nokiatwo", 0.0),
    ],
)
def test_textvqa_is_scored_as_its_own_evaluator_does(prediction, answer, points):
    assert textvqa_accuracy(prediction, [answer] * 10) == points


@pytest.mark.parametrize(
    ("prediction", "answer", "is_right"),
    [
        ("The ring.", "ring", True),
        ("ring left", "ring", False),
        ("", "a", False),
        ("cafe\u0301", "caf\u00e9", True),  # an accent may be a character of its own
        ("5", "-5", False),
        ("-$0.50", "$0.50", False),
        ("−5.", "-5", True),
        ("3 - 5", "3-5", True),
        ("T-shirt", "t shirt", True),
        ("-", "+", False),
        ("", "<", False),
        (" + ", "+", True),
        ("红色。", "红色", True),
        ("Ａ３", "a3", True),
        ("३।", "3", True),
        ("“نعم؟”", "نعم", True),
        ("İki", "iki", True),
        ("don’t", "don't", True),
        ("x²", "x2", False),
    ],
)
def test_an_exact_match_is_all_or_nothing_and_signs_count(prediction, answer, is_right):
    assert exact_match(prediction, [answer]) == 100.0 * is_right


def test_words_joined_invisibly_match_as_they_are_cut():
    persian = "\u0645\u06cc\u200c\u0634\u0648\u062f"  # with a zero-width non-joiner
    assert cut_answer(f" {persian}\n", ("\n",)) == persian
    assert exact_match(persian, [persian.replace("\u200c", " ")]) == 0.0
