"""How scenes are put into words: alt-text, dense captions, prose of pages, plain tellings, and reference captions.

Each style is a different voice. References (a benchmark's) use wordings that no training text uses as a whole.
"""

from collections.abc import Callable
from random import Random

from mm1_lab.data.world.scenes import Scene, Thing
from mm1_lab.data.world.words import PLACES

Voice = Callable[[Random, Scene], str]


def noun(thing: Thing) -> str:
    return f"letter {thing.name}" if thing.is_letter else thing.name


def _phrase(thing: Thing, size: bool = True, colour: bool = True) -> str:
    words = [thing.size] * size + [thing.colour] * colour + [noun(thing)]
    return " ".join(words)


def alt_text(random: Random, scene: Scene, complete: bool = False) -> str:
    """Short, noisy and, unless `complete`, with attributes and things left out; some words are junk."""
    size, place = complete or random.random() < 0.6, complete or random.random() < 0.7
    things = [t for t in scene.things if complete or random.random() < 0.85] or [random.choice(scene.things)]
    texts = [_phrase(thing, size) + (f" {PLACES[thing.place]}" if place else "") for thing in things]
    lead = random.choice(("", "", "", "photo : ", "picture of ", "stock image ", "img - "))
    return f"{lead}{' , '.join(texts)} ."


def dense_caption(random: Random, scene: Scene) -> str:
    """Long, accurate, complete."""
    sentences = [f"a {_phrase(thing)} is at the {PLACES[thing.place]} ." for thing in scene.things]
    count = len(scene.things)
    total = "there is 1 thing ." if count == 1 else f"there are {count} things ."
    return " ".join([*sentences, total])


def page_voice(random: Random, interest: str | None = None) -> Voice:
    """The way in which one page speaks of its pictures: a page keeps its frame and its interest throughout.

    `interest`: all, or a key of _STATEMENTS; drawn if not given.
    """
    frame = random.choice(_FRAMES)
    interest = interest or random.choices(list(_INTERESTS), list(_INTERESTS.values()))[0]
    joint = random.choice((" and ", " with ", " , "))
    if interest == "all":
        return lambda random, scene: frame.format(
            joint.join(f"a {_phrase(thing)} at the {PLACES[thing.place]}" for thing in scene.things)
        )
    lead = random.choice(("", "look : ", "here "))
    if interest == "count":
        return lambda random, scene: f"{lead}{len(scene.things)} {'thing' if len(scene.things) == 1 else 'things'} ."
    state = _STATEMENTS[interest]
    return lambda random, scene: f"{lead}{' and '.join(state(thing) for thing in scene.things)} ."


_FRAMES = ("here we see {} .", "this one has {} .", "look : {} .", "we found {} .", "it shows {} .", "{} .")
_STATEMENTS: dict[str, Callable[[Thing], str]] = {
    "colour": lambda thing: f"the {noun(thing)} is {thing.colour}",
    "place": lambda thing: f"the {noun(thing)} is at the {PLACES[thing.place]}",
    "size": lambda thing: f"the {noun(thing)} is {thing.size}",
    "shape": lambda thing: f"at the {PLACES[thing.place]} is the {noun(thing)}",
}
_INTERESTS = {"all": 3, "colour": 2, "place": 2, "size": 2, "shape": 2, "count": 1}
"""What pages care about, and how often."""


def telling(random: Random, scene: Scene) -> str:
    """A scene in plain words that are nobody's caption."""
    style = random.randrange(3)
    things = list(scene.things)
    random.shuffle(things)
    if style == 0:
        return " ".join(f"{noun(t)} : {t.colour} {t.size} {PLACES[t.place]} ." for t in things)
    if style == 1:
        return " ".join(f"the {noun(t)} is {t.colour} and {t.size} and stands {PLACES[t.place]} ." for t in things)
    return " ".join(f"{PLACES[t.place]} we have the {t.size} {t.colour} {noun(t)} ." for t in things)


def in_other_words(text: str) -> str:
    """`text` with big and little for large and small, upper and lower for top and bottom."""
    return " ".join(_SYNONYMS.get(word, word) for word in text.split())


_SYNONYMS = {"large": "big", "small": "little", "top": "upper", "bottom": "lower"}


def references(scene: Scene) -> tuple[str, ...]:
    """Five captions of the scene by five hands, in the benchmarks' own style."""
    return tuple(hand(scene) for hand in _HANDS)


def _in_the(thing: Thing) -> str:
    return f"in the {PLACES[thing.place]}"


_HANDS: tuple[Callable[[Scene], str], ...] = (
    lambda scene: in_other_words(" and ".join(f"a {_phrase(t)} {_in_the(t)}" for t in scene.things)),
    lambda scene: in_other_words("there is " + " and ".join(f"a {_phrase(t)}" for t in scene.things)),
    lambda scene: " and ".join(f"the {PLACES[t.place]} has a {_phrase(t)}" for t in scene.things),
    lambda scene: " next to ".join(f"one {_phrase(t)}" for t in scene.things),
    lambda scene: "we see the " + " and the ".join(f"{_phrase(t, size=False)} {_in_the(t)}" for t in scene.things),
)
