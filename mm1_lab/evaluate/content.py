"""What a caption of the miniature world says, whatever its wording: F1 over propositions, as SPICE scores captions.

A proposition is a thing that is named, or a thing with its colour. A caption's are compared with those of all its
references together; each reference may overlook something, all five together hardly ever do. CIDEr, which compares
wording, takes the voice of a caption for half of its worth; this score does not hear it.
"""

from collections.abc import Iterable

from mm1_lab.data.world.words import COLOURS, LETTERS, SHAPES, SIZES

_NOUNS = frozenset((*SHAPES, *LETTERS))
Proposition = tuple[str, ...]
BETWEEN = frozenset({"is", "are", ":", "and", "that", "which", *SIZES, "big", "little"})
"""Words that may stand between a thing and a colour that is said of it behind it: "the circle is large and red"."""


def propositions(caption: str) -> set[Proposition]:
    """(noun,) for each thing that is named, (colour, noun) where its colour is said before or behind it."""
    words = caption.split()
    found: set[Proposition] = set()
    for at, word in enumerate(words):
        if word not in _NOUNS:
            continue
        found.add((word,))
        if at and words[at - 1] in COLOURS:
            found.add((words[at - 1], word))
            continue
        behind = next((other for other in words[at + 1 :] if other not in BETWEEN), "")
        if behind in COLOURS:
            found.add((behind, word))
    return found


def content(caption: str, references: Iterable[str]) -> float:
    """F1, 0 to 100, of the caption's propositions against those of all references."""
    said = propositions(caption)
    true = set().union(*map(propositions, references))
    return 200 * len(said & true) / (len(said) + len(true)) if said or true else 0.0
