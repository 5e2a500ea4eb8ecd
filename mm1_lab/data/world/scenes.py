"""Scenes: which things are where. Other modules draw and describe them and ask questions about them.

A hash of its content assigns a scene to one split, so that no benchmark scene can occur in training, be it as a picture
or in words. Some of the 60 colour-shape combinations (`NOVEL`) are held out of all pictures but those of the benchmark
of novel combinations. Text does mention them, as a decoder cannot name what it has never read.
"""

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal, NamedTuple

from mm1_lab.data.world.words import COLOURS, CORNERS, LETTERS, SHAPES, SIZES, SPARE_COLOURS, SPARE_NOUNS

Split = Literal["train", "test"]

LETTERED = 0.35
"""Probability that a picture shows a letter; in a trial with more of them every score fell, as scenes lose shapes."""
_LETTERED_PAIRS = 0.8
"""The same for the encoder's pairs, so that training meets each letter often enough to tell it (results/LOG.md)."""
_TEST_SHARE = 8
"""One in this many scene contents belongs to the test split."""
_COLOURS = tuple(COLOURS)
NOVEL = frozenset(
    (colour, shape)
    for row, colour in enumerate(_COLOURS)
    for column, shape in enumerate(SHAPES)
    if (row + column) % 4 == 1 and (row * column) % 5 != 4
)
"""Colour-shape combinations that no training picture shows; training text mentions them like any other."""


def split_of(content: Iterable[Iterable[object]]) -> Split:
    """The split that a picture belongs to; `content` tells of each thing in it."""
    told = ";".join(",".join(map(str, thing)) for thing in content)
    return "test" if zlib.crc32(told.encode()) % _TEST_SHARE == 0 else "train"


class Thing(NamedTuple):
    """A coloured shape or letter in one of the four corners (in text documents also at the center)."""

    name: str
    """One of SHAPES or LETTERS (in text documents also of SPARE_NOUNS)."""
    colour: str
    size: str
    place: int
    """Index into PLACES."""

    @property
    def is_letter(self) -> bool:
        return self.name in LETTERS


@dataclass(frozen=True)
class Scene:
    """Things in reading order, with distinct names; `look` seeds background, jitter and noise."""

    things: tuple[Thing, ...]
    look: int = 0

    @property
    def split(self) -> Split:
        return split_of(self.things)

    @property
    def is_novel(self) -> bool:
        return any((thing.colour, thing.name) in NOVEL for thing in self.things)

    def at(self, place: int) -> Thing | None:
        return next((thing for thing in self.things if thing.place == place), None)


def sample_scene(
    random: Random,
    split: Split,
    *,
    counts: tuple[float, ...] = (0.3, 0.4, 0.3),
    letters: float = LETTERED,
    novel: bool | None = False,
    spare: bool = False,
    places: Sequence[int] = CORNERS,
    like: "Theme | None" = None,
) -> Scene:
    """Draws a scene of `split`.

    `counts`: odds of 1, 2, … things; `letters`: probability that one thing is a letter; `novel`: whether the scene must
    contain a held-out combination (None: either); `spare`: also use nouns and colours that occur only in text;
    `places`: allowed indices into PLACES; `like`: at least one thing must fit the theme.
    """
    nouns = SHAPES + SPARE_NOUNS if spare else SHAPES
    colours = _COLOURS + SPARE_COLOURS if spare else _COLOURS
    while True:
        count = random.choices(range(1, len(counts) + 1), counts)[0]
        names = _names(random, nouns, count, letters)
        free = random.sample(places, count)
        things = []
        for name, place in zip(names, free, strict=True):
            colour = colours[int(random.random() * len(colours))]
            size = SIZES[random.random() < 0.5]
            things.append(Thing(name, colour, size, place))
        if like is not None and not like.fits(things):
            things[0] = things[0]._replace(**{like.attribute: like.value})  # type: ignore[arg-type]
            if like.attribute == "place":
                things = [things[0], *(thing for thing in things[1:] if thing.place != like.value)]
        things.sort(key=lambda thing: thing.place)
        scene = Scene(tuple(things), look=random.getrandbits(30))
        if scene.split == split and novel in (None, scene.is_novel):
            return scene


def renamed(random: Random, scene: Scene) -> Scene:
    """A training scene with the colours and places of `scene`, but newly drawn names and sizes."""
    while True:
        names = _names(random, SHAPES, len(scene.things), _LETTERED_PAIRS)
        named = zip(scene.things, names, strict=True)
        things = tuple(thing._replace(name=name, size=random.choice(SIZES)) for thing, name in named)
        other = Scene(things, look=random.getrandbits(30))
        if other.split == "train" and not other.is_novel:
            return other


def _names(random: Random, nouns: tuple[str, ...], count: int, letters: float) -> list[str]:
    """Distinct names; with probability `letters`, one of them is a letter."""
    names = random.sample(nouns, count)
    if random.random() < letters:
        names[random.randrange(count)] = random.choice(LETTERS)
    return names


class Theme(NamedTuple):
    """What most pictures of a page have in common: one attribute of one thing."""

    attribute: str
    value: str | int

    def fits(self, things: Iterable[Thing]) -> bool:
        """Whether one of the things has it."""
        return any(getattr(thing, self.attribute) == self.value for thing in things)


def sample_theme(random: Random) -> Theme:
    values: dict[str, Sequence[str | int]] = {"name": SHAPES, "colour": _COLOURS, "size": SIZES, "place": CORNERS}
    attribute = random.choice(tuple(values))
    return Theme(attribute, random.choice(values[attribute]))
