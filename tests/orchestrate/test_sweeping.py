"""What a command does about results that are there."""

import errno
import multiprocessing
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from mm1_lab import files
from mm1_lab.config import EncoderStage, RequestError
from mm1_lab.orchestrate import sweeping
from mm1_lab.orchestrate.execution.executor import Executor, Inline
from mm1_lab.orchestrate.execution.ray_tune import RayTune
from mm1_lab.orchestrate.execution.worker import Worker
from mm1_lab.orchestrate.execution.worklist import Outcome, WorkList
from mm1_lab.orchestrate.planning.loading import load_request
from mm1_lab.orchestrate.planning.plan import Task, make_plan
from mm1_lab.orchestrate.planning.request import Request
from mm1_lab.orchestrate.sweeping import Draw, Round, forget_trials, run_until_decided
from mm1_lab.train.checkpoints import BEFORE, CHECKPOINT
from mm1_lab.train.progress import Diverged
from mm1_lab.train.recorder import CURVE
from tests.orchestrate.conftest import mark_done


@pytest.fixture
def request_(tmp_path, monkeypatch) -> Request:
    """A finished trial with its weights."""
    monkeypatch.chdir(tmp_path)
    request = load_request("data_mix", "smoke", only=("base",))
    mark_done(request.ledger, request.trials[0].evaluation.model.fingerprint)
    mark_done(request.ledger, request.trials[0].fingerprint, is_trial=True)
    return request


@pytest.fixture
def worker(request_) -> Worker:
    return Worker(request_.ledger, None, request_.scale)


def test_anew_that_is_refused_deletes_nothing(request_, monkeypatch):
    """Another command works on the second of two trials; weights that were found intact are not taken for there. What
    a command left that ended with its machine lapses."""
    monkeypatch.setattr(files, "RENEW_SECONDS", 0.3)
    monkeypatch.setattr(files, "LEASE_SECONDS", 1.0)
    request = load_request("data_mix", "smoke", only=("base", "captions"))
    ledger = request.ledger
    base, captions = (trial.fingerprint for trial in request.trials)
    assert ledger.has_intact_weights(request.trials[0].evaluation.model.fingerprint)
    held = request_.ledger.leases.take([captions])
    assert held
    files.write_text(request.folder / "table.md", "of both")
    with pytest.raises(RequestError, match="--anew: another command works on captions / seed 0"):
        forget_trials(request.trials, request, Inline())
    assert ledger.has_scores(base) and (request.folder / "table.md").exists()
    path = ledger.leases.folder / captions
    left = path.read_text(encoding="utf-8").replace("host=", "host=another-")
    held.release()
    path.write_text(left, encoding="utf-8")
    forget_trials(request.trials, load_request("data_mix", "smoke", only=("base", "captions")), Inline())
    assert not ledger.has_scores(base) and not (request.folder / "table.md").exists()
    kinds = [stage.KIND for _, stage in make_plan(request_.trials, ledger).missing]
    assert kinds[-2:] == ["multimodal", "evaluation"]


def test_a_study_shares_its_folder_with_no_other_seeds_and_anew_deletes_nothing_there(request_, refused):
    """By the lowest seeds of the folder its pages would be judged."""
    run = ("run", "data_mix", "--scale", "smoke", "--only", "base", "--inline", "--anew")
    other = load_request("data_mix", "smoke", only=("base",), seeds="3-4")
    other.write_manifest()
    for command in (run, run[:-1]):
        told = refused(*command, "--seeds", "2", "--until-decided")
        assert "has results at seed 3, which is not of this study; give --results" in told
    replace(other, looks=(2,)).write_manifest()
    load_request("data_mix", "smoke", only=("base",), seeds="4,").write_manifest()
    assert re.search("looks were fixed at 2 seeds .* --until-decided --looks 2, or run other seeds", refused(*run))
    assert request_.ledger.has_scores(request_.trials[0].fingerprint)


def test_a_failure_is_forgotten_when_its_stage_is_done_in_another_task(request_, worker):
    """As of a model that two trials share, if later one of them is run alone."""
    ledger, (trial,) = request_.ledger, request_.trials
    model = trial.evaluation.model
    ledger.record_failure(model.fingerprint, "multimodal for base / seed 0", 2, "failed", "the disk was full")
    task = Task(trial.fingerprint, (model, trial.evaluation), (), (trial,))
    worker.run(task, lambda kind, progress: None)
    assert not ledger.failures()


def test_damaged_weights_are_not_loaded(request_, capsys):
    trial = request_.trials[0]
    (request_.ledger.stage_folder(trial.evaluation.model.fingerprint) / "model.safetensors").write_bytes(b"x")
    with pytest.raises(RequestError, match="there are no weights for it"):
        request_.weights_of(trial)
    assert "damaged" in capsys.readouterr().err


class Finished(Executor):
    """Finds the results of every task written."""

    def work(self, work_list: WorkList, worker: Worker) -> None:
        for task in list(work_list.ready()):
            work_list.take(task)
            work_list.started(task)
            work_list.settle(task, Outcome())


def test_workers_are_ignored_and_told_where_a_stage_is_one_process(request_, capsys, database):
    shutil.copy(database, request_.ledger.results)
    told = "`workers` are ignored: without Ray (--inline, --share) a stage is one process"
    for workers, lines in (({"85M": 99}, 1), ({"302M": 99}, 0)):
        request = load_request("data_mix", "smoke", only=("captions",), settings=(f"workers={workers}",))
        sweeping.complete(request, Finished(), lambda folder: [])
        assert capsys.readouterr().out.count(told) == lines


def test_more_workers_than_fit_are_refused_before_anything_is_written(request_, monkeypatch):
    executor = RayTune()
    monkeypatch.setattr(executor, "open", lambda scale: setattr(executor, "slots", 1))
    request = load_request("data_mix", "smoke", only=("captions",), settings=("workers={85M: 2}",))
    with pytest.raises(RequestError, match="2 workers, but only 1 fit; set fewer"):
        sweeping.complete(request, executor, lambda folder: [])
    assert not request.folder.exists()


def test_a_result_that_cannot_be_read_back_is_told_and_the_sweep_goes_on(request_, capsys):
    (trial,) = request_.trials
    plan = make_plan([trial], request_.ledger)
    plan.tasks = {trial.fingerprint: Task(trial.fingerprint, (trial.evaluation,), (), (trial,))}
    folder = request_.ledger.trial_folder(trial.fingerprint)
    (folder / "scores.parquet").write_bytes(b"PAR1")
    assert len(sweeping.work_through(plan, request_, Finished()).done) == 1
    told = capsys.readouterr().out.splitlines()[-1]
    assert told.startswith("done      base / seed 0 in ") and f"{folder}/scores.parquet: cannot be read (" in told


def test_a_model_without_a_loss_has_diverged_and_gets_no_scores(request_, worker, monkeypatch):
    ledger, trial = request_.ledger, request_.trials[0]
    ledger.forget(trial.fingerprint)
    evaluation = SimpleNamespace(held_out_loss={"captions": 1.5, "text": float("nan")})
    monkeypatch.setattr("mm1_lab.evaluate.run.evaluate", lambda *_: evaluation)
    (task,) = make_plan(request_.trials, ledger).tasks.values()
    outcome = worker.attempt(task, lambda kind, progress: None)
    assert outcome == Outcome("diverged", "after training the loss on text is nan; lower learning_rate")
    assert not ledger.has_scores(trial.fingerprint)


def test_after_a_failure_its_reason_is_to_be_mended(request_, capsys):
    (trial,) = request_.trials
    plan = make_plan([trial], request_.ledger)
    task = Task(trial.fingerprint, (trial.evaluation,), (), (trial,))
    plan.tasks = {task.key: task}
    for outcome, told in (
        (
            Outcome("failed", "no picture"),
            "failed: base / seed 0: no picture\nMend what its reason names, and run the sa",
        ),
        (Outcome("diverged", "the loss is nan"), "diverged: base / seed 0: the loss is nan; with the same code it wo"),
    ):
        work_list = WorkList(plan.tasks, lambda stage: 1.0, 0, request_.ledger)
        work_list.take(task)
        work_list.settle(task, outcome)
        Round(request_, plan, work_list).show()
        assert f"\n{told}" in f"\n{capsys.readouterr().out}"


def test_full_shared_memory_is_no_full_disk(request_, worker, monkeypatch):
    """Where a batch has no room; and a lock, of which Lightning's clean-up tells nothing."""

    def batch(*_: object) -> None:
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")

    def lock(*_: object) -> None:
        try:
            multiprocessing.Lock()
        finally:
            raise RuntimeError("Please call `iter(combined_loader)` first.")

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("multiprocessing.synchronize.SemLock._make_name", refuse)
    (trial,) = request_.trials
    task = Task(trial.fingerprint, (trial.evaluation,), (), (trial,))
    for run in (batch, lock):
        monkeypatch.setattr(Worker, "run", run)
        outcome = worker.attempt(task, lambda kind, progress: None)
        assert outcome.kind == "disk full" and "No space left on device" in outcome.reason
        assert outcome.reason.endswith(
            "(in /dev/shm; enlarge it, as by docker run --shm-size=8g, or --set resources.workers=0)"
        )


def test_of_a_training_that_diverged_the_curve_stays_but_no_checkpoint(request_, worker, monkeypatch):
    ledger, (trial,) = request_.ledger, request_.trials
    stage = next(needed for needed in trial.evaluation.chain() if isinstance(needed, EncoderStage))
    partial = ledger.partial_folder(stage.fingerprint)

    def diverge(*_: object) -> None:
        (partial / CURVE).touch()
        for name in (CHECKPOINT, BEFORE):
            (partial / name).mkdir()
        raise Diverged("the loss of step 6 is nan")

    monkeypatch.setattr(Worker, "_run_stage", diverge)
    outcome = worker.attempt(Task(stage.fingerprint, (stage,), (), (trial,)), lambda kind, progress: None)
    assert outcome.kind == "diverged" and [path.name for path in partial.iterdir()] == [CURVE]


def test_a_repeated_study_judges_each_look_by_its_seeds_and_says_what_is_missing(ask, monkeypatch, capsys):
    """Of three arms one stays after the first look; of the others, one has all its trials from an earlier command."""
    request = replace(ask("base", "captions", "interleaved", seeds="6,3,8,5"), looks=(2, 3, 4))
    ledger = request.ledger

    def complete(request: Request, executor: Executor, draw: Draw) -> Round:
        for trial in request.trials:
            mark_done(ledger, trial.fingerprint, is_trial=True)
        return Round(request, make_plan(request.trials, ledger), None)

    judged = []

    def judge(folder: Path, seeds: Sequence[int]) -> tuple[list[str], list[str]]:
        judged.append(list(seeds))
        return ["a lesson: open"], ["base"]

    monkeypatch.setattr(sweeping, "complete", complete)
    monkeypatch.setattr(Round, "show", lambda *given: None)
    for trial in request.trials:
        if trial.arm == "captions":
            mark_done(ledger, trial.fingerprint, is_trial=True)
    outputs = []
    for _ in range(2):
        assert run_until_decided(request, Inline(), lambda _: [], judge, lambda _: "") == 0
        outputs.append(capsys.readouterr().out)
    assert judged == 2 * [[3, 5], [3, 5, 6], [3, 5, 6, 8]]
    assert outputs[0] == outputs[1] and "\nAfter 3 of at most 4 seeds:\n  a lesson: open\n" in outputs[0]
    assert outputs[0].endswith("2 trials of 12 not run: not needed.\n")


def test_a_sweep_is_drawn_again_once_its_contents_or_its_files_are_others_whatever_the_dates(request_, monkeypatch):
    rows, ledger = request_.write_manifest(), request_.ledger
    table, gates = request_.folder / "table.md", request_.folder.with_name("check_scale") / "gates.csv"
    held_out = ledger.trial_folder(rows[0].fingerprint) / "held_out.csv"
    gates.parent.mkdir()
    drawn = []

    def draw(folder: Path) -> list[Path]:
        table.touch()
        os.utime(table, (2e9, 2e9))
        drawn.append(folder)
        return [table]

    def upgrade() -> None:
        monkeypatch.setattr("mm1_lab.results.manifest.__version__", "99.0")

    failed, cut = lambda: gates.write_text("failed"), lambda: held_out.write_text("cut")
    changes = (lambda: None, table.unlink, failed, cut, upgrade)
    for count, change in enumerate((*changes, lambda: ledger.forget(rows[0].fingerprint)), 1):
        change()
        for _ in range(2):
            sweeping.draw_changed(request_, draw, {})
            assert len(drawn) == min(count, len(changes))
    assert not table.exists(), "of no scores"
    for text in ("3", '{"drawn": 3, "trials": {}}', '{"drawn": [], "trials": []}'):
        (request_.folder / ".drawn.json").write_text(text)
        assert sweeping.drawn_contents(request_.folder) == {}
