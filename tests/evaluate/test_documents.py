"""ANLS and relaxed accuracy, by hand."""

import pytest

from mm1_lab.evaluate.documents import anls, relaxed_accuracy


@pytest.mark.parametrize(
    ("said", "answers", "points"),
    [
        (" ", [""], 100),
        ("Hello  World", ["hello world"], 100),
        ("helo world", ["hello world"], 100 * (1 - 1 / 11)),
        ("kitten", ["sitting"], 100 * (1 - 3 / 7)),  # two letters exchanged, one put in
        ("abcdefgh", ["bcdexgh"], 100 * (1 - 2 / 8)),  # one left out, one exchanged
        ("abcd", ["abxy"], 50),
        ("abcde", ["abxyz"], 0),  # more than half of the letters: another answer
        ("abc", ["abx"], 100 * 2 / 3),
        ("", ["a"], 0),
        ("cafe\u0301", ["caf\u00e9"], 100),
        ("12", ["x", "12"], 100),  # the best answer counts
    ],
)
def test_anls(said, answers, points):
    assert anls(said, answers) == pytest.approx(points)


@pytest.mark.parametrize(
    ("said", "answer", "is_right"),
    [
        ("105", "100", True),
        ("95", "100", True),
        ("105.1", "100", False),
        ("-3.1", "-3", True),
        ("3", "-3", False),
        ("5%", "0.05", True),
        ("5", "5%", False),
        ("0.0", "0", False),  # as in the published program
        ("0", "0", True),
        ("Yes", "yes", True),
        ("yes.", "yes", False),
        ("nan", "nan", True),
        ("１０３％", "１００％", True),
        ("inf", "3", False),
    ],
)
def test_relaxed_accuracy(said, answer, is_right):
    assert relaxed_accuracy(said, ["other", answer]) == 100.0 * is_right
