"""Questions about scenes, with their answers. The same forms are asked of pictures (benchmarks) and of words (text)."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

from mm1_lab.data.world.language import in_other_words, noun
from mm1_lab.data.world.scenes import Scene
from mm1_lab.data.world.words import (
    COLOURS,
    LETTERS,
    LIKED,
    NEIGHBOURS,
    OWNERS,
    PLACES,
    SHAPES,
    SIZES,
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
    return Asked("shape", f"what is at {PLACES[thing.place]}", thing.name, SHAPES)


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


def _relation(random: Random, scene: Scene) -> Asked | None:
    """What stands beside a thing that is named by all its attributes."""
    pairs = [
        (words, thing, other)
        for thing in scene.things
        for words, towards in NEIGHBOURS.items()
        if (other := scene.at(towards.get(thing.place, -1))) and not other.is_letter
    ]
    if not pairs:
        return None
    words, thing, other = random.choice(pairs)
    text = f"what is {words} the {thing.size} {thing.colour} {noun(thing)}"
    return Asked("relation", text, other.name, SHAPES)


def _letter(random: Random, scene: Scene) -> Asked | None:
    letters = [thing for thing in scene.things if thing.is_letter]
    if not letters:
        return None
    return Asked("letter", f"what is written at {PLACES[letters[0].place]}", letters[0].name, LETTERS)


def _owner(random: Random, scene: Scene) -> Asked | None:
    """Needs a fact that only text states. The answer says what was seen first, then what is known of it."""
    thing = random.choice(scene.things)
    if thing.name not in OWNERS:
        return None
    choices = tuple(f"{shape} {animal}" for shape, animal in OWNERS.items())
    text = f"who owns what is at {PLACES[thing.place]}"
    return Asked("owner", text, f"{thing.name} {OWNERS[thing.name]}", choices)


def _town(random: Random, scene: Scene) -> Asked | None:
    """Needs a fact that only text states; as `_owner`."""
    thing = random.choice(scene.things)
    if thing.colour not in LIKED:
        return None
    choices = tuple(f"{colour} {town}" for colour, town in LIKED.items())
    text = f"which town likes the color of the {noun(thing)}"
    return Asked("town", text, f"{thing.colour} {LIKED[thing.colour]}", choices)


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


ANSWERED_OTHERWISE = ("size",)
"""Kinds whose answers have two vocabularies, of which demonstrations alone tell which is wanted."""


def answered_otherwise(asked: Asked) -> Asked:
    """The same question where its kind is answered in the other vocabulary: big for large."""
    if asked.kind not in ANSWERED_OTHERWISE:
        return asked
    return replace(asked, answer=in_other_words(asked.answer), choices=tuple(map(in_other_words, asked.choices)))
