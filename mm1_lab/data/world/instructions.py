"""The world's instruction sets: conversations about training pictures, as diverse as the paper's sets (section 5).

A turn is `tell : REQUEST . say :` followed by the answer, in wordings that no pre-training benchmark uses. A document
may have several turns. A request about a picture follows that picture.
"""

from collections.abc import Callable
from random import Random
from typing import NamedTuple

from mm1_lab.data.types import Answer, Document, Part, Picture
from mm1_lab.data.world.drawing import ScenePicture
from mm1_lab.data.world.posters import sample_chart, sample_poster
from mm1_lab.data.world.scenes import Scene, Split, sample_scene
from mm1_lab.data.world.text import Parts, draw_fact
from mm1_lab.data.world.words import ANIMALS, COLOURS, LETTERS, LIKED, OWNERS, PLACES, SHAPES, SIZES, TOWNS


class Turn(NamedTuple):
    request: str
    answer: str
    choices: tuple[str, ...] = ()
    """The answers to choose from, if the request offers any."""


Exchange = tuple[Picture, Turn]
Draw = Callable[[Random, Split], Parts]
_KINDS = (tuple(COLOURS), PLACES, SHAPES, LETTERS, ANIMALS, TOWNS)
"""Groups of words that answer the same kind of question."""


def prompt_of(request: str) -> str:
    return f"tell : {request} . say :"


def _conversation(picture: Picture | None, *turns: Turn) -> Parts:
    parts: list[Part] = [picture] if picture else []
    for turn in turns:
        parts += [prompt_of(turn.request), Answer(f"{turn.answer} .")]
    return tuple(parts)


def about_thing(random: Random, scene: Scene) -> Turn:
    """Asks for one attribute of one thing; the answer is one or two words."""
    thing = random.choice(scene.things)
    place = PLACES[thing.place]
    turns = (
        Turn(f"the color of the {thing.name}", thing.colour),
        Turn(f"the size of the {thing.name}", thing.size),
        Turn(f"where the {thing.name} stands", place),
        Turn(f"which thing is {place}", thing.name),
    )
    return random.choice(turns)


def offering(random: Random, turn: Turn) -> Turn:
    """The turn with three choices in random order, its answer and two others of the same group of `_KINDS`; the turn as
    it is, if its answer belongs to none."""
    for known in _KINDS:
        if turn.answer in known:
            others = [word for word in known if word != turn.answer]
            choices = [turn.answer, *random.sample(others, 2)]
            random.shuffle(choices)
            return Turn(f"{turn.request} : {' , '.join(choices)}", turn.answer, tuple(choices))
    return turn


def _sometimes_offering(random: Random, turn: Turn) -> Turn:
    return turn if random.random() < 0.5 else offering(random, turn)


def _doubting(random: Random, scene: Scene) -> Turn:
    """Asks whether a thing exists, or whether it has a given colour or size; half of the answers are no."""
    thing = random.choice(scene.things)
    is_true = random.random() < 0.5
    answer = "yes" if is_true else "no"
    if random.random() < 0.5:
        colour, shape = (thing.colour, thing.name) if is_true else random.choice(absent(scene))
        return Turn(f"is there a {colour} {shape}", answer)
    words = random.choice((tuple(COLOURS), SIZES))
    said = thing.colour if thing.colour in words else thing.size
    if not is_true:
        said = random.choice([word for word in words if word != said])
    return Turn(f"is the {thing.name} seen here {said}", answer)


def absent(scene: Scene, shapes: tuple[str, ...] = SHAPES) -> list[tuple[str, str]]:
    """All (colour, shape) combinations that do not occur in the scene."""
    shown = {(thing.colour, thing.name) for thing in scene.things}
    return [(colour, shape) for colour in COLOURS for shape in shapes if (colour, shape) not in shown]


def describing(random: Random, split: Split) -> Exchange:
    """Asks for a complete description, thing by thing."""
    scene = sample_scene(random, split)
    told = [f"{PLACES[thing.place]} a {thing.size} {thing.colour} {thing.name}" for thing in scene.things]
    answer = f"it shows {len(told)} : {' , '.join(told)}"
    return ScenePicture(scene), Turn("all that this image shows", answer)


def reading(random: Random, split: Split) -> Exchange:
    poster = sample_poster(random, split)
    place, letter, _ = random.choice(poster.letters)
    return poster, Turn(f"the letter printed {PLACES[place]}", letter)


def counting(random: Random, split: Split) -> Exchange:
    chart = sample_chart(random, split)
    colour, count = random.choice(chart.bars)
    return chart, Turn(f"the count of {colour}", str(count))


def adding(random: Random, split: Split) -> Exchange:
    """Asks for the sum of a chart's two bars; the answer shows its working first."""
    chart = sample_chart(random, split)
    (first, one), (second, other) = random.sample(chart.bars, 2)
    total = one + other
    worked = f"{first} is {one} . {second} is {other} . {one} plus {other} equals {total}"
    return chart, Turn(f"the total of {first} and {second}", f"{worked} . the answer is {total}")


def knowing(random: Random, split: Split) -> Exchange:
    """What only text states."""
    scene = sample_scene(random, split, counts=(1.0,), letters=0.0)
    thing = scene.things[0]
    if random.random() < 0.5:
        turn = Turn("the animal that owns this", OWNERS[thing.name])
    else:
        turn = Turn("the town that likes this color", LIKED[thing.colour])
    return ScenePicture(scene), turn


def _short_answers(random: Random, split: Split) -> Parts:
    """Questions answered in a word or two, by one of the choices offered, or by yes or no."""
    scene = sample_scene(random, split)
    ask = _doubting if random.random() < 0.5 else about_thing
    return _conversation(ScenePicture(scene), _sometimes_offering(random, ask(random, scene)))


def _single(ask: Callable[[Random, Split], Exchange]) -> Draw:
    return lambda random, split: _conversation(*ask(random, split))


_charts = _single(counting)
_solutions = _single(adding)


def _knowledge(random: Random, split: Split) -> Parts:
    picture, turn = knowing(random, split)
    return _conversation(picture, _sometimes_offering(random, turn))


def _conversations(random: Random, split: Split) -> Parts:
    """Two to four turns, either all about one picture or each with a picture of its own, as in other sets."""
    count = random.choice((2, 3, 4))
    if random.random() < 0.5:
        parts: list[Part] = []
        for draw in random.choices((_short_answers, _charts, _solutions), k=count):
            parts += draw(random, split)
        return tuple(parts)
    scene = sample_scene(random, split, counts=(0, 0.5, 0.5))
    turns = [about_thing(random, scene) for _ in range(count)]
    return _conversation(ScenePicture(scene), *turns)


def _text(random: Random, split: Split) -> Parts:
    """Facts and sums, without pictures."""
    if random.random() < 0.5:
        one, other = random.randint(1, 9), random.randint(1, 9)
        return _conversation(None, Turn(f"the total of {one} and {other}", str(one + other)))
    fact = draw_fact(random)
    return _conversation(None, Turn(fact.request, fact.answer))


SETS: dict[str, Draw] = {
    "short-answers": _short_answers,
    "descriptions": _single(describing),
    "reading": _single(reading),
    "charts": _charts,
    "knowledge": _knowledge,
    "conversations": _conversations,
    "solutions": _solutions,
    "text": _text,
}
"""Keyed by the names in `mm1_lab.config.recipe.INSTRUCTIONS`."""


class InstructionSource(NamedTuple):
    """An infinite instruction set: conversation i is a pure function of (seed, set, i)."""

    name: str
    seed: int

    def document(self, index: int) -> Document:
        random = Random(f"{self.seed}/{self.name}/{index}")
        return Document(f"{self.name}/{index}", SETS[self.name](random, "train"))

    def epochs(self, conversations: int) -> float:
        return 0.0
