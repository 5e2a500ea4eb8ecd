import json
from pathlib import Path

import pytest

from mm1_lab.config import MultimodalStage, load_scale
from mm1_lab.orchestrate.planning.cost import machine_slots, measured_slowness, stage_seconds, usual_seconds
from mm1_lab.results import Ledger
from tests.conftest import SCALES, evaluation_of


def enter(folder: Path, stage: MultimodalStage, seconds: float) -> None:
    folder.mkdir(parents=True)
    timings = {stage.KIND: {"seconds": seconds, "flops": stage.flops(), "positions": stage.positions()}}
    (folder / "timings.json").write_text(json.dumps(timings), encoding="utf-8")


def test_measurements_of_this_machine_go_before_the_usual_speeds(tmp_path: Path) -> None:
    """The median, without those too short to tell, and without what waited at `smoke`; a stage twice as long takes
    twice the time."""
    ledger, stage = Ledger(tmp_path / "results", tmp_path / "store"), evaluation_of(scale="mini").model
    usual = stage_seconds(stage, measured_slowness(ledger))
    assert usual == pytest.approx(usual_seconds("multimodal", stage.positions(), stage.flops()))
    for number, seconds in enumerate((9.0, 90.0, 100.0, 500.0)):
        enter(ledger.store / str(number), stage, seconds)
    for number in range(5):
        enter(ledger.store / f"smoke {number}", evaluation_of(scale="smoke").model, 20.0)
    (ledger.store / "broken").mkdir()
    (ledger.store / "broken" / "timings.json").write_text("[]", encoding="utf-8")
    slowness = measured_slowness(ledger)
    assert stage_seconds(stage, slowness) == pytest.approx(100)
    training = stage.training.model_copy(update={"steps": 2 * stage.training.steps})
    assert stage_seconds(stage.model_copy(update={"training": training}), slowness) == pytest.approx(200)


def test_small_decoders_are_not_estimated_by_flops_alone() -> None:
    """Measured alone on a core: 519 s for 9M, 6,556 s for 2.9B, 320 times its FLOPs."""
    for flops, measured in ((7.64e11, 519), (2.47e14, 6556)):
        assert measured / 1.5 < usual_seconds("decoder", 1.382e7, flops) < 1.5 * measured


def test_stages_that_take_a_gpu_share_this_machine_s(monkeypatch: pytest.MonkeyPatch) -> None:
    scale = load_scale("smoke", SCALES, settings=("resources.cpus=2", "resources.gpus=1"))
    monkeypatch.setattr("mm1_lab.orchestrate.planning.cost.machine_cpus", lambda: 64)
    for gpus, slots in ((0, 1), (2, 2), (99, 32)):
        monkeypatch.setattr("torch.cuda.device_count", lambda count=gpus: count)
        assert machine_slots(scale) == slots
