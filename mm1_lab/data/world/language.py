"""Puts scenes into words: alt-text, dense captions, page prose, plain descriptions and reference captions.

Each style is a voice of its own. A thing's attributes stay within four words of its name, which these small models
need. The benchmarks' reference captions are whole sentences that no training text contains.
"""

from collections.abc import Callable
from random import Random

from mm1_lab.data.world.scenes import Scene, Thing
from mm1_lab.data.world.words import COMPOUNDS, PLACES

Voice = Callable[[Random, Scene], str]


def _phrase(thing: Thing, size: bool = True) -> str:
    return " ".join([thing.size] * size + [thing.colour, thing.name])


def alt_text(random: Random, scene: Scene, complete: bool = False) -> str:
    """A short caption with occasional junk words; unless `complete`, attributes and things may be missing."""
    size, place = complete or random.random() < 0.7, complete or random.random() < 0.8
    things = [t for t in scene.things if complete or random.random() < 0.9] or [random.choice(scene.things)]
    lead = random.choice(("", "", "", "photo : ", "picture of ", "stock image ", "img - "))
    return f"{lead}{' , '.join(_phrase(t, size) + f' {PLACES[t.place]}' * place for t in things)} ."


def dense_caption(random: Random, scene: Scene) -> str:
    """A long, accurate and complete caption."""
    sentences = [f"a {_phrase(thing)} is at {PLACES[thing.place]} ." for thing in scene.things]
    count = len(scene.things)
    total = "there is 1 thing ." if count == 1 else f"there are {count} things ."
    return " ".join([*sentences, total])


def page_voice(random: Random, interest: str | None = None) -> Voice:
    """Returns the voice of one page, which uses the same sentence frame and the same interest for all its pictures.

    `interest` is what the page reports about things: `all`, `count` or a key of `_STATEMENTS`; drawn if not given.
    """
    frame = random.choice(_FRAMES)
    interest = interest or random.choices(list(_INTERESTS), list(_INTERESTS.values()))[0]
    joint = random.choice((" and ", " with ", " , "))
    if interest == "all":
        return lambda random, scene: frame.format(
            joint.join(f"a {_phrase(thing)} at {PLACES[thing.place]}" for thing in scene.things)
        )
    lead = random.choice(("", "look : ", "here "))
    if interest == "count":
        return lambda random, scene: f"{lead}{len(scene.things)} {'thing' if len(scene.things) == 1 else 'things'} ."
    state = _STATEMENTS[interest]
    return lambda random, scene: f"{lead}{' and '.join(state(thing) for thing in scene.things)} ."


_FRAMES = ("here we see {} .", "this one has {} .", "look : {} .", "we found {} .", "it shows {} .", "{} .")
_STATEMENTS: dict[str, Callable[[Thing], str]] = {
    "colour": lambda thing: f"the {thing.name} is {thing.colour}",
    "place": lambda thing: f"the {thing.name} is at {PLACES[thing.place]}",
    "size": lambda thing: f"the {thing.name} is {thing.size}",
    "shape": lambda thing: f"at {PLACES[thing.place]} is the {thing.name}",
}
_INTERESTS = {"all": 5, "colour": 1, "place": 1, "size": 1, "shape": 1, "count": 1}
"""What pages report about things, with sampling weights."""


def telling(random: Random, scene: Scene) -> str:
    """Describes a scene in plain words, unlike any caption style."""
    style = random.randrange(3)
    things = random.sample(scene.things, len(scene.things))
    if style == 0:
        return " ".join(f"{t.name} {t.colour} {t.size} {PLACES[t.place]} ." for t in things)
    if style == 1:
        return " ".join(f"the {t.name} is {t.colour} {t.size} {PLACES[t.place]} ." for t in things)
    return " ".join(f"the {t.size} {t.colour} {t.name} {PLACES[t.place]} ." for t in things)


def inventory(random: Random, scene: Scene) -> str:
    """Lists all things in random order, each with its words in random order."""
    items = []
    for thing in scene.things:
        words = [thing.name, thing.colour, thing.size, PLACES[thing.place]]
        random.shuffle(words)
        items.append(" ".join(words))
    random.shuffle(items)
    return " ; ".join(items) + " ."


def in_compounds(random: Random, scene: Scene) -> str:
    """Lists all things, using compound words (see `words.COMPOUNDS`) where they exist."""
    whole, joint = random.random() < 0.5, random.choice((" , ", " ; ", " "))
    items, turned = [], random.random() < 0.5
    for thing in scene.things:
        place = PLACES[thing.place]
        words = [f"{thing.size}-{thing.colour}-{thing.name}", place]
        if not whole:
            words = [f"{thing.name}-{place}", thing.colour, thing.size]
        if words[0] not in _COMPOUNDS:
            words = [thing.name, thing.colour, thing.size, place]
        items.append(" ".join(reversed(words) if turned else words))
    random.shuffle(items)
    return joint.join(items) + " ."


_COMPOUNDS = frozenset(COMPOUNDS)


def in_other_words(text: str) -> str:
    """Replaces words by their synonyms: `large` by `big`, `top-left` by `upper-left` and so on."""
    return " ".join(_SYNONYMS.get(word, word) for word in text.split())


_SYNONYMS = {
    "large": "big",
    "small": "little",
    "top-left": "upper-left",
    "top-right": "upper-right",
    "center": "middle",
    "bottom-left": "lower-left",
    "bottom-right": "lower-right",
}


def references(random: Random, scene: Scene) -> tuple[str, ...]:
    """Five captions of the scene in the benchmarks' own style, by five different annotators, who omit details."""
    return tuple(hand(random, scene) for hand in random.sample(_HANDS, 5))


def _hand(opening: str, joint: str, thing: str, aside: str) -> Callable[[Random, Scene], str]:
    """An annotator who writes each thing as `thing`, sometimes adds `aside`, and may overlook one of several things."""

    def write(random: Random, scene: Scene) -> str:
        things = list(scene.things)
        if len(things) > 1 and random.random() < 0.2:
            things.remove(random.choice(things))
        form = f"{thing} {aside}" if aside and random.random() < 0.35 else thing
        said = [
            form.format(
                noun=t.name, colour=t.colour, size=in_other_words(t.size), place=in_other_words(PLACES[t.place])
            )
            for t in things
        ]
        return opening + joint.join(said)

    return write


_HANDS = (
    _hand("", " and ", "a {size} {colour} {noun}", "in the {place}"),
    _hand("", " next to ", "one {size} {colour} {noun}", "in the {place} corner"),
    _hand("there is ", " and ", "a {size} {colour} {noun}", "of the {place} corner"),
    _hand("", " and ", "a {colour} {noun}", ", {size}"),
    _hand("a picture with ", " beside ", "a {colour} {noun}", "that is {size}"),
    _hand("", " and ", "the {place} corner has a {colour} {noun}", ""),
    _hand("we see ", " and ", "one {colour} {noun}", "which is {size}"),
    _hand("", " with ", "the {size} {colour} {noun}", "on the {place}"),
)
