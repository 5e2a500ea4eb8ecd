import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from mm1_lab.config import WORLD_DATA, MultimodalStage, Recipe, RequestError, load_scale, resolve
from mm1_lab.orchestrate import sweeping
from mm1_lab.orchestrate.execution.executor import Inline
from mm1_lab.orchestrate.execution.ray_tune import RayTune
from mm1_lab.orchestrate.planning import cost
from mm1_lab.orchestrate.planning.cost import USUAL, machine_slots, measured_speeds, stage_seconds
from mm1_lab.orchestrate.planning.request import load_request
from mm1_lab.results import Ledger
from tests.conftest import REPOSITORY


def base(scale: str) -> MultimodalStage:
    return resolve(
        "base", Recipe(), load_scale(scale, REPOSITORY / "sweeps" / "scales"), 0, WORLD_DATA
    ).evaluation.model


def enter(folder: Path, stage: MultimodalStage, seconds: float) -> None:
    folder.mkdir(parents=True)
    timings = {stage.KIND: {"seconds": seconds, "flops": stage.flops()}}
    (folder / "timings.json").write_text(json.dumps(timings), encoding="utf-8")


def test_measurements_of_this_machine_go_before_the_usual_speeds(tmp_path: Path) -> None:
    """Their median, without those too short to tell; a stage twice as long takes twice the time."""
    ledger, stage = Ledger(tmp_path / "results", tmp_path / "store"), base("mini")
    usual = stage_seconds(stage, measured_speeds(ledger))
    assert usual == pytest.approx(stage.flops() / USUAL["multimodal"])
    for number, seconds in enumerate((9.0, 90.0, 100.0, 500.0)):
        enter(ledger.store / str(number), stage, seconds)
    (ledger.store / "broken").mkdir()
    (ledger.store / "broken" / "timings.json").write_text("[]", encoding="utf-8")
    speeds = measured_speeds(ledger)
    assert stage_seconds(stage, speeds) == pytest.approx(100)
    training = stage.training.model_copy(update={"steps": 2 * stage.training.steps})
    assert stage_seconds(stage.model_copy(update={"training": training}), speeds) == pytest.approx(200)


def test_only_as_many_checkpoints_as_there_are_stages_are_reckoned_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = 4 * base("mini").parameters().total
    monkeypatch.setattr(cost.shutil, "disk_usage", lambda path: SimpleNamespace(free=14.5 * weights))
    cost.check_disk([base("mini")] * 2, 64, tmp_path)
    with pytest.raises(RequestError, match="free some space"):
        cost.check_disk([base("mini")] * 3, 2, tmp_path)


def test_stages_that_take_a_gpu_share_this_machine_s(monkeypatch: pytest.MonkeyPatch) -> None:
    scale = load_scale("smoke", REPOSITORY / "sweeps" / "scales", ("resources.cpus=2", "resources.gpus=1"))
    monkeypatch.setattr("mm1_lab.orchestrate.planning.cost.machine_cpus", lambda: 64)
    for gpus, slots in ((0, 1), (2, 2), (99, 32)):
        monkeypatch.setattr("torch.cuda.device_count", lambda count=gpus: count)
        assert machine_slots(scale) == RayTune().at_once(scale) == slots
    assert Inline().at_once(scale) == 1


def test_stages_on_a_cluster_share_its_gpus_and_not_this_machine_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    request = load_request("data_mix", "smoke", 20, settings=("resources.gpus=1",))
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setattr(RayTune, "open", lambda self, scale: setattr(self, "slots", 24))
    asked = []

    def check_disk(stages: object, slots: int, store: Path) -> None:
        asked.append(slots)
        raise RequestError("stop")

    monkeypatch.setattr(sweeping, "check_disk", check_disk)
    for executor in (RayTune("auto"), RayTune()):
        with pytest.raises(RequestError, match="stop"):
            sweeping.complete(request, executor, lambda folder: [])
    assert asked == [24, 1]
