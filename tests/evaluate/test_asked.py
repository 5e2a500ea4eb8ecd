"""What an evaluation is reckoned to read, against the prompts of the benchmarks that are built for it."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from mm1_lab.config import (
    WORLD_DATA,
    BenchmarkConfig,
    DataIdentity,
    EvaluationSettings,
    EvaluationStage,
    Recipe,
    SftRecipe,
    load_scale,
    resolve,
)
from mm1_lab.data.world import World
from mm1_lab.evaluate.benchmarks import benchmarks_for
from mm1_lab.evaluate.metrics import by_likelihood
from mm1_lab.evaluate.named import check_benchmarks
from mm1_lab.evaluate.questions import Benchmark
from tests.evaluate.test_held_out_captions import Captions, many
from tests.evaluate.test_named import Letters, opened

SCALES = Path(__file__).parents[2] / "sweeps" / "scales"
ODD = EvaluationSettings(shots=(0, 2), questions=20, blocks=8, batch_size=4)
TUNED = Recipe(sft=SftRecipe())


def evaluation(recipe: Recipe, scale: str = "mini", **changes: Any) -> EvaluationStage:
    stage = resolve("a", recipe, load_scale(scale, SCALES), 0, WORLD_DATA).evaluation
    return stage.model_copy(update=changes)


def shown(built: Iterable[Benchmark], settings: EvaluationSettings) -> int:
    """Questions and demonstrations over all prompts, as evaluate/run.py makes these."""
    return sum(
        (1 + len(question.rotated) + (len(question.choices) if by_likelihood(one) else 0)) * (shots + 1)
        for one in built
        for shots in one.shots or settings.shots
        for question in one.questions
    )


@pytest.mark.parametrize("recipe", [Recipe(), TUNED], ids=["pre-trained", "tuned"])
@pytest.mark.parametrize("settings", [None, ODD], ids=["mini", "odd"])
def test_of_the_world(recipe: Recipe, settings: EvaluationSettings | None) -> None:
    """Fails if a benchmark is added that config/stage.py does not count."""
    stage = evaluation(recipe, **({"settings": settings} if settings else {}))
    built = benchmarks_for(World(), stage.settings, 0, (), stage.model.tuned)
    assert stage.image_prompts() == shown(built, stage.settings)
    assert stage.positions() == stage.image_prompts() * stage.question_tokens
    if settings is None:
        answers = sum(len(one.questions) * len(one.shots or stage.settings.shots) for one in built)
        assert answers == (7488 if stage.model.tuned else 5184)


def test_of_users_data_with_benchmarks_of_their_own(tmp_path: Path) -> None:
    """One of fewer questions than are asked, one in every order of its choices, one at its own numbers of shots."""

    def write(name: str, count: int) -> str:
        asked = {"answer": "red", "choices": ["red", "blue"]}
        rows = [asked | {"id": n, "question": f"Which {n} of {name}?"} for n in range(count)]
        (tmp_path / name).write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        return name

    def own(name: str, count: int, **values: Any) -> BenchmarkConfig:
        files = {"questions": write(f"{name}.jsonl", count), "demonstrations": {"questions": write("shown.jsonl", 20)}}
        return opened(tmp_path, name, {"format": "jsonl", "metric": "choice", **files, **values})

    listed = [own("few", 5), own("many", 50, metric="circular"), own("zero", 50, shots=[0])]
    named = check_benchmarks(listed, ODD)
    assert [config.prompts_per_shot for config in named] == [5 * 3, 20 * 4, 20 * 3]
    assert [config.identity for config in named] == [config.identity for config in listed], "no other fingerprint"
    shards = DataIdentity(kind="shards", digest="x")
    data = Captions(Letters(), many("held", 50), many("train", 100), "captions")
    stage = evaluation(Recipe(), settings=ODD, benchmarks=tuple(named), data=shards)
    built = benchmarks_for(data, ODD, 0, named)  # type: ignore[arg-type]
    assert len(built) == 4 and stage.image_prompts() == shown(built, ODD)
    unread = stage.model_copy(update={"benchmarks": tuple(listed)})
    assert unread.image_prompts() == ODD.questions * (2 * (1 + 3) + 1 + 1 + 3), "before the files are read"
