"""The world's instruction sets: conversations about training pictures, as unlike each other as the paper's (section 5).

A turn is `tell : REQUEST . say :` and then the answer, in wordings that no benchmark of pre-training uses. A document
of a set may have several turns. Requests about pictures stand behind their picture.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

from mm1_lab.data.types import Answer, Document, Part
from mm1_lab.data.world.drawing import ScenePicture
from mm1_lab.data.world.language import noun
from mm1_lab.data.world.posters import sample_chart, sample_poster
from mm1_lab.data.world.scenes import Scene, Split, Thing, sample_scene
from mm1_lab.data.world.words import ANIMALS, COLOURS, LETTERS, LIKED, OWNERS, PLACES, SHAPES, SIZES, TOWNS

_ROW = 64
"""Numbers set apart for the documents of one row; more than fit into any."""


@dataclass(frozen=True, slots=True)
class Turn:
    """A request with its answer."""

    request: str
    answer: str
    choices: tuple[str, ...] = ()
    """Answers that the request offers."""


_KINDS = (tuple(COLOURS), PLACES, SHAPES, LETTERS, ANIMALS, TOWNS)
"""Words that answer the same kind of question."""


def prompt_of(request: str) -> str:
    """A request as the model reads it."""
    return f"tell : {request} . say :"


def conversation(*turns: Turn) -> tuple[Part, ...]:
    return tuple(part for turn in turns for part in (prompt_of(turn.request), Answer(f"{turn.answer} .")))


def about_thing(random: Random, scene: Scene) -> Turn:
    """One attribute of one thing, in one word or two."""
    thing = random.choice(scene.things)
    kind = random.choice(("color", "size", "where", "shape"))
    if kind == "color":
        return Turn(f"the color of the {noun(thing)}", thing.colour)
    if kind == "size":
        return Turn(f"the size of the {noun(thing)}", thing.size)
    if kind == "where":
        return Turn(f"where the {noun(thing)} stands", PLACES[thing.place])
    return Turn(f"which thing is {PLACES[thing.place]}", noun(thing))


def offering(random: Random, turn: Turn) -> Turn:
    """The turn with three answers to choose from, where there are so many of its kind."""
    known = next((words for words in _KINDS if turn.answer in words), ())
    return offered(random, turn.request, turn.answer, known) if known else turn


def offered(random: Random, request: str, right: str, known: tuple[str, ...]) -> Turn:
    """The request with the right answer and two others of `known` to choose from, in any order."""
    choices = [right, *random.sample([other for other in known if other != right], 2)]
    random.shuffle(choices)
    return Turn(f"{request} : {' , '.join(choices)}", right, tuple(choices))


def doubting(random: Random, scene: Scene) -> Turn:
    """Whether a thing has a colour or a size, or whether there is such a thing; half of them no."""
    thing, true = random.choice(scene.things), random.random() < 0.5
    if random.random() < 0.5:
        colour, shape = (thing.colour, noun(thing)) if true else random.choice(absent(scene))
        return Turn(f"is there a {colour} {shape}", "yes" if true else "no")
    asked = random.choice((tuple(COLOURS), SIZES))
    fact = thing.colour if thing.colour in asked else thing.size
    said = fact if true else random.choice([other for other in asked if other != fact])
    return Turn(f"is the {noun(thing)} seen here {said}", "yes" if true else "no")


def absent(scene: Scene, shapes: tuple[str, ...] = SHAPES) -> list[tuple[str, str]]:
    """Every (colour, shape) that no thing of the scene has."""
    shown = {(thing.colour, thing.name) for thing in scene.things}
    return [(colour, shape) for colour in COLOURS for shape in shapes if (colour, shape) not in shown]


def describing(scene: Scene) -> Turn:
    """Everything, thing by thing."""
    said = " , ".join(f"{PLACES[thing.place]} a {thing.size} {thing.colour} {noun(thing)}" for thing in scene.things)
    return Turn("all that this image shows", f"it shows {len(scene.things)} : {said}")


def reading_poster(random: Random, poster_letters: tuple[tuple[int, str, str], ...]) -> Turn:
    place, letter, _ = random.choice(poster_letters)
    return Turn(f"the letter printed {PLACES[place]}", letter)


def counting_bars(random: Random, bars: tuple[tuple[str, int], ...]) -> Turn:
    colour, count = random.choice(bars)
    return Turn(f"the count of {colour}", str(count))


def knowing(random: Random, thing: Thing) -> Turn:
    """Needs a fact that only text states."""
    if random.random() < 0.5 and thing.name in OWNERS:
        return Turn("the animal that owns this", OWNERS[thing.name])
    return Turn("the town that likes this color", LIKED[thing.colour])


def adding_bars(random: Random, bars: tuple[tuple[str, int], ...]) -> Turn:
    """Two bars together, worked out before the answer."""
    (first, one), (second, other) = random.sample(bars, 2)
    worked = f"{first} is {one} . {second} is {other} . {one} plus {other} equals {one + other}"
    return Turn(f"the total of {first} and {second}", f"{worked} . the answer is {one + other}")


def _single(random: Random, split: Split) -> Scene:
    return sample_scene(random, split, counts=(1.0,), letters=0.0)


def _short_answers(random: Random, split: Split) -> tuple[Part, ...]:
    """A word or two, one of some that are offered, or yes and no."""
    scene = sample_scene(random, split)
    turn = doubting(random, scene) if random.random() < 0.5 else about_thing(random, scene)
    return ScenePicture(scene), *conversation(turn if random.random() < 0.5 else offering(random, turn))


def _descriptions(random: Random, split: Split) -> tuple[Part, ...]:
    scene = sample_scene(random, split)
    return ScenePicture(scene), *conversation(describing(scene))


def _reading(random: Random, split: Split) -> tuple[Part, ...]:
    poster = sample_poster(random, split)
    return poster, *conversation(reading_poster(random, poster.letters))


def _charts(random: Random, split: Split) -> tuple[Part, ...]:
    chart = sample_chart(random, split)
    return chart, *conversation(counting_bars(random, chart.bars))


def _knowledge(random: Random, split: Split) -> tuple[Part, ...]:
    scene = _single(random, split)
    turn = knowing(random, scene.things[0])
    return ScenePicture(scene), *conversation(turn if random.random() < 0.5 else offering(random, turn))


def _conversations(random: Random, split: Split) -> tuple[Part, ...]:
    """Two to four turns, about one picture or each about one of its own, as short answers and charts have them."""
    count = random.choice((2, 3, 4))
    if random.random() < 0.5:
        forms = random.choices((_short_answers, _charts, _solutions), k=count)
        return tuple(part for form in forms for part in form(random, split))
    scene = sample_scene(random, split, counts=(0, 0.5, 0.5))
    return ScenePicture(scene), *conversation(*(about_thing(random, scene) for _ in range(count)))


def _solutions(random: Random, split: Split) -> tuple[Part, ...]:
    chart = sample_chart(random, split)
    return chart, *conversation(adding_bars(random, chart.bars))


def _text(random: Random, split: Split) -> tuple[Part, ...]:
    """Facts and sums, without a picture."""
    if random.random() < 0.5:
        one, other = random.randint(1, 9), random.randint(1, 9)
        return conversation(Turn(f"the total of {one} and {other}", str(one + other)))
    if random.random() < 0.5:
        shape, animal = random.choice(list(OWNERS.items()))
        return conversation(Turn(f"the animal that owns the {shape}", animal))
    colour, town = random.choice(list(LIKED.items()))
    return conversation(Turn(f"the town that likes {colour}", town))


SETS: dict[str, Callable[[Random, Split], tuple[Part, ...]]] = {
    "short-answers": _short_answers,
    "descriptions": _descriptions,
    "reading": _reading,
    "charts": _charts,
    "knowledge": _knowledge,
    "conversations": _conversations,
    "solutions": _solutions,
    "text": _text,
}
"""By the names of `mm1_lab.config.recipe.INSTRUCTIONS`."""


@dataclass(frozen=True, slots=True)
class InstructionSource:
    """One instruction set, without end: document i is a pure function of (seed, set, i)."""

    name: str
    seed: int

    def document(self, index: int) -> Document:
        return Document(f"{self.name}/{index}", SETS[self.name](Random(f"{self.seed}/{self.name}/{index}"), "train"))

    def documents(self, row: int) -> Iterator[Document]:
        return (self.document(row * _ROW + number) for number in range(_ROW))

    def epochs(self, rows: int) -> float:
        return 0.0
