"""Text-only documents: scenes in words with questions, key-value pairs, facts, arithmetic, patterns and stories.

The decoder is pre-trained on them, and they fill the mixture's text-only rows. Its pre-training starts with bare
key-value pairs, which teach it look-up by key. Half of the scenes are told in the wording of image text (alt-text and
page prose in equal parts), half in plain words. Questions with answers occur only here.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from random import Random
from typing import Any, NamedTuple

from mm1_lab.data.types import Answer, Part
from mm1_lab.data.world.language import (
    FIRST,
    Convention,
    Voice,
    alt_text,
    dense_caption,
    draw_convention,
    in_compounds,
    in_convention,
    inventory,
    page_voice,
    spoken,
    telling,
)
from mm1_lab.data.world.scene_questions import Asked, ask
from mm1_lab.data.world.scenes import Scene, sample_scene
from mm1_lab.data.world.words import (
    ANIMALS,
    COLOURS,
    LETTERS,
    LIKED,
    NEIGHBOURS,
    OWNERS,
    PLACES,
    SHAPES,
    SIZES,
    SPARE_COLOURS,
    SPARE_NOUNS,
    TOWNS,
)

Parts = tuple[Part, ...]

LONGEST = 250
"""Maximum words of a document, so that it fits a row of 256."""
_SHORT_ROW = 60
"""Maximum words of a document that must fit a row of 64."""
_EVERYWHERE = range(len(PLACES))
_IN_FULL = partial(alt_text, complete=True)
"""Alt-text that omits nothing, so that all of it can be asked about."""
_LETTERED = 0.15
"""Probability of a letter in a scene that is not asked about one: letters are practised by their own questions."""
_COUNTS = (0.06, 0.34, 0.3, 0.2, 0.1)
"""Odds of one, two, … things in scenes with questions. They have more things, at more places, than pictures do: among
few things, answers could be guessed."""
_CROWDED = (0, 0.2, 0.4, 0.3, 0.1)
"""Odds for scenes in which a neighbour is asked for: of two things it is always the other one."""
_FEW = (0.1, 0.4, 0.5)
"""Odds for the scenes that teach look-up."""
_RETOLD = (0.3, 0.35, 0.2, 0.1, 0.05)
"""Odds for scenes that are described twice."""
_SHOWN = ((0.4, 0.6), (0.1, 0.4, 0.5), (0.1, 0.4, 0.5))
"""Odds for demonstrations: few things, so that eight demonstrations fit a row, or, twice as often, more than in
pictures, so that answers are not found without looking them up."""
_ANSWERED_OTHERWISE = 0.25
"""Probability that questions about one scene are answered in a convention that nothing shows."""
_ASKED = {
    "colour": 4,
    "shape": 5,
    "place": 3,
    "size": 4,
    "relation": 6,
    "letter": 2,
    "owner": 2,
    "town": 3,
}
"""Sampling weights of the kinds of questions. Looking up a name by its place is learned last of all, and shape,
relation and owner rest on it: with two fifths of this share a decoder never learned it (results/LOG.md)."""


def bare_pairs(random: Random, value_first: bool) -> Parts:
    """`circle red , square blue . square blue .`: key-value pairs, then the keys again, plain or in questions.

    With `value_first` (`red circle`, as in captions), they are always in questions. Those are in first words, whichever
    words the pairs are in.
    """
    nouns = random.sample(_NOUNS, random.choice((2, 3, 3, 4)))
    count = len(nouns)
    by_place = random.random() < _BY_PLACE
    if by_place:
        form = "what is at {}"
        pairs = dict(zip(random.sample(PLACES, count), nouns, strict=True))
    else:
        form, values = random.choice(_ASSOCIATIONS)
        pairs = {noun: random.choice(values) for noun in nouns}
    order = "{1} {0}" if value_first else "{0} {1}"
    listed = " , ".join(order.format(*pair) for pair in pairs.items())
    parts: list[Part] = []
    if value_first or random.random() < 0.4:
        parts.append(spoken(f"{listed} .", draw_convention(random)))
        questions = {form.format(key): value for key, value in pairs.items()}
        if by_place and random.random() < _BESIDE:
            questions = _about_neighbours(pairs) or questions
        for text in random.sample(list(questions), min(len(questions), count)):
            parts += _with_answer(f"question : {text} ? answer :", questions[text])
    else:
        parts.append(f"{listed} .")
        keys = list(pairs)
        for key in random.sample(keys, count) + random.sample(keys, count):
            parts += _with_answer(key, pairs[key])
    return tuple(parts)


def _with_answer(prompt: str, answer: str) -> Parts:
    """A prompt with its answer, whose loss weight may differ, and a full stop."""
    return (prompt, Answer(answer), ".")


def _about_neighbours(at: Mapping[str, str]) -> dict[str, str]:
    """All questions for a neighbour of a noun → answers; `at`: place → noun."""
    answers = {}
    for words, towards in NEIGHBOURS.items():
        for place, other in towards.items():
            noun = at.get(PLACES[place])
            neighbour = at.get(PLACES[other])
            if noun and neighbour:
                answers[f"what is {words} the {noun}"] = neighbour
    return answers


_NOUNS = SHAPES + SPARE_NOUNS + LETTERS
_BY_PLACE = 0.5
"""Probability that the keys are places and the values nouns, the look-up that is learned last."""
_BESIDE = 0.5
"""Probability that questions about places ask for neighbours instead."""
_ASSOCIATIONS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("what color is the {}", tuple(COLOURS) + SPARE_COLOURS),
    ("where is the {}", PLACES),
    ("what size is the {}", SIZES),
)
"""A question template and the values that answer it."""


def told_and_asked(random: Random, in_order: bool = False) -> Parts:
    """A scene in words, then as many different questions about it as a short row holds.

    Its things are in random order, or `in_order` of reading, as in captions.
    """
    voice = _full_voice(random)
    return _told_and_asked(random, voice if in_order else _in_any_order(voice), _COUNTS)


def plainly_told(random: Random) -> Parts:
    """A scene of few things in the wording of image text, then many questions: this teaches look-up by key."""
    plain = partial(_IN_FULL, convention=FIRST)
    voice = random.choice((plain, page_voice(random, complete=True)))
    return _told_and_asked(random, voice, _FEW, FIRST)


def _told_and_asked(
    random: Random, voice: Voice, counts: tuple[float, ...], convention: Convention | None = None
) -> Parts:
    """`convention`: of the answers; drawn if not given."""
    if convention is None:
        convention = draw_convention(random) if random.random() < _ANSWERED_OTHERWISE else FIRST
    kind, *others = _kinds(random, 6)
    if kind == "relation":
        counts = _CROWDED
    scene, first = _scene_for(random, kind, counts, spare=random.random() < 0.3)
    questions = [ask(random, scene, other) for other in others]
    parts = [voice(random, scene), *_answered(first, convention)]
    seen = {first.text}
    for question in questions:
        if question and question.text not in seen:
            seen.add(question.text)
            more = _answered(question, convention)
            if words_of(parts) + words_of(more) <= _SHORT_ROW:
                parts += more
    return tuple(parts)


def _kinds(random: Random, count: int) -> list[str]:
    return random.choices(list(_ASKED), list(_ASKED.values()), k=count)


def _in_any_order(voice: Voice) -> Voice:
    """`voice` with the things in random order. With reading order alone, a model could count instead of looking up."""

    def told(random: Random, scene: Scene) -> str:
        things = random.sample(scene.things, len(scene.things))
        return voice(random, replace(scene, things=tuple(things)))

    return told


def _sample(random: Random, **drawn: Any) -> Scene:
    """A training scene as only text has it: at all places, and with combinations that no picture shows."""
    return sample_scene(random, "train", places=_EVERYWHERE, novel=None, **drawn)


def words_of(parts: Sequence[Part]) -> int:
    return sum(len(str(part).split()) for part in parts)


def _scene_for(random: Random, kind: str, counts: tuple[float, ...], spare: bool = False) -> tuple[Scene, Asked]:
    """A scene that allows a question of `kind`, and that question."""
    letters = 1.0 if kind == "letter" else _LETTERED
    while True:
        scene = _sample(random, counts=counts, letters=letters, spare=spare)
        asked = ask(random, scene, kind)
        if asked is not None:
            return scene, asked


def many_shots(random: Random) -> Parts:
    """Few-shot format: up to nine scenes in one voice, each with a question, of one kind or of several.

    Answers keep one convention, whatever the scenes are told in, so that earlier answers show which words are wanted.
    """
    kinds = _kinds(random, random.choice((1, 4)))
    voice = _in_any_order(_full_voice(random))
    counts = random.choice(_SHOWN)
    convention = draw_convention(random)

    def shot() -> Parts:
        scene, asked = _scene_for(random, random.choice(kinds), counts)
        return (voice(random, scene), *_answered(asked, convention))

    return joined(shot, random.choice((3, 5, 7, 9, 9, 9)))


def joined(draw: Callable[[], Parts], count: int) -> Parts:
    """A document of up to `count` pieces, of which the first always fits."""
    parts: list[Part] = []
    words = 0
    for _ in range(count):
        piece = draw()
        words += words_of(piece)
        if parts and words > LONGEST:
            break
        parts += piece
    return tuple(parts)


def retold(random: Random, in_order: bool = False) -> Parts:
    """Scenes described twice, always in the same two voices; the second one is as in captions and pages.

    Things are in random order, or `in_order` of reading.
    """
    first = random.choice((inventory, _full_voice(random)))
    second = _second_voice(random)
    if not in_order:
        first, second = _in_any_order(first), _in_any_order(second)
    return _retold(random, first, second)


def compounds_and_retold(random: Random) -> Parts:
    """Like `retold`, but first in compound words."""
    return _retold(random, in_compounds, _in_any_order(_second_voice(random)))


def _second_voice(random: Random) -> Voice:
    """A voice as in captions and pages, which may omit things."""
    return random.choice((alt_text, _IN_FULL, _page_voice(random), _page_voice(random, True), telling))


def _retold(random: Random, first: Voice, second: Voice) -> Parts:
    def both() -> Parts:
        scene = _sample(random, counts=_RETOLD, spare=random.random() < 0.2)
        return first(random, scene), Answer(second(random, scene))

    return joined(both, random.choice((1, 1, 2, 4, 8)))


def _full_voice(random: Random) -> Voice:
    """A complete voice: half image text (alt-text and page prose in equal parts), half other wordings, of which half
    keep a convention."""
    if random.random() < 0.5:
        return image_voice(random)
    voice = random.choice((telling, dense_caption, inventory))
    return in_convention(voice, draw_convention(random)) if random.random() < 0.5 else voice


def _page_voice(random: Random, complete: bool = False) -> Voice:
    return in_convention(page_voice(random, complete), draw_convention(random))


def image_voice(random: Random) -> Voice:
    """A complete voice in the wording of image text."""
    return random.choice((_IN_FULL, _page_voice(random, True)))


def _answered(asked: Asked, convention: Convention) -> Parts:
    return _with_answer(asked.prompt, spoken(asked.answer, convention))


Weights = dict[Callable[[Random], Parts], float]
"""Makers of documents, with their sampling weights."""


def facts(random: Random) -> Parts:
    """Facts of the world that no picture shows, as statements or as questions with answers."""
    parts: list[Part] = []
    for _ in range(random.choice((1, 2, 3))):
        fact = draw_fact(random)
        is_stated = random.random() < 0.4
        parts += _with_answer(fact.statement, fact.ending) if is_stated else _with_answer(fact.prompt, fact.answer)
    return tuple(parts)


class Fact(NamedTuple):
    """A fact of the world that no picture shows: as a statement without its last word, a prompt, and a request."""

    statement: str
    ending: str
    """The statement's last word."""
    prompt: str
    request: str
    answer: str
    """The answer to the prompt and to the request."""


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
        parts += _with_answer(*sum_of_two(random))
    return tuple(parts)


def sum_of_two(random: Random) -> tuple[str, str]:
    first, second = random.randint(0, 9), random.randint(0, 9)
    if random.random() < 0.5:
        return f"{first} plus {second} equals", str(first + second)
    return f"{max(first, second)} minus {min(first, second)} equals", str(abs(first - second))


def pattern(random: Random) -> Parts:
    prompt, following = repetition(random)
    return _with_answer(prompt, following[0])


def repetition(random: Random) -> tuple[str, tuple[str, ...]]:
    """A repeating sequence of words as a prompt, and the next four words, as nothing tells where to stop."""
    pool = random.choice((LETTERS, SPARE_NOUNS, tuple(COLOURS), ANIMALS, SHAPES))
    unit = random.sample(pool, random.choice((2, 3)))
    length = random.randint(2 * len(unit) + 1, 4 * len(unit))
    words = [unit[place % len(unit)] for place in range(length + 4)]
    return f"say again : {' '.join(words[:length])}", tuple(words[length:])


def story(random: Random) -> Parts:
    return _with_answer(*handover(random))


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
    partial(_told_and_asked, voice=in_compounds, counts=_COUNTS): 3,
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
