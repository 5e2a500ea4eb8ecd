"""Questions about scenes, with answers. Benchmarks ask them about pictures, text documents about scenes in words."""

from collections.abc import Callable, Mapping
from random import Random
from typing import NamedTuple

from mm1_lab.data.world.language import Convention, spoken
from mm1_lab.data.world.scenes import Scene, Thing
from mm1_lab.data.world.words import COLOURS, LETTERS, LIKED, NEIGHBOURS, OWNERS, PLACES, SHAPES, SIZES


class Asked(NamedTuple):
    """A question about one scene."""

    text: str
    answer: str
    choices: tuple[str, ...]
    """Plausible answers, from which a careless annotator picks a wrong one."""

    @property
    def prompt(self) -> str:
        return f"question : {self.text} ? answer :"


Maker = Callable[[Random, Scene], Asked | None]
"""Returns None if the scene does not allow such a question."""


def _of_thing(ask: Callable[[Thing], Asked | None]) -> Maker:
    return lambda random, scene: ask(random.choice(scene.things))


def _shape(thing: Thing) -> Asked | None:
    if thing.is_letter:
        return None
    return Asked(f"what is at {PLACES[thing.place]}", thing.name, SHAPES)


def _relation(random: Random, scene: Scene) -> Asked | None:
    """Asks which shape is next to a thing that is identified by all its attributes."""
    pairs = []
    for thing in scene.things:
        for words, towards in NEIGHBOURS.items():
            other = scene.at(towards.get(thing.place, -1))
            if other and not other.is_letter:
                pairs.append((words, thing, other))
    if not pairs:
        return None
    words, thing, other = random.choice(pairs)
    text = f"what is {words} the {thing.size} {thing.colour} {thing.name}"
    return Asked(text, other.name, SHAPES)


def _letter(random: Random, scene: Scene) -> Asked | None:
    letters = [thing for thing in scene.things if thing.is_letter]
    if not letters:
        return None
    return Asked(f"what is written at {PLACES[letters[0].place]}", letters[0].name, LETTERS)


def _fact(text: str, seen: str, facts: Mapping[str, str]) -> Asked | None:
    """Requires a fact stated only in text. The answer names what is seen first, then the fact about it."""
    if seen not in facts:
        return None
    choices = tuple(f"{key} {fact}" for key, fact in facts.items())
    return Asked(text, f"{seen} {facts[seen]}", choices)


KINDS: dict[str, Maker] = {
    "colour": _of_thing(lambda thing: Asked(f"what color is the {thing.name}", thing.colour, tuple(COLOURS))),
    "shape": _of_thing(_shape),
    "place": _of_thing(lambda thing: Asked(f"where is the {thing.name}", PLACES[thing.place], PLACES)),
    "size": _of_thing(lambda thing: Asked(f"what size is the {thing.name}", thing.size, SIZES)),
    "relation": _relation,
    "letter": _letter,
    "owner": _of_thing(lambda thing: _fact(f"who owns what is at {PLACES[thing.place]}", thing.name, OWNERS)),
    "town": _of_thing(lambda thing: _fact(f"which town likes the color of the {thing.name}", thing.colour, LIKED)),
}


def ask(random: Random, scene: Scene, kind: str) -> Asked | None:
    return KINDS[kind](random, scene)


def answered_in(asked: Asked, convention: Convention) -> Asked:
    """The question itself stays in first words."""
    choices = tuple(spoken(choice, convention) for choice in asked.choices)
    return asked._replace(answer=spoken(asked.answer, convention), choices=choices)
