"""The world's benchmarks for fine-tuned models, in conversation format; each mirrors a benchmark of Table 4.

A prompt is `tell : REQUEST . say :`. An answer ends with a period, a worked solution with a semicolon or the end token.
Choices are part of the request. Questions are about pictures of the test split, demonstrations about training pictures.
docs/reference.md lists the benchmarks with their metrics, shots, prompts and stop words.
"""

from collections.abc import Callable
from functools import partial
from random import Random

from mm1_lab.config import EvaluationSettings
from mm1_lab.data.types import Picture
from mm1_lab.data.world.drawing import ScenePicture
from mm1_lab.data.world.instructions import (
    Turn,
    about_thing,
    absent,
    adding_bars,
    counting_bars,
    describing,
    offered,
    prompt_of,
    reading_poster,
)
from mm1_lab.data.world.language import noun
from mm1_lab.data.world.posters import sample_chart, sample_poster
from mm1_lab.data.world.scenes import Split, sample_scene
from mm1_lab.data.world.words import ANIMALS, LIKED, OWNERS, PLACES, SHAPES, TOWNS
from mm1_lab.evaluate.questions import Benchmark, Family, Question, with_rotations
from mm1_lab.evaluate.world import drawn_benchmark

Make = Callable[[Random, Split], Question]
OFTEN = ("circle", "square", "triangle")
"""Shapes from which POPE's popular sampling draws absent things."""


def chat_benchmarks(settings: EvaluationSettings, seed: int = 0) -> list[Benchmark]:
    """All benchmarks for fine-tuned models. Questions depend only on seed and number."""
    worked = tuple(settings.shots)
    return [
        _benchmark(settings, seed, "chat-vqa", "chat", "VQAv2", "exact", _attribute),
        _benchmark(settings, seed, "chat-reading", "chat", "TextVQA", "exact", _reading),
        _benchmark(settings, seed, "chat-charts", "chat", "SEED", "exact", _chart),
        _benchmark(settings, seed, "chat-choice", "chat", "MMBench", "circular", _choice),
        _benchmark(settings, seed, "chat-knowledge", "chat", "ScienceQA", "choice", _knowledge),
        _benchmark(settings, seed, "pope-random", "chat", "POPE", "yes-no", _present("random")),
        _benchmark(settings, seed, "pope-popular", "chat", "POPE", "yes-no", _present("popular")),
        _benchmark(settings, seed, "pope-adversarial", "chat", "POPE", "yes-no", _present("adversarial")),
        _benchmark(settings, seed, "chat-solutions", "solutions", "MathVista", "answer", _solution, worked, 26),
        _benchmark(settings, seed, "chat-descriptions", "chat", "LLaVA-Bench", "content", _description, (0,), 40),
    ]


def _benchmark(
    settings: EvaluationSettings,
    seed: int,
    name: str,
    family: Family,
    mirrors: str,
    metric: str,
    make: Make,
    shots: tuple[int, ...] = (0,),
    new_tokens: int = 6,
) -> Benchmark:
    def made(random: Random, split: Split, number: int, block: int) -> Question:
        question = make(random, split)
        return with_rotations(question, partial(_offering, question)) if metric == "circular" else question

    # A worked solution contains periods; demonstrations end it with a semicolon instead.
    stop = ";" if metric == "answer" else "."
    return drawn_benchmark(settings, seed, name, family, mirrors, metric, made, new_tokens, shots, stop)


def _question(kind: str, picture: Picture, turn: Turn, *references: str, choices: tuple[str, ...] = ()) -> Question:
    return Question("", kind, (picture,), prompt_of(turn.request), references or (turn.answer,), turn.answer, choices)


def _offering(question: Question, choices: tuple[str, ...]) -> str:
    """The prompt of the question with its choices in the given order."""
    return question.prompt.replace(" , ".join(question.choices), " , ".join(choices))


def _attribute(random: Random, split: Split) -> Question:
    scene = sample_scene(random, split)
    turn = about_thing(random, scene)
    return _question(turn.request.split()[1], ScenePicture(scene), turn)


def _reading(random: Random, split: Split) -> Question:
    poster = sample_poster(random, split)
    return _question("letter", poster, reading_poster(random, poster.letters))


def _chart(random: Random, split: Split) -> Question:
    chart = sample_chart(random, split)
    return _question("count", chart, counting_bars(random, chart.bars))


def _solution(random: Random, split: Split) -> Question:
    chart = sample_chart(random, split)
    turn = adding_bars(random, chart.bars)
    return _question("sum", chart, turn, turn.answer.split()[-1])


def _description(random: Random, split: Split) -> Question:
    scene = sample_scene(random, split)
    return _question("description", ScenePicture(scene), describing(scene))


def _choice(random: Random, split: Split) -> Question:
    scene = sample_scene(random, split, letters=0.0)
    thing = random.choice(scene.things)
    turn = offered(random, f"which thing is {PLACES[thing.place]}", thing.name, SHAPES)
    return _question("choice", ScenePicture(scene), turn, choices=turn.choices)


def _knowledge(random: Random, split: Split) -> Question:
    scene = sample_scene(random, split, counts=(1.0,), letters=0.0)
    thing = scene.things[0]
    if random.random() < 0.5:
        turn = offered(random, "the animal that owns this", OWNERS[thing.name], ANIMALS)
        return _question("owner", ScenePicture(scene), turn, choices=turn.choices)
    turn = offered(random, "the town that likes this color", LIKED[thing.colour], TOWNS)
    return _question("town", ScenePicture(scene), turn, choices=turn.choices)


def _present(sampling: str) -> Make:
    """POPE: half of the things exist; absent ones are random, of popular shapes, or similar to one (adversarial)."""

    def make(random: Random, split: Split) -> Question:
        scene = sample_scene(random, split, letters=0.0)
        thing = random.choice(scene.things)
        if random.random() < 0.5:
            return _question(sampling, ScenePicture(scene), Turn(f"is there a {thing.colour} {noun(thing)}", "yes"))
        asked = absent(scene, OFTEN if sampling == "popular" else SHAPES)
        if sampling == "adversarial":
            asked = [(colour, shape) for colour, shape in asked if colour == thing.colour or shape == thing.name]
        colour, shape = random.choice(asked)
        return _question(sampling, ScenePicture(scene), Turn(f"is there a {colour} {shape}", "no"))

    return make
