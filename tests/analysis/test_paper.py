"""The published numbers: only what the paper or a named report says, never invented."""

from analysis.paper import read_paper


def test_figure_5_holds_what_the_text_gives() -> None:
    paper = read_paper("Fig. 5")
    known = paper.value("a", "100/0", "0-shot")
    assert known is not None and known.value == 39.3 and "section 3.3" in known.source
    above = paper.value("a", "50/50", "4-shot")
    assert str(above) == "> 58.0"
    assert paper.value("a", "66/33", "0-shot") is None
    assert not [key for key in paper.values if key[0] in "bcd" or key[2] == "text-core"]


def test_differences_are_stated_or_derived_and_say_which() -> None:
    paper = read_paper("Fig. 5")
    stated = paper.difference("d", "with VeCap", "without VeCap", "4-shot")
    derived = paper.difference("a", "100/0", "0/100", "0-shot")
    bound = paper.difference("a", "50/50", "100/0", "4-shot")
    assert stated is not None and stated.value == 2.4 and "derived" not in stated.source
    assert derived is not None and derived.value == 13.5 and "derived" in derived.source
    assert str(bound) == "> 14.3"
    assert paper.difference("a", "100/0", "50/50", "4-shot") is None  # a number minus a lower bound says nothing


def test_a_figure_without_known_numbers_has_none() -> None:
    assert not read_paper("Fig. 99").values
