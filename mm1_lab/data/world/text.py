"""Text-only documents: scenes in words with questions, facts, arithmetic, patterns, copying and stories.

The decoder is pre-trained on them, and they fill the mixture's text-only rows. The decoder's pre-training starts with
bare key-value pairs, which teach it look-up by key.
"""

from collections.abc import Callable
from functools import partial
from random import Random
from typing import NamedTuple

from mm1_lab.data.types import Answer, Part
from mm1_lab.data.world.told import (
    Parts,
    bare_pairs,
    compounds_and_asked,
    compounds_and_retold,
    joined,
    many_shots,
    plainly_told,
    retold,
    told_and_asked,
)
from mm1_lab.data.world.words import ANIMALS, COLOURS, LETTERS, LIKED, OWNERS, SHAPES, SPARE_NOUNS, TOWNS

Weights = dict[Callable[[Random], Parts], float]
"""Makers of documents, with their sampling weights."""


def facts(random: Random) -> Parts:
    """Facts of the world that no picture shows, as statements or as questions with answers."""
    parts: list[Part] = []
    for _ in range(random.choice((1, 2, 3))):
        fact = draw_fact(random)
        is_stated = random.random() < 0.4
        prompt, answer = (fact.statement, fact.ending) if is_stated else (fact.prompt, fact.answer)
        parts += [prompt, Answer(answer), "."]
    return tuple(parts)


class Fact(NamedTuple):
    """A fact of the world that no picture shows: as a statement without its last word, a prompt, and a request."""

    statement: str
    ending: str
    """The statement's last word."""
    prompt: str
    request: str
    answer: str
    """That of the prompt and of the request."""


def draw_fact(random: Random) -> Fact:
    if random.random() < 0.5:
        shape, animal = random.choice(list(OWNERS.items()))
        prompt = f"question : which animal owns the {shape} ? answer :"
        return Fact(f"the {animal} owns the", shape, prompt, f"the animal that owns the {shape}", animal)
    colour, town = random.choice(list(LIKED.items()))
    prompt = f"question : which town likes {colour} ? answer :"
    return Fact(f"{town} likes", colour, prompt, f"the town that likes {colour}", town)


def arithmetic(random: Random) -> Parts:
    parts: list[Part] = []
    for _ in range(random.randint(2, 6)):
        prompt, answer = sum_of_two(random)
        parts += [prompt, Answer(answer), "."]
    return tuple(parts)


def sum_of_two(random: Random) -> tuple[str, str]:
    first, second = random.randint(0, 9), random.randint(0, 9)
    if random.random() < 0.5:
        return f"{first} plus {second} equals", str(first + second)
    return f"{max(first, second)} minus {min(first, second)} equals", str(abs(first - second))


def pattern(random: Random) -> Parts:
    prompt, following = repetition(random)
    return (prompt, Answer(following[0]), ".")


def repetition(random: Random) -> tuple[str, tuple[str, ...]]:
    """A repeating sequence of words as a prompt, and the next four words, as nothing tells where to stop."""
    pool = random.choice((LETTERS, SPARE_NOUNS, tuple(COLOURS), ANIMALS, SHAPES))
    unit = random.sample(pool, random.choice((2, 3)))
    length = random.randint(2 * len(unit) + 1, 4 * len(unit))
    words = [unit[place % len(unit)] for place in range(length + 4)]
    return f"say again : {' '.join(words[:length])}", tuple(words[length:])


def story(random: Random) -> Parts:
    prompt, answer = handover(random)
    return (prompt, Answer(answer), ".")


def handover(random: Random) -> tuple[str, str]:
    """A story of three sentences without its last word, and that word."""
    first, second = random.sample(ANIMALS, 2)
    thing, other = random.sample(SPARE_NOUNS, 2)
    town = random.choice(TOWNS)
    if random.random() < 0.5:
        return f"the {first} saw a {thing} near {town} . the {first} took the {thing} . now the {first} has the", thing
    return (
        f"the {first} had a {thing} and the {second} had a {other} . the {first} gave the {thing} to the {second} . "
        f"now the {thing} is with the",
        second,
    )


def paragraph(random: Random) -> str:
    """One to three sentences of general text, for pages; they contain no questions."""
    sentences = []
    for _ in range(random.choice((1, 2, 3))):
        prompt, answer = random.choice((_stated_fact, sum_of_two, handover))(random)
        sentences.append(f"{prompt} {answer} .")
    return " ".join(sentences)


def _stated_fact(random: Random) -> tuple[str, str]:
    fact = draw_fact(random)
    return fact.statement, fact.ending


def medley(random: Random) -> Parts:
    return joined(lambda: _one_of(_SHORT, random), random.randint(3, 10))


_SHORT: Weights = {
    told_and_asked: 2,
    retold: 2,
    facts: 1,
    arithmetic: 1,
    pattern: 1,
    story: 1,
}
_DOCUMENTS: Weights = {
    told_and_asked: 9,
    compounds_and_asked: 3,
    many_shots: 8,
    medley: 2,
    retold: 6,
    compounds_and_retold: 4,
    facts: 2,
    arithmetic: 1.5,
    pattern: 2,
    story: 1.5,
}


_FIRST: Weights = {
    partial(told_and_asked, in_order=True): 13,
    partial(retold, in_order=True): 9,
    facts: 2,
    arithmetic: 1.5,
    pattern: 2,
    story: 1.5,
}
"""Documents for short rows: those that fit and that teach look-up soonest."""


def text_document(random: Random) -> Parts:
    return _one_of(_DOCUMENTS, random)


def _one_of(weights: Weights, random: Random) -> Parts:
    return random.choices(list(weights), list(weights.values()))[0](random)


class _Phase(NamedTuple):
    """A part of the curriculum: shares of documents, of which the rest is a mix of all kinds."""

    until: float
    """Progress up to which it lasts."""
    bare: float
    """Bare pairs."""
    flipped: float
    """Bare pairs with the value first."""
    plain: float
    """Plainly told scenes."""


_CURRICULUM = (
    _Phase(0.08, 0.92, 0.0, 0.08),
    _Phase(0.16, 0.40, 0.1, 0.50),
    _Phase(0.40, 0.08, 0.07, 0.75),
    _Phase(1.0, 0.03, 0.02, 0.1),
)
"""With both orders of pairs or many voices from the start, the decoder learns look-up more than twice as late."""


def pretraining_document(random: Random, progress: float, long: bool) -> Parts:
    """A document of the decoder's curriculum: at first mostly bare pairs, then plainly told scenes, then all kinds.

    `long`: rows are long enough for many-shot documents.
    """
    phase = next(phase for phase in _CURRICULUM if progress <= phase.until)
    drawn = random.random()
    if drawn < phase.bare + phase.flipped:
        return bare_pairs(random, value_first=drawn >= phase.bare)
    if drawn < phase.bare + phase.flipped + phase.plain:
        return plainly_told(random)
    return text_document(random) if long else _one_of(_FIRST, random)
