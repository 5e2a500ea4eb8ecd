"""The world's instruction sets: conversations about training pictures, as diverse as the paper's sets (section 5).

A turn is `tell : REQUEST . say :` followed by the answer, in wordings that no pre-training benchmark uses. A document
may have several turns. A request about a picture follows that picture.
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from mm1_lab.data.types import Answer, Document, Part
from mm1_lab.data.world.drawing import ScenePicture
from mm1_lab.data.world.posters import Bars, sample_chart, sample_poster
from mm1_lab.data.world.scenes import Scene, Split, Thing, sample_scene
from mm1_lab.data.world.text import draw_fact
from mm1_lab.data.world.words import ANIMALS, COLOURS, LETTERS, LIKED, OWNERS, PLACES, SHAPES, SIZES, TOWNS


@dataclass(frozen=True, slots=True)
class Turn:
    """A request and its answer."""

    request: str
    answer: str
    choices: tuple[str, ...] = ()
    """The answers to choose from, if the request offers any."""


Make = Callable[[Random, Split], tuple[Part, ...]]
"""Draws a conversation."""
_KINDS = (tuple(COLOURS), PLACES, SHAPES, LETTERS, ANIMALS, TOWNS)
"""Groups of words that answer the same kind of question."""


def prompt_of(request: str) -> str:
    """The prompt that the model reads for a request."""
    return f"tell : {request} . say :"


def conversation(*turns: Turn) -> tuple[Part, ...]:
    return tuple(part for turn in turns for part in (prompt_of(turn.request), Answer(f"{turn.answer} .")))


def about_thing(random: Random, scene: Scene) -> Turn:
    """Asks for one attribute of one thing; the answer is one or two words."""
    thing = random.choice(scene.things)
    kind = random.choice(("color", "size", "where", "shape"))
    if kind == "color":
        return Turn(f"the color of the {thing.name}", thing.colour)
    if kind == "size":
        return Turn(f"the size of the {thing.name}", thing.size)
    if kind == "where":
        return Turn(f"where the {thing.name} stands", PLACES[thing.place])
    return Turn(f"which thing is {PLACES[thing.place]}", thing.name)


def offering(random: Random, turn: Turn) -> Turn:
    """The turn with three answers to choose from, if its answer belongs to a group of `_KINDS`."""
    known = next((words for words in _KINDS if turn.answer in words), ())
    return offered(random, turn.request, turn.answer, known) if known else turn


def offered(random: Random, request: str, right: str, known: tuple[str, ...]) -> Turn:
    """The request with three choices in random order: the right answer and two others from `known`."""
    choices = [right, *random.sample([other for other in known if other != right], 2)]
    random.shuffle(choices)
    return Turn(f"{request} : {' , '.join(choices)}", right, tuple(choices))


def doubting(random: Random, scene: Scene) -> Turn:
    """Asks whether a thing exists, or whether it has a given colour or size; half of the answers are no."""
    thing, true = random.choice(scene.things), random.random() < 0.5
    if random.random() < 0.5:
        colour, shape = (thing.colour, thing.name) if true else random.choice(absent(scene))
        return Turn(f"is there a {colour} {shape}", "yes" if true else "no")
    asked = random.choice((tuple(COLOURS), SIZES))
    fact = thing.colour if thing.colour in asked else thing.size
    said = fact if true else random.choice([other for other in asked if other != fact])
    return Turn(f"is the {thing.name} seen here {said}", "yes" if true else "no")


def absent(scene: Scene, shapes: tuple[str, ...] = SHAPES) -> list[tuple[str, str]]:
    """All (colour, shape) combinations that do not occur in the scene."""
    shown = {(thing.colour, thing.name) for thing in scene.things}
    return [(colour, shape) for colour in COLOURS for shape in shapes if (colour, shape) not in shown]


def describing(scene: Scene) -> Turn:
    """Asks for a complete description, thing by thing."""
    said = " , ".join(f"{PLACES[thing.place]} a {thing.size} {thing.colour} {thing.name}" for thing in scene.things)
    return Turn("all that this image shows", f"it shows {len(scene.things)} : {said}")


def reading_poster(random: Random, poster_letters: tuple[tuple[int, str, str], ...]) -> Turn:
    place, letter, _ = random.choice(poster_letters)
    return Turn(f"the letter printed {PLACES[place]}", letter)


def counting_bars(random: Random, bars: Bars) -> Turn:
    colour, count = random.choice(bars)
    return Turn(f"the count of {colour}", str(count))


def knowing(random: Random, thing: Thing) -> Turn:
    """Asks for something that requires a fact stated only in text."""
    if random.random() < 0.5 and thing.name in OWNERS:
        return Turn("the animal that owns this", OWNERS[thing.name])
    return Turn("the town that likes this color", LIKED[thing.colour])


def adding_bars(random: Random, bars: Bars) -> Turn:
    """Asks for the sum of two bars; the answer shows its working first."""
    (first, one), (second, other) = random.sample(bars, 2)
    worked = f"{first} is {one} . {second} is {other} . {one} plus {other} equals {one + other}"
    return Turn(f"the total of {first} and {second}", f"{worked} . the answer is {one + other}")


def _short_answers(random: Random, split: Split) -> tuple[Part, ...]:
    """Questions answered in a word or two, by one of the choices offered, or by yes or no."""
    scene = sample_scene(random, split)
    turn = doubting(random, scene) if random.random() < 0.5 else about_thing(random, scene)
    return ScenePicture(scene), *conversation(turn if random.random() < 0.5 else offering(random, turn))


def _descriptions(random: Random, split: Split) -> tuple[Part, ...]:
    scene = sample_scene(random, split)
    return ScenePicture(scene), *conversation(describing(scene))


def _reading(random: Random, split: Split) -> tuple[Part, ...]:
    poster = sample_poster(random, split)
    return poster, *conversation(reading_poster(random, poster.letters))


def _about_chart(ask: Callable[[Random, Bars], Turn]) -> Make:
    def make(random: Random, split: Split) -> tuple[Part, ...]:
        chart = sample_chart(random, split)
        return chart, *conversation(ask(random, chart.bars))

    return make


_charts, _solutions = _about_chart(counting_bars), _about_chart(adding_bars)


def _knowledge(random: Random, split: Split) -> tuple[Part, ...]:
    scene = sample_scene(random, split, counts=(1.0,), letters=0.0)
    turn = knowing(random, scene.things[0])
    return ScenePicture(scene), *conversation(turn if random.random() < 0.5 else offering(random, turn))


def _conversations(random: Random, split: Split) -> tuple[Part, ...]:
    """Two to four turns, either all about one picture or each with a picture of its own, as in other sets."""
    count = random.choice((2, 3, 4))
    if random.random() < 0.5:
        forms = random.choices((_short_answers, _charts, _solutions), k=count)
        return tuple(part for form in forms for part in form(random, split))
    scene = sample_scene(random, split, counts=(0, 0.5, 0.5))
    return ScenePicture(scene), *conversation(*(about_thing(random, scene) for _ in range(count)))


def _text(random: Random, split: Split) -> tuple[Part, ...]:
    """Facts and sums, without pictures."""
    if random.random() < 0.5:
        one, other = random.randint(1, 9), random.randint(1, 9)
        return conversation(Turn(f"the total of {one} and {other}", str(one + other)))
    fact = draw_fact(random)
    return conversation(Turn(fact.request, fact.answer))


SETS: dict[str, Make] = {
    "short-answers": _short_answers,
    "descriptions": _descriptions,
    "reading": _reading,
    "charts": _charts,
    "knowledge": _knowledge,
    "conversations": _conversations,
    "solutions": _solutions,
    "text": _text,
}
"""Keyed by the names in `mm1_lab.config.recipe.INSTRUCTIONS`."""


@dataclass(frozen=True, slots=True)
class InstructionSource:
    """An infinite instruction set: conversation i is a pure function of (seed, set, i)."""

    name: str
    seed: int

    def document(self, index: int) -> Document:
        return Document(f"{self.name}/{index}", SETS[self.name](Random(f"{self.seed}/{self.name}/{index}"), "train"))

    def epochs(self, conversations: int) -> float:
        return 0.0
