"""CIDEr-D against its published definition, written out slowly here; captions are cut into words as by the original."""

import itertools
import math
from pathlib import Path
from random import Random

import pytest

from mm1_lab.evaluate.caption_words import caption_words
from mm1_lab.evaluate.cider import cider

PHRASES = dict(
    line.split("\t") for line in Path(__file__).with_name("caption_words.txt").read_text("utf-8").splitlines()
)
"""What Stanford CoreNLP 3.4.1 and the evaluation's list of punctuation make of it (tab between)."""
DIFFER = {"US$5", ":) :-) ;) :( :D", "=)", "^_^", "example.org/a", "don't don’t don´t don`t", "é naïve 日本"}
"""Smileys, signs that captions hardly hold, and text without spaces, which we cut into letters."""


def grams(text: str, n: int) -> list[str]:
    words = text.split()
    return [" ".join(words[at : at + n]) for at in range(len(words) - n + 1)]


def slow_cider(prediction: str, own: list[str], references: list[list[str]]) -> float:
    """The definition: g_k = h_k · log(|I| / images whose references hold k), clipped, n = 1 … 4."""

    def vector(text: str, n: int) -> dict[str, float]:
        found = grams(text, n)
        images = {gram: sum(any(gram in grams(one, n) for one in texts) for texts in references) for gram in found}
        return {gram: found.count(gram) * math.log(len(references) / max(1, images[gram])) for gram in found}

    total = 0.0
    for n, text in itertools.product((1, 2, 3, 4), own):
        candidate, reference = vector(prediction, n), vector(text, n)
        product = sum(min(candidate[gram], reference[gram]) * reference[gram] for gram in candidate.keys() & reference)
        norms = math.hypot(*candidate.values()) * math.hypot(*reference.values())
        difference = len(prediction.split()) - len(text.split())
        if norms > 0:
            total += math.exp(-(difference**2) / (2 * 36)) * product / norms
    return 1000 * total / len(own) / 4


def test_agrees_with_the_definition_on_random_captions():
    random = Random(3)
    words = ["red", "blue", "circle", "square", "large", "small", "left", "of", "and"]

    def caption() -> str:
        return " ".join(random.choices(words, k=random.randint(0, 14)))  # empty ones too

    references = [[caption() or "red" for _ in range(random.randint(1, 5))] for _ in range(12)]
    predictions = [random.choice([caption(), random.choice(texts), texts[0] + " red red"]) for texts in references]
    expected = [slow_cider(said, own, references) for said, own in zip(predictions, references, strict=True)]
    assert max(expected) > 300
    assert cider(predictions, references) == pytest.approx(expected, abs=1e-9)


def test_phrases_are_cut_as_by_the_original():
    assert len(PHRASES) > 280
    assert {phrase for phrase, words in PHRASES.items() if caption_words(phrase) != words.split()} == DIFFER
    assert caption_words("a 😀 red\ncar 🚗.") == ["a", "red", "car"], "emoji vanish, and lines are spaces"
    assert caption_words(" . ") == []


def test_captions_in_any_script_are_compared_without_case_and_punctuation():
    """Text without spaces by its letters (each caption as one word would earn 0), others by whole words."""
    references = [["一只黑猫坐在红色的沙发上。"], ["两个人在海滩上散步"], ["一辆蓝色的巴士停在路边"]]
    near = cider(["一只黑猫坐在沙发上", "两个人在海滩上走", "一辆红色的巴士停在路边"], references)
    assert all(300 < points < 900 for points in near)
    for caption, words in (
        ("ＢＭＷ手机３台，赤いソファ。", "bmw 手 机 3 台 赤 い ソ フ ァ"),
        ("สีแดง", "สี แ ด ง"),
        ("काली बिल्ली है।", "काली बिल्ली है"),
        ("قِطَّةٌ می\u200cخواهم", "قِطَّةٌ می\u200cخواهم"),
        ("cafe\u0301 su\u0308ß İki", "café süß iki"),
    ):
        assert caption_words(caption) == words.split()
    english = [["A man, riding a T-shirt!"], ['It\'s 3.5 or 1,000 km: $5 "more"...']]
    same = ["a man riding a t-shirt", "it 's 3.5 or 1,000 km $ 5 more"]
    assert cider(same, english) == pytest.approx([1000.0, 1000.0])
