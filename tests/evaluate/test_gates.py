import math
from pathlib import Path

import pytest
import torch

from mm1_lab.config import WORLD_DATA, EvaluationStage, Recipe, kinds_on_floor, load_scale, resolve
from mm1_lab.data.world import World
from mm1_lab.evaluate import gates
from mm1_lab.evaluate.questions import Benchmark
from mm1_lab.evaluate.run import Answering
from mm1_lab.model import build_decoder, save_weights

SCALES = Path(__file__).parents[2] / "sweeps" / "scales"


def make_stage(*settings: str) -> EvaluationStage:
    return resolve("base", Recipe(), load_scale("smoke", SCALES, settings), 0, WORLD_DATA).evaluation


def test_wilsons_interval_is_the_formula() -> None:
    for right, count in ((0, 20), (7, 20), (192, 192)):
        z, share = 1.959963985, right / count
        centre = (share + z * z / (2 * count)) / (1 + z * z / count)
        half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
        low, high = gates.wilson(right, count)
        assert (low, high) == pytest.approx((100 * (centre - half), 100 * (centre + half)), abs=1e-4)


def test_prompts_longer_than_the_training_rows_fail() -> None:
    shots = "evaluate.shots=[0, 16]"
    rows = list(gates.prompts_fit(make_stage(shots, "sequence_length=1024"), World()))
    assert len(rows) == 9 and {row.verdict for row in rows} == {"pass"}
    longest = max(row.value for row in rows)
    shorter = list(gates.prompts_fit(make_stage(shots, f"sequence_length={longest - 1:.0f}"), World()))
    assert [row.value for row in shorter if row.verdict == "fail"] == [longest]


@pytest.fixture
def decoder(tmp_path: Path) -> Path:
    stage = make_stage().model.decoder
    torch.manual_seed(0)
    save_weights(build_decoder(stage.size, World().tokenizer.size, 256), tmp_path, stage)
    return tmp_path


def test_kinds_are_floor_unless_they_are_answered_well_above_the_majority_at_every_number_of_shots(
    decoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = make_stage("evaluate.questions=40", "evaluate.shots=[0, 4]")

    def answer(self: Answering, benchmark: Benchmark, shots: int) -> list[str]:
        """Right, but for counts after demonstrations, and relations."""
        wrong = ("count" in benchmark.name and shots) or "relation" in benchmark.name
        return ["unknown" if wrong else question.references[0] for question in benchmark.questions]

    monkeypatch.setattr(Answering, "predict", answer)
    rows = list(gates.text_gate(stage, decoder, World()))
    assert kinds_on_floor(rows) == ["count", "relation"]
    assert {row.what: row.verdict for row in rows}["count, plain wording, 0 shots"] == "pass"
    assert [row.verdict for row in rows if row.what.startswith("text-core")] == ["pass", "pass"]
