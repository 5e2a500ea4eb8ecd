"""Questions about told scenes: of the right split, and short enough."""

from random import Random
from typing import Any

import pytest

from mm1_lab.data.world import World
from mm1_lab.data.world.scene_questions import KINDS
from mm1_lab.data.world.scenes import Scene, Split, sample_scene
from mm1_lab.evaluate import gates
from mm1_lab.evaluate.prompts import PromptWriter
from tests.conftest import evaluation_of


@pytest.mark.parametrize("wording", gates.WORDINGS)
@pytest.mark.parametrize("shots", [0, 8])
def test_questions_are_of_the_test_split_and_fit_after_demonstrations_of_the_other(
    wording: str, shots: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = evaluation_of("evaluate.questions=8")
    splits: list[str] = []

    def recorded(random: Random, split: Split, **how: Any) -> Scene:
        splits.append(split)
        return sample_scene(random, split, **how)

    monkeypatch.setattr(gates, "sample_scene", recorded)
    world = World()
    writer = PromptWriter(world.tokenizer, 9)
    for kind in KINDS:
        splits.clear()
        benchmark = gates.text_benchmark(kind, wording, shots, asked, world.tokenizer)
        shown = [question for block in benchmark.demonstrations for question in block]
        assert len(shown) == shots and splits[0] == ("train" if shots else "test") and splits[-1] == "test"
        prefix = len(writer.prefix(benchmark, 0, shots).tokens)
        longest = max(len(writer.question(question).tokens) for question in benchmark.questions)
        assert prefix + longest <= asked.model.sequence_length
        assert {question.kind for question in [*shown, *benchmark.questions]} == {kind}
