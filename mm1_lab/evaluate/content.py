"""Scores the content of a world caption regardless of its wording: F1 over propositions, in the manner of SPICE.

A proposition is a thing that is mentioned, or a thing with its colour. The caption's are compared with the union of its
references': each of these may omit something, but all five together hardly ever do.
"""

from collections.abc import Iterable

from mm1_lab.data.world.language import in_first_words
from mm1_lab.data.world.words import COLOURS, LETTERS, PLACES, SECOND, SHAPES, SIZES

_NOUNS = frozenset((*SHAPES, *LETTERS))
Proposition = tuple[str, ...]
_FILLERS = ", : is are and that which corner stands sits lies at in on near the from to of by"
BETWEEN = frozenset((*SIZES, *PLACES, *_FILLERS.split()))
"""Words that may separate a thing from a colour that follows it: `the circle at the top-left , large , red`."""


def propositions(caption: str) -> set[Proposition]:
    """(noun,) for each thing mentioned, and (colour, noun) if its colour is given before or after it. In first words,
    whichever of its two words the caption uses for a thing or colour."""
    words = [in_first_words(word) for word in caption.split()]
    found: set[Proposition] = set()
    for at, word in enumerate(words):
        if word not in _NOUNS:
            continue
        found.add((word,))
        before = words[at - 1] if at else ""
        colour = before if before in COLOURS else _colour_after(words[at + 1 :])
        if colour:
            found.add((colour, word))
    return found


def _colour_after(words: list[str]) -> str:
    """The colour that follows, unless it is that of the next thing."""
    for at, word in enumerate(words):
        if word in COLOURS:
            following = words[at + 1] if at + 1 < len(words) else ""
            return "" if following in _NOUNS else word
        if word not in BETWEEN:
            return ""
    return ""


def content(caption: str, references: Iterable[str]) -> float:
    """F1 (0 to 100) of the caption's propositions against those of all references."""
    said = propositions(caption)
    true = set[Proposition]().union(*map(propositions, references))
    if not said and not true:
        return 0.0
    return 200 * len(said & true) / (len(said) + len(true))


def followed(caption: str, references: Iterable[str]) -> float:
    """Of the caption's words that have a second word of the same meaning, the percentage in the references' convention:
    what a caption takes up from demonstrations, be it true or not. 0 for a caption without such words."""
    wanted = {word for reference in references for word in reference.split()}
    agreeing = total = 0
    for pairs in SECOND.values():
        second_wanted = not wanted.isdisjoint(pairs.values())
        for word in caption.split():
            if word in pairs or word in pairs.values():
                total += 1
                agreeing += (word not in pairs) == second_wanted
    return 100 * agreeing / total if total else 0.0
