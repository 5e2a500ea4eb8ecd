"""What a caption of the miniature world says, whatever its wording: F1 over propositions, as SPICE scores captions.

A proposition is a thing that is named, or a thing with its colour. A caption's are compared with those of all its
references together; each reference may overlook something, all five together hardly ever do. CIDEr, which compares
wording, takes the voice of a caption for half of its worth; this score does not hear it.
"""

from collections.abc import Iterable

from mm1_lab.data.world.words import COLOURS, LETTERS, SHAPES, SIZES

Proposition = tuple[str, ...]
BETWEEN = frozenset({"is", "are", ":", "and", "that", "which", *SIZES, "big", "little"})
"""Words that may stand between a thing and a colour that is said of it behind it: "the circle is large and red"."""


def propositions(caption: str) -> set[Proposition]:
    """(noun,) for each thing that is named, (colour, noun) where its colour is said before or behind it."""
    words = caption.split()
    found: set[Proposition] = set()
    for at, word in enumerate(words):
        is_letter = word in LETTERS and at > 0 and words[at - 1] == "letter"
        if word not in SHAPES and not is_letter:
            continue
        found.add((word,))
        before = at - 2 if is_letter else at - 1
        if before >= 0 and words[before] in COLOURS:
            found.add((words[before], word))
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
