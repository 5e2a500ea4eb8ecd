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

    `interest`: all, colour, place or size; drawn if not given.
    """
    frame = random.choice(_PAGE_FRAMES)
    interest = interest or random.choices(("all", "colour", "place", "size"), (6, 1, 1, 1))[0]
    joint = random.choice((" and ", " with ", " , "))

    def speak(random: Random, scene: Scene) -> str:
        texts = []
        for thing in scene.things:
            name = noun(thing)
            if interest == "colour":
                texts.append(f"the {name} is {thing.colour}")
            elif interest == "place":
                texts.append(f"the {name} at the {PLACES[thing.place]}")
            elif interest == "size":
                texts.append(f"the {name} is {thing.size}")
            else:
                texts.append(f"a {_phrase(thing)} at the {PLACES[thing.place]}")
        return frame.format(joint.join(texts))

    return speak


_PAGE_FRAMES = ("here we see {} .", "this one has {} .", "look : {} .", "we found {} .", "it shows {} .", "{} .")


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
