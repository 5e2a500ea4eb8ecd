import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from mm1_lab.config import WORLD_DATA, MultimodalStage, Recipe, RequestError, load_scale, resolve
from mm1_lab.orchestrate import sweeping
from mm1_lab.orchestrate.execution.executor import Inline
from mm1_lab.orchestrate.execution.ray_tune import RayTune
from mm1_lab.orchestrate.planning import cost
from mm1_lab.orchestrate.planning.cost import Speeds, machine_slots, measured_speeds
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


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A study in which the base took 200 seconds."""
    enter(tmp_path / "study" / "parts" / "a", base("mini"), 200)
    return tmp_path / "study"


def test_a_fresh_folder_goes_by_the_study(study: Path) -> None:
    assert Speeds({}, study).seconds(base("mini")) == pytest.approx(200)


def test_own_measurements_go_before_the_study_s(tmp_path: Path, study: Path) -> None:
    ledger = Ledger(tmp_path / "results", tmp_path / "store")
    for number, seconds in enumerate((90.0, 100.0, 500.0)):
        enter(ledger.store / str(number), base("mini"), seconds)
    speeds = measured_speeds(ledger)
    assert speeds.seconds(base("mini")) == pytest.approx(100)
    twice = base("mini").model_copy(
        update={"training": base("mini").training.model_copy(update={"steps": 2 * base("mini").training.steps})}
    )
    assert speeds.seconds(twice) == pytest.approx(200)


def test_a_stage_that_another_command_finishes_meanwhile_is_left_out(
    tmp_path: Path, study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its folder is renamed between the listing and the reading."""
    ledger = Ledger(tmp_path / "results", tmp_path / "store")
    for name, seconds in (("a", 100.0), ("b.partial", 9.0)):
        enter(ledger.store / name, base("mini"), seconds)
    found = sorted(ledger.store.glob("*/timings.json"))
    (ledger.store / "b.partial").rename(ledger.store / "b")
    monkeypatch.setattr(Path, "glob", lambda folder, pattern: found if folder == ledger.store else [])
    assert measured_speeds(ledger).seconds(base("mini")) == pytest.approx(100)


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
