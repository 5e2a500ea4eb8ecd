"""`run --share`: any number of processes of one results folder do everything once, whichever of them are killed."""

import json
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import torch

from mm1_lab.cli import main
from mm1_lab.commands import running
from mm1_lab.config import Stage
from mm1_lab.files import HELD
from mm1_lab.orchestrate.execution import executor
from mm1_lab.orchestrate.execution.executor import Inline, Leaving, make_executor
from mm1_lab.orchestrate.execution.worker import StageReport, Worker
from mm1_lab.orchestrate.execution.worklist import Observer, WorkList
from mm1_lab.orchestrate.planning.loading import load_request
from mm1_lab.orchestrate.planning.plan import Task, make_plan
from mm1_lab.orchestrate.planning.request import Request
from mm1_lab.results import Ledger
from mm1_lab.results.leases import Lease
from mm1_lab.train import recorder
from mm1_lab.train.checkpoints import CHECKPOINT
from mm1_lab.train.module import Training
from mm1_lab.train.progress import Progress
from tests.conftest import Refused, Told
from tests.orchestrate.conftest import mark_done

RUN = ("run", "data_mix", "--scale", "smoke", "--only", "base", "--only", "captions")
SHARE = (*RUN, "--share")


def at_work(place: Any, processes: list[Any]) -> list[Any]:
    """Those of the processes that are in the middle of a stage."""
    holders = set()
    for path in place.results.glob("store/.claims/*"):
        try:
            holders |= set(path.read_text(encoding="utf-8").split())
        except FileNotFoundError:
            continue
    return [process for process in processes if f"pid={process.pid}" in holders]


@pytest.mark.slow  # three commands
def test_of_three_processes_two_are_killed_and_the_last_does_the_rest(place: Any, finished: Any) -> None:
    """One is killed in the first stages, one in the middle of a trial."""
    processes = [place.start(*SHARE) for _ in range(3)]
    alive, outputs = list(processes), []
    for moment in ("store/*.partial", "store/*/DONE"):
        while not (busy := any(place.results.glob(moment)) and at_work(place, alive)):
            assert any(process.poll() is None for process in alive), [process.communicate() for process in alive]
            time.sleep(0.01)
        os.kill(busy[0].pid, signal.SIGKILL)
        alive.remove(busy[0])
        outputs.append(busy[0].communicate()[0])
    for process in alive:
        output, _ = process.communicate()
        assert process.returncode == 0 and "Traceback" not in output, output
        outputs.append(output)
    assert place.tables() == finished.tables()
    assert place.done().keys() == finished.done().keys()
    done = Counter(re.findall(r"^done +(.*?) in \d", "\n".join(outputs), re.MULTILINE))
    # one that is killed may have ended its stage, and not have said so
    begun_by_killed = set(re.findall(r"^starts +(.*)$", "\n".join(outputs[:2]), re.MULTILINE))
    assert set(done.values()) == {1} and len(done.keys() | begun_by_killed) == 4, outputs
    assert not list(place.results.glob("store/*.partial"))
    # one that is killed as soon as its stage is done leaves a lease that nobody needs any more
    left = {path.name: path.read_text(encoding="utf-8").split() for path in place.results.glob("store/.claims/*")}
    assert left.keys() <= {Path(folder).name for folder in place.done()}, left
    assert not any(f"pid={process.pid}" in lease for process in alive for lease in left.values()), left
    assert "nothing ran" in place.run(*SHARE)


@pytest.mark.usefixtures("unrendered")
def test_in_time_it_leaves_a_checkpoint_from_which_the_next_resumes(
    place: Any, finished: Any, monkeypatch: pytest.MonkeyPatch, printed: Told
) -> None:
    """By a clock on which each step takes a minute, so that no training gets to its end in one command."""
    monkeypatch.chdir(place.folder)
    monkeypatch.setattr(recorder, "REPORT_SECONDS", 0.0)
    now = [0.0]
    clock = SimpleNamespace(monotonic=lambda: now[0], sleep=time.sleep)
    monkeypatch.setattr(executor, "time", clock)
    monkeypatch.setattr(running, "time", clock)
    told = WorkList.progress

    def progress(work_list: WorkList, task: Task, kind: str, progress: Progress) -> None:
        if kind != "evaluation":
            now[0] += 60
        told(work_list, task, kind, progress)

    monkeypatch.setattr(WorkList, "progress", progress)
    alone = ("run", "data_mix", "--scale", "smoke", "--only", "base", "--share")
    left, checkpoints = 0, set()
    for _ in range(100):
        output = printed(*alone, "--minutes", "4")
        if "Time is up, with " not in output:
            break
        left += 1
        checkpoints |= {path.parent.name for path in place.results.glob(f"store/*.partial/{CHECKPOINT}")}
        assert not list(place.results.glob("failures/*"))
    assert left > 3 and len(checkpoints) == 3, "each training was left in the middle"
    scores = {path: data for path, data in place.tables().items() if path.startswith("trials/")}
    assert len(scores) == 3 and scores.items() <= finished.tables().items()


def test_at_sigterm_it_leaves_a_checkpoint(here: Path, monkeypatch: pytest.MonkeyPatch, printed: Told) -> None:
    """At the next report, which comes a step later."""
    steps = []
    training_step = Training.training_step

    def step(*given: Any) -> Any:
        steps.append(given)
        if len(steps) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        if len(steps) == 2:
            assert signal.getsignal(signal.SIGTERM).__module__ == "mm1_lab.cli", "a second one stops at once"
            monkeypatch.setattr(recorder, "REPORT_SECONDS", 0.0)
        return training_step(*given)

    monkeypatch.setattr(recorder, "REPORT_SECONDS", 1e9)
    monkeypatch.setattr(Training, "training_step", step)
    before = signal.getsignal(signal.SIGTERM)
    assert "Time is up, with 4 tasks left" in printed(*SHARE) and len(steps) == 2
    assert len(list(here.glob(f"results/local/store/*.partial/{CHECKPOINT}"))) == 1
    assert signal.getsignal(signal.SIGTERM) == before


def test_whoever_leaves_after_a_failure_ends_with_1(here: Path, monkeypatch: pytest.MonkeyPatch, told: Told) -> None:
    for failed in (False, True):
        leave = Mock(side_effect=Leaving("Time is up", failed))
        monkeypatch.setattr("mm1_lab.orchestrate.recipe_search.run_request", leave)
        assert "Time is up" in told(*SHARE, code=int(failed))


class Finisher(Worker):
    def run(self, task: Task, report: StageReport) -> None:
        report(task.kind, Progress(1, 2))
        mark_done(self.ledger, task.key, task.kind == "trial")


@pytest.fixture
def request_(tmp_path: Path) -> Request:
    arms = ("base", "captions", "blind")
    return load_request("data_mix", "smoke", 1, arms, (), None, tmp_path / "results", tmp_path / "store")


def run(
    request: Request, executor: Inline, kind: type[Worker] = Finisher, observers: Sequence[Observer] = ()
) -> WorkList:
    plan, ledger = make_plan(request.trials, request.ledger), request.ledger
    work_list = WorkList(plan.tasks, lambda stage: 1.0, request.scale.retries, ledger, observers)
    executor.work(work_list, kind(ledger, None, request.scale))
    return work_list


def test_it_works_around_what_others_do_and_leaves_them_the_rest(request_: Request) -> None:
    other = load_request("data_mix", "smoke", 1, ("blind",), (), None, request_.ledger.results, request_.ledger.store)
    held = other.ledger.lease([other.trials[0].evaluation])
    assert held
    with pytest.raises(Leaving, match="1 task left, on which other processes are at work"):
        run(request_, Inline(leaves=True))
    done = [trial.arm for trial in request_.trials if request_.ledger.has_scores(trial.fingerprint)]
    assert done == ["base", "captions"]


def test_status_tells_what_is_being_worked_on(here: Path, capsys: pytest.CaptureFixture[str], printed: Told) -> None:
    request = load_request("data_mix", "smoke", 1, ("base", "captions"))
    ledger, model = request.ledger, request.trials[0].evaluation.model

    def told(*words: str) -> list[str]:
        trials = json.loads(printed("status", *words, "--scale", "smoke", "--json"))["sweeps"][0]["trials"]
        return [f"{trial['state']} {trial['why']}".strip() for trial in trials]

    request.write_manifest()
    assert told() == told("data_mix", "--only", "base,captions") == ["missing", "missing"]
    with held(ledger, model.encoder):
        assert told("data_mix", "--only", "base,captions") == ["running encoder", "running encoder"]
        write_curve(ledger, model.encoder)
        step = f"running encoder, step 3 of {model.encoder.training.steps}"
        assert told("data_mix", "--only", "base,captions") == [step, step]
        assert told() == ["missing", "missing"], "the sweep is not named"
    with held(ledger, request.trials[0].evaluation, model):
        left = "missing encoder was interrupted, starts again"
        assert told("data_mix", "--only", "base,captions") == ["running multimodal", left]
        write_curve(ledger, model)
        step = f"running multimodal, step 3 of {model.steps()}"
        assert told("data_mix", "--only", "base,captions") == [step, left]
        assert told() == ["running a process works on it", "missing"]
        assert main(["status", "data_mix", "--scale", "smoke", "--only", "base,captions"]) == 0
        assert ": 0 done, 1 missing, 0 failed, 1 running; " in capsys.readouterr().out
        mark_done(ledger, model.fingerprint, False)
        assert told("data_mix", "--only", "base,captions") == ["running evaluation", left]
        for path in (ledger.store / ".claims").iterdir():
            os.utime(path, (time.time() - 40,) * 2)  # as of a process that is gone
        assert told("data_mix", "--only", "base,captions") == [left, left] and told() == ["missing", "missing"]
    ledger.record_failure(model.encoder.fingerprint, "encoder", 1, "failed", "out of luck")  # in another sweep
    waits = "failed encoder: out of luck (1 attempt; no log)"
    assert told("data_mix", "--only", "base,captions") == [waits, waits] and told() == ["missing", "missing"]


def write_curve(ledger: Ledger, stage: Stage) -> None:
    """Of a training after its third step."""
    folder = ledger.partial_folder(stage.fingerprint)
    folder.mkdir()
    (folder / "training.csv").write_text("step,name,value\n1,loss,2.5\n3,loss,2.1\n", encoding="utf-8")


def held(ledger: Ledger, *stages: Stage) -> Lease:
    lease = ledger.lease(stages)
    assert lease
    return lease


def test_it_waits_for_what_will_free_work(request_: Request, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here for an encoder, until its process is gone; it says so once."""
    held = request_.ledger.lease([request_.trials[0].evaluation.model.encoder])
    assert held
    waited = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 3:
            held.release()

    class Notes(Observer):
        def progress(self, task: Task, kind: str, progress: Progress) -> None:
            if progress.note:
                told.append((task.key, kind, progress.note))

    told: list[tuple[str, str, str]] = []
    monkeypatch.setattr(executor, "time", SimpleNamespace(monotonic=time.monotonic, sleep=sleep))
    assert len(run(request_, Inline(leaves=True), observers=[Notes()]).done) == 5 and len(waited) == 3
    assert told == [(request_.trials[0].evaluation.model.encoder.fingerprint, "encoder", HELD)]


def test_what_failed_for_another_is_not_tried_again_but_what_failed_before_is(request_: Request) -> None:
    ledger, (base, captions, blind) = request_.ledger, request_.trials
    ledger.record_failure(blind.fingerprint, "blind", 2, "failed", "an earlier command")
    tried = []

    class Witness(Finisher):
        def run(self, task: Task, report: StageReport) -> None:
            tried.append(task.key)
            if task.key == base.fingerprint:  # meanwhile, elsewhere
                ledger.record_failure(captions.fingerprint, "captions", 2, "diverged", "the loss is nan")
            super().run(task, report)

    result = run(request_, Inline(leaves=True), Witness)
    assert blind.fingerprint in tried and captions.fingerprint not in tried
    assert result.failed[captions.fingerprint].reason == "the loss is nan" and result.exhausted


def test_a_process_whose_gpu_has_failed_leaves_the_rest(request_: Request) -> None:
    """CUDA then refuses all else that this process asks: each task would fail in turn, and for the others, too. The
    same command, whose first task fails at any time, comes to the rest, and ends as one that has failed."""
    first = next(iter(make_plan(request_.trials, request_.ledger).tasks))

    class Broken(Finisher):
        def run(self, task: Task, report: StageReport) -> None:
            if task.key == first:
                text = "CUDA error: an illegal memory access was encountered\nIt may be asynchronous"
                raise torch.AcceleratorError(text)
            super().run(task, report)

    with pytest.raises(Leaving, match="The GPU of this process has failed, with 1 task left") as left:
        run(request_, Inline(leaves=True), Broken)
    assert left.value.failed
    (failure,) = request_.ledger.failures().values()
    assert failure["reason"] == "AcceleratorError: CUDA error: an illegal memory access was encountered"
    again = run(request_, Inline(leaves=True), Broken)
    assert again.exhausted and len(again.done) == 1 and again.failed.keys() == {first}
    assert len(run(request_, Inline(leaves=True)).done) == 4  # of the five tasks one is done


def test_an_evaluation_begins_if_it_will_end_or_as_the_first(
    request_: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no checkpoints: one that takes three hours of four is left to the next after an hour, or two."""
    now = [0.0]
    monkeypatch.setattr(executor, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=time.sleep))

    class Slow(Finisher):
        def run(self, task: Task, report: StageReport) -> None:
            report(task.stages[-1].KIND, Progress(0, 0))
            super().run(task, report)
            now[0] += 3600 * (3 if task.kind == "trial" else 1)

    def trials_after_a_command() -> int:
        plan = make_plan(request_.trials, request_.ledger)
        work_list = WorkList(plan.tasks, lambda stage: 3 * 3600.0, 0, request_.ledger)
        ledger = request_.ledger
        worker = Slow(ledger, None, request_.scale)
        with pytest.raises(Leaving, match="Time is up"):
            Inline(leaves=True, minutes=4 * 60).work(work_list, worker)
        return sum(ledger.has_scores(trial.fingerprint) for trial in request_.trials)

    assert [trials_after_a_command() for _ in range(3)] == [0, 1, 2]


def test_the_usual_folders_may_be_named(here: Path) -> None:
    """The default results by their whole path, and the default store of other results."""
    alone = ("--share", "--minutes", "0.001")
    assert main([*RUN, *alone, "--results", str(here / "results" / "local")]) == 0
    assert main([*RUN, *alone, "--results", "elsewhere", "--store", "results/local/store"]) == 0


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--minutes", "5"], "--minutes needs --share"),
        (["--share", "--minutes", "0"], "--minutes needs --share, and a positive number"),
        (["--share", "--minutes", "nan"], "and a positive number"),
        (["--share", "--minutes", "an hour"], "argument --minutes: invalid float value: 'an hour'"),
        (["--share", "--anew"], "--anew deletes what other processes with --share have done; leave one of them out"),
    ],
)
@pytest.mark.usefixtures("here")
def test_options_that_make_no_sense(options: list[str], told: str, refused: Refused) -> None:
    assert told.removeprefix("argument ") in refused(*RUN, *options)


def test_rounds_wait_for_each_other() -> None:
    alone = make_executor(load_request("data_mix", "smoke"), share=True, rounds=True)
    assert isinstance(alone, Inline) and not alone.leaves
