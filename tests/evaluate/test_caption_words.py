"""Captions are cut into words as by the original, whose output for each phrase stands in `caption_words.txt`."""

from pathlib import Path

from mm1_lab.evaluate.caption_words import caption_words

PHRASES = dict(
    line.split("\t") for line in Path(__file__).with_name("caption_words.txt").read_text("utf-8").splitlines()
)
"""What Stanford CoreNLP 3.4.1 and the evaluation's list of punctuation make of it (tab between)."""
DIFFER = {"US$5", ":) :-) ;) :( :D", "=)", "^_^", "example.org/a", "don't don’t don´t don`t"}
"""Smileys, and signs that captions hardly hold."""


def test_phrases_are_cut_as_by_the_original() -> None:
    assert len(PHRASES) > 280
    assert {phrase for phrase, words in PHRASES.items() if caption_words(phrase) != words.split()} == DIFFER


def test_emoji_vanish_and_lines_are_spaces() -> None:
    assert caption_words("a 😀 red\ncar 🚗.") == ["a", "red", "car"]
    assert caption_words(" . ") == []
