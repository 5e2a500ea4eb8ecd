"""Stages on several workers: who gets how many, and (soak) sweeps on Ray's own nodes, of which one goes away."""

import queue
import subprocess
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import torch

from mm1_lab import team
from mm1_lab.config import Pretrained, RequestError, Resources, Scale, Stage, load_scale
from mm1_lab.files import HELD
from mm1_lab.orchestrate.execution.groups import in_group
from mm1_lab.orchestrate.execution.worker import GpuFailed, Worker
from mm1_lab.orchestrate.execution.worklist import Outcome, WorkList
from mm1_lab.orchestrate.planning.plan import Task
from mm1_lab.results import Ledger
from mm1_lab.results.leases import LeaseLost
from mm1_lab.train.progress import Progress, Report
from mm1_lab.weights.pretrained import HuggingFace
from tests.conftest import SCALES, change
from tests.pretrained import save_decoder

DONE = Outcome()
ARMS = ("run", "data_mix", "--scale", "smoke", "--only", "base", "--only", "captions")


@pytest.fixture
def stages(ask) -> dict[str, Stage]:
    return {stage.KIND: stage for stage in ask("base").trials[0].evaluation.chain()}


def smoke(**changes: Any) -> Scale:
    values = load_scale("smoke", SCALES).model_dump(exclude_unset=True)
    return Scale.model_validate(values | changes)


def test_a_stage_that_cannot_be_shared_is_refused(stages):
    parts = smoke(workers={"85M": 2}, resources={"gpus": 0.5})
    with pytest.raises(RequestError, match=r"2 workers of 85M needs a GPU .*gpus is 0.5; --set resources.gpus=1, or"):
        stages["evaluation"].workers(parts)
    thirds = smoke(workers={"85M": 2}, resources={"evaluation_shards": 3})
    with pytest.raises(RequestError, match="2 workers of an evaluation cannot be divided into groups of 3; take"):
        stages["evaluation"].workers(thirds)
    assert stages["evaluation"].workers(smoke(resources={"evaluation_shards": 3})) == 1, "which divides nothing"
    with pytest.raises(ValueError, match="workers: there is no size '86M'; did you mean '85M'"):
        smoke(workers={"86M": 2})


def test_workers_of_a_pretrained_decoder_go_by_its_name_or_its_folder(stages, tmp_path):
    save_decoder("llama", tmp_path / "llama")
    folder = str(tmp_path / "llama")
    decoder = HuggingFace().decoder(Pretrained(weights=folder))
    stage = stages["multimodal"].model_copy(update={"decoder": decoder})
    assert stage.workers(smoke(workers={folder: 2})) == 2
    assert stage.workers(smoke(workers={"mine": 4}, pretrained_decoders={"mine": folder})) == 4
    with pytest.raises(RequestError, match="too few for the 5 workers of mine"):
        stage.workers(smoke(workers={"mine": 5}, pretrained_decoders={"mine": folder}))
    assert stage.size_names(smoke()) == [folder], "what a plan names if one GPU does not hold it"


class Trial(SimpleNamespace):
    """As Tune gives it to callbacks."""

    def __init__(self, key: str, **given: Any) -> None:
        super().__init__(trial_id=key, config={"task": key}, **given)


def test_room_is_counted_in_workers_and_a_death_is_a_loss(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "token")  # Ray reads it when it is loaded, and other tests start one
    from mm1_lab.orchestrate.execution import tune

    monkeypatch.setattr(Task, "label", "a task")
    tasks = {key: Task(key, (), (), ()) for key in ("group", "single")}
    work_list = WorkList(tasks, lambda stage: 0.0, 0, Ledger(tmp_path))
    searcher = tune.TaskSearcher(work_list, {"group": 2, "single": 1}, 2)
    events = tune.TrialEvents(work_list)

    def begin(key: str) -> None:
        assert searcher.suggest(key) == {"task": key}
        events.on_trial_start(0, [], Trial(key))

    begin("group")
    assert searcher.suggest("none") is None, "no room beside a group of two"
    events.on_trial_error(0, [], Trial("group", error_file=None))
    assert work_list.waiting[0] == "group" and not work_list.attempts["group"]
    begin("group")
    events.on_trial_complete(0, [], Trial("group", last_result={"outcome": Outcome("failed", "bad luck")}))
    assert work_list.failed["group"].reason == "bad luck"
    begin("single")
    events.on_trial_complete(0, [], Trial("single", last_result={"outcome": Outcome()}))
    assert searcher.suggest("fourth") == "FINISHED" and work_list.done == {"single"}


def test_what_tune_says_of_a_trial_without_an_outcome_is_its_reason(monkeypatch):
    """A death of the process says nothing that a user understands."""
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    from ray.exceptions import ActorUnavailableError, OutOfMemoryError

    from mm1_lab.orchestrate.execution.tune import KILLED, ending

    assert ending(str(ActorUnavailableError("RpcError: Socket closed", bytes(16)))) == ending("") == KILLED
    assert ending("Traceback:\n  line 1\nModuleNotFoundError: no x") == Outcome("failed", "ModuleNotFoundError: no x")
    assert ending("Traceback:\na.worker.GpuFailed: CUDA error: b") == Outcome("failed", "CUDA error: b")
    low = OutOfMemoryError("Task was killed due to the node running low on memory.\nTop 10 users: …")
    assert ending(str(low)) == Outcome("failed", "Task was killed due to the node running low on memory.")


def test_notes_reach_the_user_however_soon_they_follow(monkeypatch, tmp_path):
    """Also that another command holds the stage. Other reports are sent once a second; a group's queue is read to its
    end though its training has ended."""
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    from mm1_lab.orchestrate.execution import tune

    steps = [Progress(0, 0), Progress(0, 4), *(Progress(step, 600, note=f"{step}") for step in range(600))]

    class Trainer:
        def __init__(self, loop: Any, **_: Any) -> None:
            self.queue = loop.args[1]

        def fit(self) -> None:
            for progress in steps:
                self.queue.put(asdict(progress))

    monkeypatch.setattr("ray.train.torch.TorchTrainer", Trainer)
    monkeypatch.setattr(queue.Queue, "shutdown", lambda *_, **__: None, raising=False)
    monkeypatch.setattr("ray.util.queue.Queue", lambda **_: queue.Queue())
    monkeypatch.setattr("ray.util.queue.Empty", queue.Empty)
    told = []
    monkeypatch.setattr(tune.tune, "report", told.append)

    def attempt(task: Task, report: Any) -> Outcome:
        in_group(2, Resources(), tmp_path, lambda report: None, partial(report, "sft"))
        return DONE

    leases = iter((None, Ledger(tmp_path).lease(())))
    monkeypatch.setattr(tune, "POLL_SECONDS", 0.0)
    worker = SimpleNamespace(ledger=SimpleNamespace(lease=lambda _: next(leases)), attempt=attempt)
    tune._run_trial({"task": "a"}, {"a": Task("a", (SimpleNamespace(name="sft"),), (), ())}, worker)
    expected = [Progress(0, 0, note=HELD), steps[0], *steps[2:]]
    assert [one["progress"] for one in told[:-1]] == expected and told[-1] == {"outcome": DONE}


@pytest.mark.parametrize("reuse", [True, False])
def test_a_process_whose_gpu_has_failed_gets_no_other_task(reuse, monkeypatch, tmp_path):
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    from mm1_lab.orchestrate.execution import tune

    told = []
    monkeypatch.setattr(tune.tune, "report", told.append)
    monkeypatch.setattr(Worker, "run", Mock(side_effect=torch.AcceleratorError("CUDA error: unknown error\nmore")))
    worker = Worker(Ledger(tmp_path), None, smoke(reuse_processes=reuse))
    with pytest.raises(GpuFailed, match="CUDA error") if reuse else nullcontext():
        tune._run_trial({"task": "a"}, {"a": Task("a", (), (), ())}, worker)
    expected = Outcome("failed", "AcceleratorError: CUDA error: unknown error")
    assert told == ([] if reuse else [{"outcome": expected}])


def share(place: Any) -> None:
    """From now on two workers train what has the base's decoder or encoder, and divide the model to evaluate it."""
    scale = place.folder / "sweeps" / "scales" / "smoke.yaml"
    change(scale, "{cpus: 1}", "{cpus: 1, evaluation_shards: 2}\nworkers: {85M: 2, ViT-L: 2}")


def held_out_losses(place: Any) -> dict[str, float]:
    """By trial and source."""
    found = {}
    for path in place.results.glob("trials/*/held_out.csv"):
        for line in path.read_text().splitlines()[1:]:
            source, _, loss = line.partition(",")
            found[f"{path.parent.name} {source}"] = float(loss)
    return found


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_groups_of_two_score_as_one_process_does(place, finished):
    share(place)
    output = place.run(*ARMS)
    assert "failed" not in output and "lost" not in output, output
    curves = [sorted(where.results.glob("store/*/training.csv")) for where in (finished, place)]
    assert [path.parent.name for path in curves[0]] == [path.parent.name for path in curves[1]]
    for expected, actual in zip(*curves, strict=True):
        rows = [[line.split(",") for line in path.read_text().splitlines()[1:]] for path in (expected, actual)]
        for right, found in zip(*rows, strict=True):
            assert right[:2] == found[:2]
            assert float(found[2]) == pytest.approx(float(right[2]), rel=1e-4)
    losses = [held_out_losses(where) for where in (finished, place)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4) and len(losses[0]) == 8
    assert "nothing ran" in place.run(*ARMS)


@pytest.fixture
def own_ray(monkeypatch) -> Iterator[None]:
    """Beside those of other tests."""
    import ray

    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # otherwise Ray sets it to `token`, also for the next test
    ray.init("local", num_cpus=2, include_dashboard=False)
    yield
    ray.shutdown()


@pytest.mark.soak
@pytest.mark.timeout(300)
@pytest.mark.parametrize("broken", [0, 1])
@pytest.mark.usefixtures("own_ray")
def test_what_one_worker_raises_ends_the_group(broken, tmp_path):
    """Though the other waits for it in a collective, for up to half an hour."""

    def work(report: Report) -> None:
        team.wait()
        if team.rank() == broken:
            raise ValueError("a broken picture")
        team.wait()

    with pytest.raises(ValueError, match="a broken picture"):
        in_group(2, Resources(), tmp_path / "storage", work, lambda progress: None)


@pytest.mark.soak
@pytest.mark.timeout(300)
@pytest.mark.usefixtures("own_ray")
def test_a_group_ends_when_its_lease_is_lost(tmp_path):
    """Otherwise it would write checkpoints beside those of the process that took over."""

    def work(report: Report) -> None:
        for step in range(600):
            report(Progress(step, 600))
            time.sleep(0.1)
        (tmp_path / "ended").touch()

    def lose(progress: Progress) -> None:
        raise LeaseLost("another process has taken over")

    with pytest.raises(LeaseLost):
        in_group(2, Resources(), tmp_path / "storage", work, lose)
    assert not (tmp_path / "ended").exists()


def works(node: Any, name: str) -> bool:
    """Whether a process of Ray's on this node has a name that begins so."""
    raylet = str(node.all_processes["raylet"][0].process.pid)
    listed = subprocess.run(["ps", "--no-headers", "-o", "args", "--ppid", raylet], capture_output=True, text=True)
    return any(line.startswith(f"ray::{name}") for line in listed.stdout.splitlines())


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("grouped", [False, True], ids=["alone", "grouped"])
def test_a_node_goes_away_in_the_middle_of_a_stage(grouped, place, finished):
    """No retry is spent, and the tables are those of an undisturbed sweep (of groups: as long as they were alone)."""
    from ray.cluster_utils import Cluster

    change(place.folder / "sweeps" / "scales" / "smoke.yaml", "retries: 1", "retries: 0")
    if grouped:
        share(place)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
        process = place.start(*ARMS, "--address", cluster.address)
        while not (
            busy := [node for node in nodes if works(node, "RayTrainWorker" if grouped else "ImplicitFunc.train")]
        ):
            assert process.poll() is None, process.communicate()
            time.sleep(0.2)
        cluster.remove_node(busy[0], allow_graceful=False)
        cluster.add_node(num_cpus=1)
        output, _ = process.communicate()
        assert process.returncode == 0, output
        told = [line.partition(" ")[0] for line in output.splitlines()]  # Ray's own lines tell of failures, too
        assert not {"failed", "failed:"} & set(told), output
        assert grouped or "lost" in told, "a group that was still starting is started again by Ray Train, untold"
        assert not list(place.results.glob("failures/*.json"))
        if not grouped:
            assert place.tables() == finished.tables()
    finally:
        cluster.shutdown()
