"""Text without pictures: scenes told and asked about, facts, arithmetic, patterns, copying, stories.

It is what the decoder is pre-trained on and what the mixture's text-only rows hold. Scenes are told half in the wording
of image text (alt-text and the prose of pages in equal parts) and half in plain words; only here do questions stand
beside their answers. The decoder's pre-training begins with bare pairs, which teach it to look things up by key.
"""

from collections.abc import Callable
from random import Random

from mm1_lab.data.types import Answer, Part
from mm1_lab.data.world.language import (
    Voice,
    alt_text,
    dense_caption,
    in_other_words,
    inventory,
    page_voice,
    telling,
)
from mm1_lab.data.world.questions import Asked, ask
from mm1_lab.data.world.scenes import NOVEL, Scene, sample_scene
from mm1_lab.data.world.words import (
    ANIMALS,
    COLOURS,
    LETTERS,
    LIKED,
    OWNERS,
    PLACES,
    SHAPES,
    SIZES,
    SPARE_COLOURS,
    SPARE_NOUNS,
    TOWNS,
)

Parts = tuple[Part, ...]

_LONGEST = 250
"""Words of a document at most, so that it fits a row of 256."""
_TEXT_COUNTS = (0.15, 0.35, 0.5)
_ASKED = {
    "colour": 3,
    "shape": 3,
    "place": 3,
    "size": 2,
    "count": 1,
    "yes-no": 3,
    "relation": 3,
    "letter": 1,
    "owner": 1,
    "town": 1,
}
"""How often each kind is asked; the hard ones more."""


def bare_pairs(random: Random) -> Parts:
    """`circle red , square blue . square blue .`: keys with values, then some keys again, alone or in a question."""
    nouns = [
        f"letter {name}" if name in LETTERS else name for name in random.sample(_NOUNS, random.choice((2, 3, 3, 4)))
    ]
    form, values = random.choice(_ASSOCIATIONS)
    if values:
        pairs = [(name, random.choice([v for v in values if (v, name) not in NOVEL])) for name in nouns]
    else:
        pairs = list(zip(random.sample(PLACES, len(nouns)), nouns, strict=True))
    parts: list[Part] = [" , ".join(f"{key} {value}" for key, value in pairs) + " ."]
    asked, doubted = random.random() < 0.5, random.random() < 0.3
    for key, value in random.sample(pairs, min(len(pairs), random.choice((1, 2, 3)))):
        if asked and doubted and values:
            others = [other for other in values if other != value and (other, key) not in NOVEL]
            said = random.choice([value, random.choice(others)])
            parts += [f"question : is the {key} {said} ? answer :", Answer("yes" if said == value else "no"), "."]
        else:
            parts += [f"question : {form.format(key)} ? answer :" if asked else key, Answer(value), "."]
    return tuple(parts)


_NOUNS = SHAPES + SPARE_NOUNS + LETTERS
_ASSOCIATIONS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("what color is the {}", tuple(COLOURS) + SPARE_COLOURS),
    ("where is the {}", PLACES),
    ("what size is the {}", SIZES),
    ("what is at the {}", ()),
)
"""A question's form, and the values that it asks for; none: places are the keys, and nouns the values."""


def told_and_asked(random: Random) -> Parts:
    """A scene in words, then one to three questions about it."""
    scene = sample_scene(random, "train", counts=_TEXT_COUNTS, spare=random.random() < 0.3)
    kinds = random.choices(list(_ASKED), list(_ASKED.values()), k=random.choice((1, 2, 3, 3)))
    return (_tell(random, scene), *(part for kind in kinds for part in _answered(ask(random, scene, kind))))


def many_shots(random: Random) -> Parts:
    """Up to nine scenes in words in one voice, each with a question, of one kind or of several: the few-shot form."""
    kinds = random.choices(list(_ASKED), list(_ASKED.values()), k=random.choice((1, 4)))
    voice = _full_voice(random)
    parts: list[Part] = []
    words = 0
    for _ in range(random.randint(3, 9)):
        asked, kind = None, random.choice(kinds)
        while asked is None:
            scene = sample_scene(random, "train", counts=(0.6, 0.4), letters=1.0 if kind == "letter" else 0.15)
            asked = ask(random, scene, kind)
        shot = [voice(random, scene), *_answered(asked)]
        words += sum(len(str(part).split()) for part in shot)
        if words > _LONGEST:
            break
        parts += shot
    return tuple(parts)


def retold(random: Random) -> Parts:
    """Scenes told twice, as captions and pages tell of pictures: in two voices, the same two throughout."""
    first = random.choice((inventory, _full_voice(random)))
    second = random.choice((alt_text, alt_text_in_full, page_voice(random), page_voice(random, "all"), telling))
    changed = random.random() < 0.2
    parts: list[Part] = []
    words = 0
    for _ in range(random.choice((1, 1, 2, 4, 8))):
        scene = sample_scene(random, "train", counts=(0.4, 0.4, 0.2), spare=random.random() < 0.2)
        told, again = first(random, scene), second(random, scene)
        again = in_other_words(again) if changed else again
        words += len(told.split()) + len(again.split())
        if parts and words > _LONGEST:
            break
        parts += [told, Answer(again)]
    return tuple(parts)


def facts(random: Random) -> Parts:
    """What the world's text knows and no picture shows, stated and asked."""
    parts: list[Part] = []
    for _ in range(random.choice((1, 2, 3))):
        if random.random() < 0.5:
            shape, animal = random.choice(list(OWNERS.items()))
            parts += _fact(random, f"the {animal} owns the", shape, f"which animal owns the {shape}", animal)
        else:
            colour, town = random.choice(list(LIKED.items()))
            parts += _fact(random, f"{town} likes", colour, f"which town likes {colour}", town)
    return tuple(parts)


def _fact(random: Random, statement: str, ending: str, question: str, answer: str) -> list[Part]:
    if random.random() < 0.4:
        return [statement, Answer(ending), "."]
    return [f"question : {question} ? answer :", Answer(answer), "."]


def arithmetic(random: Random) -> Parts:
    """Sums and differences of one-digit numbers, in a row."""
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
    """A few words that come again and again."""
    prompt, following = repetition(random)
    return (prompt, Answer(following[0]), ".")


def repetition(random: Random) -> tuple[str, tuple[str, ...]]:
    """Words that come again and again, and the four that come next: nothing says where a pattern ends."""
    pool = random.choice((LETTERS, SPARE_NOUNS, tuple(COLOURS), ANIMALS, SHAPES))
    unit = random.sample(pool, random.choice((2, 3)))
    length = random.randint(2 * len(unit) + 1, 4 * len(unit))
    words = [unit[place % len(unit)] for place in range(length + 4)]
    return f"say again : {' '.join(words[:length])}", tuple(words[length:])


def story(random: Random) -> Parts:
    """Who has what, and who gave it to whom."""
    prompt, answer = handover(random)
    return (prompt, Answer(answer), ".")


def handover(random: Random) -> tuple[str, str]:
    """A story of three sentences, cut before its last word, with that word."""
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


def medley(random: Random) -> Parts:
    """Short documents of several kinds in one."""
    parts: list[Part] = []
    words = 0
    for _ in range(random.randint(3, 10)):
        piece = random.choices(list(_SHORT), list(_SHORT.values()))[0](random)
        words += sum(len(str(part).split()) for part in piece)
        if words > _LONGEST:
            break
        parts += piece
    return tuple(parts)


_SHORT: dict[Callable[[Random], Parts], float] = {
    told_and_asked: 2,
    retold: 2,
    facts: 1,
    arithmetic: 1,
    pattern: 1,
    story: 1,
}
_DOCUMENTS: dict[Callable[[Random], Parts], float] = {
    told_and_asked: 9,
    many_shots: 4,
    medley: 2,
    retold: 8,
    facts: 2,
    arithmetic: 1.5,
    pattern: 2.5,
    story: 1.5,
}


def text_document(random: Random, long: bool = True) -> Parts:
    """A document of the text-only kind; `long` ones hold many shots or many kinds too."""
    makers = {maker: weight for maker, weight in _DOCUMENTS.items() if long or maker not in (many_shots, medley)}
    return random.choices(list(makers), list(makers.values()))[0](random)


def pretraining_document(random: Random, progress: float) -> Parts:
    """A document of the decoder's curriculum: bare pairs first, then scenes and everything else."""
    share = 0.9 if progress < 0.05 else 0.5 if progress < 0.12 else 0.15 if progress < 0.35 else 0.05
    if random.random() < share:
        return bare_pairs(random)
    return text_document(random, long=progress > 0.8)


def _tell(random: Random, scene: Scene) -> str:
    return _full_voice(random)(random, scene)


def _full_voice(random: Random) -> Voice:
    """Half image text (alt-text and page prose in equal parts), half other words."""
    if random.random() < 0.5:
        return random.choice((alt_text_in_full, page_voice(random, interest="all")))
    return random.choice((telling, dense_caption, inventory, inventory))


def alt_text_in_full(random: Random, scene: Scene) -> str:
    """Alt-text that leaves nothing out, so that it can be asked about."""
    return alt_text(random, scene, complete=True)


def _answered(asked: Asked | None) -> Parts:
    return () if asked is None else (asked.prompt, Answer(asked.answer), ".")
