"""The world's benchmarks for fine-tuned models, in conversation format; each mirrors a benchmark of Table 4.

A prompt is `tell : REQUEST . say :`. An answer ends with a period, a worked solution with a semicolon or the end token.
Choices are part of the request. Questions are about pictures of the test split, demonstrations about training pictures.
docs/reference.md lists the benchmarks with their metrics, shots, prompts and stop words.
"""

from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

from mm1_lab.config import EvaluationSettings
from mm1_lab.data.types import Picture
from mm1_lab.data.world.drawing import ScenePicture
from mm1_lab.data.world.instructions import (
    Exchange,
    Turn,
    about_thing,
    absent,
    adding,
    counting,
    describing,
    knowing,
    offering,
    prompt_of,
    reading,
)
from mm1_lab.data.world.scenes import Split, sample_scene
from mm1_lab.data.world.words import ANIMALS, PLACES, SHAPES
from mm1_lab.evaluate.questions import Benchmark, Question, with_rotations
from mm1_lab.evaluate.world import draw_questions

Make = Callable[[Random, Split], Question]
OFTEN = ("circle", "square", "triangle")
"""Shapes from which POPE's popular sampling draws absent things."""
ATTRIBUTES = {"color": "colour", "size": "size", "the": "place", "thing": "shape"}
"""Kinds of questions about a thing, by the second word of `about_thing`'s requests."""


def chat_benchmarks(settings: EvaluationSettings, seed: int = 0) -> list[Benchmark]:
    """All benchmarks for fine-tuned models. Questions depend only on seed and number."""
    vqa = Benchmark("chat-vqa", "chat", "VQAv2", "exact", (), (), (".",), 6, shots=(0,))
    pope = replace(vqa, mirrors="POPE", metric="yes-no")
    # A worked solution contains periods; demonstrations end it with a semicolon instead.
    worked = Benchmark(
        "chat-solutions", "solutions", "MathVista", "answer", (), (), (";",), 26, shots=tuple(settings.shots)
    )
    described = replace(vqa, mirrors="LLaVA-Bench", metric="content", new_tokens=40)

    def draw(like: Benchmark, make: Make, **changes: Any) -> Benchmark:
        return draw_questions(replace(like, **changes), settings, seed, lambda random, split, *_: make(random, split))

    return [
        draw(vqa, _attribute),
        draw(vqa, _asking("letter", reading), name="chat-reading", mirrors="TextVQA"),
        draw(vqa, _asking("count", counting), name="chat-charts", mirrors="SEED"),
        draw(vqa, _choice, name="chat-choice", mirrors="MMBench", metric="circular"),
        draw(vqa, _knowledge, name="chat-knowledge", mirrors="ScienceQA", metric="choice"),
        *(draw(pope, _present(sampling), name=f"pope-{sampling}") for sampling in ("random", "popular", "adversarial")),
        draw(worked, _solution),
        draw(described, _asking("description", describing), name="chat-descriptions"),
    ]


def _asking(kind: str, ask: Callable[[Random, Split], Exchange]) -> Make:
    return lambda random, split: _question(kind, *ask(random, split))


def _question(kind: str, picture: Picture, turn: Turn) -> Question:
    prompt = prompt_of(turn.request)
    return Question("", kind, (picture,), prompt, (turn.answer,), turn.answer, turn.choices)


def _attribute(random: Random, split: Split) -> Question:
    scene = sample_scene(random, split)
    turn = about_thing(random, scene)
    return _question(ATTRIBUTES[turn.request.split()[1]], ScenePicture(scene), turn)


def _solution(random: Random, split: Split) -> Question:
    question = _question("sum", *adding(random, split))
    return replace(question, references=(question.shown.split()[-1],))


def _choice(random: Random, split: Split) -> Question:
    """A choice of things, asked in all orders."""
    scene = sample_scene(random, split, letters=0.0)
    thing = random.choice(scene.things)
    turn = offering(random, Turn(f"which thing is {PLACES[thing.place]}", thing.name))
    question = _question("choice", ScenePicture(scene), turn)
    told = " , ".join(turn.choices)
    return with_rotations(question, lambda choices: question.prompt.replace(told, " , ".join(choices)))


def _knowledge(random: Random, split: Split) -> Question:
    picture, turn = knowing(random, split)
    kind = "owner" if turn.answer in ANIMALS else "town"
    return _question(kind, picture, offering(random, turn))


def _present(sampling: str) -> Make:
    """POPE: half of the things exist; absent ones are random, of popular shapes, or similar to one (adversarial)."""

    def make(random: Random, split: Split) -> Question:
        scene = sample_scene(random, split, letters=0.0)
        thing = random.choice(scene.things)
        colour, shape, answer = thing.colour, thing.name, "yes"
        if random.random() >= 0.5:
            pairs = absent(scene, OFTEN if sampling == "popular" else SHAPES)
            if sampling == "adversarial":
                pairs = [pair for pair in pairs if pair[0] == colour or pair[1] == shape]
            colour, shape = random.choice(pairs)
            answer = "no"
        return _question(sampling, ScenePicture(scene), Turn(f"is there a {colour} {shape}", answer))

    return make
