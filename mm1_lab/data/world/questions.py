"""Questions about scenes, with their answers. The same forms are asked of pictures (benchmarks) and of words (text)."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from mm1_lab.data.world.language import noun
from mm1_lab.data.world.scenes import Scene, Thing
from mm1_lab.data.world.words import (
    ANIMALS,
    COLOURS,
    LETTERS,
    LIKED,
    OWNERS,
    PLACES,
    SHAPES,
    SIZES,
    TOWNS,
)


@dataclass(frozen=True, slots=True)
class Asked:
    """A question about one scene."""

    kind: str
    text: str
    answer: str
    choices: tuple[str, ...]
    """What else might have been said: the wrong answers of a careless annotator."""

    @property
    def prompt(self) -> str:
        return f"question : {self.text} ? answer :"


Maker = Callable[[Random, Scene], Asked | None]
"""None where the scene does not allow such a question."""


def _colour(random: Random, scene: Scene) -> Asked | None:
    thing = random.choice(scene.things)
    return Asked("colour", f"what color is the {noun(thing)}", thing.colour, tuple(COLOURS))


def _shape(random: Random, scene: Scene) -> Asked | None:
    thing = random.choice(scene.things)
    if thing.is_letter:
        return None
    return Asked("shape", f"what is at the {PLACES[thing.place]}", thing.name, SHAPES)


def _place(random: Random, scene: Scene) -> Asked | None:
    thing = random.choice(scene.things)
    return Asked("place", f"where is the {noun(thing)}", PLACES[thing.place], PLACES)


def _size(random: Random, scene: Scene) -> Asked | None:
    thing = random.choice(scene.things)
    return Asked("size", f"what size is the {noun(thing)}", thing.size, SIZES)


def _count(random: Random, scene: Scene) -> Asked | None:
    return Asked("count", "how many things are there", str(len(scene.things)), ("1", "2", "3"))


def _yes_no(random: Random, scene: Scene) -> Asked | None:
    thing = random.choice(scene.things)
    if random.random() < 0.5:
        return Asked("yes-no", f"is the {noun(thing)} {thing.colour}", "yes", ("yes", "no"))
    other = random.choice([colour for colour in COLOURS if colour != thing.colour])
    return Asked("yes-no", f"is the {noun(thing)} {other}", "no", ("yes", "no"))


_STEPS = {"left of": -1, "right of": 1, "above": -2, "below": 2}


def _relation(random: Random, scene: Scene) -> Asked | None:
    """What stands beside a thing that is named by all its attributes."""
    pairs = [
        (words, thing, other)
        for thing in scene.things
        for words, step in _STEPS.items()
        if (other := scene.at(thing.place + step)) and _beside(thing, other, step) and not other.is_letter
    ]
    if not pairs:
        return None
    words, thing, other = random.choice(pairs)
    text = f"what is {words} the {thing.size} {thing.colour} {noun(thing)}"
    return Asked("relation", text, other.name, SHAPES)


def _beside(thing: Thing, other: Thing, step: int) -> bool:
    return abs(step) == 2 or thing.place // 2 == other.place // 2


def _letter(random: Random, scene: Scene) -> Asked | None:
    letters = [thing for thing in scene.things if thing.is_letter]
    return Asked("letter", "which letter is written", letters[0].name, LETTERS) if letters else None


def _owner(random: Random, scene: Scene) -> Asked | None:
    """Needs a fact that only text states."""
    thing = scene.things[0]
    if len(scene.things) > 1 or thing.name not in OWNERS:
        return None
    return Asked("owner", "which animal owns the shape", OWNERS[thing.name], ANIMALS)


def _town(random: Random, scene: Scene) -> Asked | None:
    """Needs a fact that only text states."""
    thing = scene.things[0]
    if len(scene.things) > 1 or thing.colour not in LIKED:
        return None
    return Asked("town", "which town likes the color", LIKED[thing.colour], TOWNS)


KINDS: dict[str, Maker] = {
    "colour": _colour,
    "shape": _shape,
    "place": _place,
    "size": _size,
    "count": _count,
    "yes-no": _yes_no,
    "relation": _relation,
    "letter": _letter,
    "owner": _owner,
    "town": _town,
}


def ask(random: Random, scene: Scene, kind: str) -> Asked | None:
    """A question of `kind` about the scene, or None where the scene does not allow one."""
    return KINDS[kind](random, scene)
