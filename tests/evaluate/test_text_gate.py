"""Questions about told scenes: of the right split, short enough, and right in every wording."""

from pathlib import Path

import pytest

from mm1_lab.config import WORLD_DATA, EvaluationStage, Recipe, load_scale, resolve
from mm1_lab.data.world import World
from mm1_lab.data.world.scene_questions import KINDS
from mm1_lab.data.world.scenes import Scene, Thing
from mm1_lab.data.world.words import PLACES
from mm1_lab.evaluate.gates import WORDINGS, text_benchmark
from mm1_lab.evaluate.prompts import PromptWriter
from mm1_lab.evaluate.questions import Question
from tests.evaluate.told_scenes import told_scene

SCALES = Path(__file__).parents[2] / "sweeps" / "scales"


def stage(*settings: str) -> EvaluationStage:
    return resolve("base", Recipe(), load_scale("smoke", SCALES, settings), 0, WORLD_DATA).evaluation


def scene(question: Question) -> Scene:
    content = told_scene(question.prompt.split())
    assert content is not None, question.prompt
    return Scene(tuple(Thing(*thing) for thing in content))


@pytest.mark.parametrize("wording", WORDINGS)
@pytest.mark.parametrize("shots", [0, 4, 8])
def test_questions_are_of_the_test_split_and_fit_after_demonstrations_of_the_other(wording: str, shots: int) -> None:
    asked = stage("evaluate.questions=8")
    world = World()
    writer = PromptWriter(world.tokenizer, 9)
    for kind in KINDS:
        benchmark = text_benchmark(kind, wording, shots, asked, world.tokenizer)
        assert {scene(question).split for question in benchmark.questions} == {"test"}
        shown = [question for block in benchmark.demonstrations for question in block]
        assert len(shown) == shots and all(scene(question).split == "train" for question in shown)
        prefix = len(writer.prefix(benchmark, 0, shots).tokens)
        longest = max(len(writer.question(question).tokens) for question in benchmark.questions)
        assert prefix + longest <= asked.model.sequence_length
        assert {question.kind for question in [*shown, *benchmark.questions]} == {kind}


def test_answers_are_what_the_words_say() -> None:
    for wording in WORDINGS:
        for kind in ("colour", "place", "size", "shape", "letter"):
            benchmark = text_benchmark(kind, wording, 0, stage("evaluate.questions=24"), World().tokenizer)
            for question in benchmark.questions:
                told = scene(question)
                words = question.prompt.split(" question : ")[1].split(" ? ")[0].split()
                thing = next((thing for thing in told.things if thing.name == words[-1]), None)
                written = [thing.name for thing in told.things if PLACES[thing.place] == words[-1]]
                expected = {
                    "colour": thing and thing.colour,
                    "place": thing and PLACES[thing.place],
                    "size": thing and thing.size,
                    "shape": written[0] if written else None,
                    "letter": written[0] if written else None,
                }
                assert question.references == (expected[kind],), question.prompt
