import math
from pathlib import Path

import pytest
import torch

from mm1_lab.data.world import World
from mm1_lab.evaluate import gates
from mm1_lab.evaluate.questions import Benchmark
from mm1_lab.evaluate.run import Answering
from mm1_lab.model import build_decoder, save_weights
from tests.conftest import evaluation_of


@pytest.fixture
def decoder(tmp_path: Path) -> Path:
    stage = evaluation_of().model.decoder
    torch.manual_seed(0)
    save_weights(build_decoder(stage.size, World().tokenizer.size, 256), tmp_path, stage)
    return tmp_path


def test_a_kind_is_weak_or_fails_unless_it_is_answered_in_words_at_up_to_four_shots(
    decoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = evaluation_of("evaluate.questions=16", "evaluate.shots=[0, 4, 8]")

    def answer(self: Answering, benchmark: Benchmark, shots: int) -> list[str]:
        """Right, but for towns at 8 shots, owners in every eighth place, and relations in every second."""
        answers = []
        for number, question in enumerate(benchmark.questions):
            wrong = ("relation" in benchmark.name and number % 2 == 0) or ("town" in benchmark.name and shots == 8)
            wrong = wrong or ("owner" in benchmark.name and number % 8 == 0)
            answers.append("unknown" if wrong else question.references[0])
        return answers

    monkeypatch.setattr(Answering, "predict", answer)
    rows = {row.what: row for row in gates.text_gate(stage, decoder, World())}
    for verdict, kind in (("fail", "relation"), ("weak", "owner")):
        assert {what.split(",")[0] for what, row in rows.items() if row.verdict == verdict} == {kind}
    assert rows["town, plain wording, 8 shots"].verdict == "reported"
    assert [row.verdict for what, row in rows.items() if what.startswith("text-core")] == ["pass"] * 3
    owner = rows["owner, image wording, 0 shots"]
    z, share, count = 1.959963985, 14 / 16, 16
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    assert (owner.low, owner.high) == pytest.approx((100 * (centre - half), 100 * (centre + half)), abs=1e-4)
