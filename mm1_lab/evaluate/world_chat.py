"""The world's benchmarks for fine-tuned models, in conversation format; each mirrors a benchmark of Table 4.

A prompt is `tell : REQUEST . say :`. An answer ends with a period, a worked solution with a semicolon or the end token.
Choices are part of the request. Questions are about pictures of the test split, demonstrations about training pictures.
docs/reference.md lists the benchmarks with their metrics, shots, prompts and stop words.
"""

from collections.abc import Callable
from dataclasses import replace
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
from mm1_lab.data.world.posters import sample_chart, sample_poster
from mm1_lab.data.world.scenes import Split, sample_scene
from mm1_lab.data.world.words import ANIMALS, LIKED, OWNERS, PLACES, SHAPES, TOWNS
from mm1_lab.evaluate.questions import Benchmark, Question, with_rotations
from mm1_lab.evaluate.world import Make as Numbered
from mm1_lab.evaluate.world import draw_questions

Make = Callable[[Random, Split], Question]
OFTEN = ("circle", "square", "triangle")
"""Shapes from which POPE's popular sampling draws absent things."""


def chat_benchmarks(settings: EvaluationSettings, seed: int = 0) -> list[Benchmark]:
    """All benchmarks for fine-tuned models. Questions depend only on seed and number."""
    vqa = Benchmark("chat-vqa", "chat", "VQAv2", "exact", (), (), (".",), 6, shots=(0,))
    pope = replace(vqa, mirrors="POPE", metric="yes-no")
    # A worked solution contains periods; demonstrations end it with a semicolon instead.
    worked = Benchmark(
        "chat-solutions", "solutions", "MathVista", "answer", (), (), (";",), 26, shots=tuple(settings.shots)
    )
    described = replace(vqa, name="chat-descriptions", mirrors="LLaVA-Bench", metric="content", new_tokens=40)
    made: list[tuple[Benchmark, Make]] = [
        (vqa, _attribute),
        (replace(vqa, name="chat-reading", mirrors="TextVQA"), _reading),
        (replace(vqa, name="chat-charts", mirrors="SEED"), _chart),
        (replace(vqa, name="chat-choice", mirrors="MMBench", metric="circular"), _in_all_orders),
        (replace(vqa, name="chat-knowledge", mirrors="ScienceQA", metric="choice"), _knowledge),
        (replace(pope, name="pope-random"), _present("random")),
        (replace(pope, name="pope-popular"), _present("popular")),
        (replace(pope, name="pope-adversarial"), _present("adversarial")),
        (worked, _solution),
        (described, _description),
    ]
    return [draw_questions(benchmark, settings, seed, _unnumbered(make)) for benchmark, make in made]


def _unnumbered(make: Make) -> Numbered:
    return lambda random, split, number, style: make(random, split)


def _question(kind: str, picture: Picture, turn: Turn, *references: str, choices: tuple[str, ...] = ()) -> Question:
    return Question("", kind, (picture,), prompt_of(turn.request), references or (turn.answer,), turn.answer, choices)


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


def _in_all_orders(random: Random, split: Split) -> Question:
    question = _choice(random, split)
    told = " , ".join(question.choices)
    return with_rotations(question, lambda choices: question.prompt.replace(told, " , ".join(choices)))


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
            return _question(sampling, ScenePicture(scene), Turn(f"is there a {thing.colour} {thing.name}", "yes"))
        asked = absent(scene, OFTEN if sampling == "popular" else SHAPES)
        if sampling == "adversarial":
            asked = [(colour, shape) for colour, shape in asked if colour == thing.colour or shape == thing.name]
        colour, shape = random.choice(asked)
        return _question(sampling, ScenePicture(scene), Turn(f"is there a {colour} {shape}", "no"))

    return make
