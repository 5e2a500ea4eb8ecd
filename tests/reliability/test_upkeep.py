"""verify, gc, and the disk that a sweep needs."""

import errno
import json
import os
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from safetensors import SafetensorError

from mm1_lab.cli import main
from mm1_lab.orchestrate.execution.worker import Worker
from mm1_lab.orchestrate.planning.loading import load_request
from mm1_lab.orchestrate.planning.plan import Task
from mm1_lab.results import Ledger, ScoreRow, TrialRow
from mm1_lab.results.manifest import Manifest, merge_manifest
from mm1_lab.results.reading import read_variant
from tests.conftest import Place, Refused, Told


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    """Two finished trials, each with a model of its own, the encoder and decoder in common."""
    monkeypatch.chdir(tmp_path)
    results, store = Path("results/local"), Path("results/local/store")
    request = load_request("data_mix", "smoke", "1", ("base", "captions"), (), None, results, store)
    ledger = Ledger(results, store)
    training = tmp_path / "training.csv"
    training.write_text("step,name,value\n", encoding="utf-8")
    rows = []
    for trial in request.trials:
        model = trial.evaluation.model
        for stage in (model.encoder, model.decoder, model):
            if folder := ledger.begin_stage(stage.fingerprint):
                (folder / "model.safetensors").write_bytes(stage.fingerprint.encode() * 100)
                (folder / "stage.json").write_text(json.dumps({"kind": stage.KIND}), encoding="utf-8")
                ledger.finish_stage(stage.fingerprint)
        scores = [ScoreRow("vqa", "vqa", "vqa", shots, 0, "q", "colour", 50.0, "red", True) for shots in (0, 4, 8)]
        record = {"fingerprints": {stage.KIND: stage.fingerprint for stage in trial.evaluation.chain()}}
        ledger.write_scores(trial.fingerprint, scores, {"text": 1.0}, record, {"training.csv": training})
        rows.append(TrialRow(trial.arm, trial.seed, trial.fingerprint))
    manifest = Manifest(variant="data_mix", sweep=request.sweep, scale="smoke")
    merge_manifest(request.folder, manifest, rows, lambda _: True, lambda _: True)
    return ledger


def stages(ledger: Ledger) -> set[str]:
    return {path.parent.name for path in ledger.store.glob("*/DONE")}


def test_gc_frees_models_and_never_results(ledger: Ledger, told: Told) -> None:
    results = {path: path.read_bytes() for path in (ledger.results / "trials").rglob("*") if path.is_file()}
    for key, text in {"7ed": '{"kind": "sft"}', "bad": "{"}.items():
        if folder := ledger.begin_stage(key):
            (folder / "stage.json").write_text(text, encoding="utf-8")
            ledger.finish_stage(key)
    before = stages(ledger)
    (ledger.store / "old.damaged").mkdir()
    (ledger.store / "old.damaged" / "stage.json").write_text("{}", encoding="utf-8")
    (ledger.store / "be9").mkdir()  # another process begins it, and may have trained it when it is to be deleted
    assert re.search(r"would free [1-9].* [KM]B: 4 stages, and no results\. .* add --yes", told("gc"))
    assert stages(ledger) == before, "nothing without --yes"
    told("gc", "--yes")
    models = {ledger.record(path.name)["fingerprints"]["multimodal"] for path in (ledger.results / "trials").iterdir()}
    assert len(models) == 2 and stages(ledger) == before - models - {"7ed"} and not list(ledger.store.glob("*.damaged"))
    assert (ledger.store / "be9").exists()
    assert "trials again: their command with --anew\n" in told("gc", "--all", "--yes") and not stages(ledger)
    assert results == {path: path.read_bytes() for path in results}
    assert told("gc") == "there are no weights to delete\n"


def test_gc_waits_for_what_a_process_works_on_and_leaves_no_half_of_a_stage(
    ledger: Ledger, told: Told, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    held = Ledger(ledger.results, ledger.store).leases.take(["a", min(stages(ledger))])
    assert held
    monkeypatch.setattr("mm1_lab.results.upkeep.time", SimpleNamespace(sleep=lambda _: held.release()))
    with monkeypatch.context() as killed:
        killed.setattr(shutil, "rmtree", lambda *_, **__: None)  # as if it was killed meanwhile, or a disk refused
        count = len(stages(ledger))
        assert main(["gc", "--all", "--yes"]) == 1
    printed = capsys.readouterr()
    assert printed.out.startswith("freed 0 B: 0 stages") and printed.err.count(": could not be deleted") == count
    assert not stages(ledger) and not (ledger.store / ".claims" / "a").exists()
    told("gc", "--yes")
    assert not list(ledger.store.glob("*/model.safetensors")), "the same command goes on"


def test_gc_leaves_alone_a_folder_into_which_only_a_colleague_may_look(
    ledger: Ledger, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = ledger.store / "c105ed"
    closed.mkdir()
    stat = os.stat

    def refused(path: Any, **options: Any) -> os.stat_result:
        if os.fspath(path) == f"{closed}/DONE":
            raise PermissionError(errno.EACCES, "Permission denied")
        return stat(path, **options)

    monkeypatch.setattr(os, "stat", refused)
    assert "freed" in told("gc", "--all", "--yes") and not stages(ledger) and closed.exists()


def test_gc_deletes_no_stage_that_a_network_disk_does_not_tell_now(
    ledger: Ledger, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, stat = stages(ledger), os.stat

    def stale(path: Any, **options: Any) -> os.stat_result:
        if path == f"{ledger.store}/{min(before)}/DONE":
            raise OSError(errno.ESTALE, "Stale file handle", path)
        return stat(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", stale)
        assert "DONE: Stale file handle" in told("gc", "--yes", code=1)
    assert stages(ledger) == before


def test_verify_and_gc_leave_alone_what_a_running_command_is_about_to_rename(
    ledger: Ledger, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its files disappear under the reader's eyes, as the one does here."""
    for partial in (ledger.store / "a.partial", ledger.results / "trials" / "b.partial"):
        partial.mkdir()
        (partial / "DONE").write_text('{"files": {"renamed": "0"}}', encoding="utf-8")
    assert main(["verify"]) == 0 and not capsys.readouterr().err
    assert main(["gc", "--all", "--yes"]) == 0
    assert (ledger.store / "a.partial" / "DONE").exists()


def test_verify_reads_every_file(ledger: Ledger, capsys: pytest.CaptureFixture[str], printed: Told) -> None:
    count = len(stages(ledger)) + 2
    assert f"{count} finished trials and stages: every file was checked, 0 damaged" in printed("verify")
    stage = ledger.store / min(stages(ledger))
    trial = min((ledger.results / "trials").iterdir())
    (stage / "model.safetensors").write_bytes(b"x")
    (trial / "record.json").write_text(json.dumps({}), encoding="utf-8")
    assert main(["verify"]) == 1
    captured = capsys.readouterr()
    assert len(captured.err.splitlines()) == 2 and str(stage) in captured.err and str(trial) in captured.err
    assert "2 damaged" in captured.out and not stage.exists() and not trial.exists()
    assert captured.out.splitlines()[-1].startswith("1 trial of sweeps here without scores")
    Path("results/local").rename("kept")
    assert printed("verify", "--results", "kept").endswith(" or deleted (mm1-lab status --results kept)\n")
    for name in ("sweep.json", "trials.csv"):
        path = Path("kept/smoke/data_mix", name)
        content = path.read_bytes()
        path.write_bytes(content[:-9])
        assert main(["verify", "--results", "kept"]) == 1
        captured = capsys.readouterr()
        assert str(path) in captured.err and "\n1 sweep whose sweep.json or trials.csv cannot be used\n" in captured.out
        path.write_bytes(content)


@pytest.fixture
def closed(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A trial's folder into which this user may not look, as of a colleague with umask 077."""
    folder = ledger.trial_folder(min(path.name for path in ledger.trials.iterdir()))

    def guarded(function: Any) -> Any:
        def guard(path: Any, *more: Any, **named: Any) -> Any:
            if str(path).startswith(f"{folder}/"):
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return function(path, *more, **named)

        return guard

    monkeypatch.setattr(os, "stat", guarded(os.stat))
    monkeypatch.setattr("mm1_lab.results.ledger.open", guarded(open), raising=False)
    return folder


def test_a_trial_that_only_its_owner_may_read_is_not_done_again(
    closed: Path, refused: Refused, capsys: pytest.CaptureFixture[str], printed: Told
) -> None:
    told = f"{closed}: not readable for you; its owner ({closed.owner()}): chmod -R g+rX {closed.parent}"
    arms = ("data_mix", "--scale", "smoke", "--only", "base,captions")
    for words in (("plan", *arms), ("run", *arms, "--inline"), ("pack", str(closed.parents[1]))):
        assert refused(*words) == f"mm1-lab: {told}\n"
    assert main(["figures"]) == 2, "colleagues' tables would lose it"
    assert capsys.readouterr().err == f"mm1-lab: left out: {told}\nmm1-lab: {told}\n"
    assert sorted(read_variant(Path("results/local/smoke/data_mix")).trials["done"]) == [False, True]
    trials = json.loads(printed("status", *arms, "--json"))["sweeps"][0]["trials"]
    assert sorted((trial["state"], trial["why"]) for trial in trials) == [("done", ""), ("missing", told)]
    out = printed("verify")
    checked = "5 finished trials and stages: every file was checked, 0 damaged\n1 more not checked, such as "
    assert checked + told in out and "without scores" not in out


def test_a_closed_folder_of_trials_is_told_once(
    closed: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = closed.parent
    monkeypatch.setattr(os, "access", lambda path, mode: path != place)
    told = f"mm1-lab: {place}: not readable for you; its owner ({place.owner()}): chmod -R g+rX {place}\n"
    assert refused("plan", "data_mix", "--scale", "smoke", "--only", "base,captions") == told


def test_a_sweep_that_the_disk_has_no_room_for_is_refused(
    here: Path, monkeypatch: pytest.MonkeyPatch, refused: Refused
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=100_000))
    error = refused("run", "data_mix", "--scale", "smoke", "--inline", "--only", "base", "--store", "my store")
    assert "my store: the sweep needs" in error and "(mm1-lab gc --yes --store 'my store')" in error
    assert not list(here.rglob("sweep.json"))


@pytest.mark.parametrize(("number", "code"), [(errno.ENOSPC, 1), (errno.EROFS, 2)], ids=["full", "read-only"])
def test_a_disk_that_takes_nothing_is_told_in_a_line(
    number: int, code: int, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(path: Path, data: bytes) -> int:
        path.touch()
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "write_bytes", refuse)
    assert main(["run", "data_mix", "--scale", "smoke", "--inline", "--only", "base"]) == code
    text = f"trials.csv: {os.strerror(number)}; fix this and run the same command to continue\n"
    error = capsys.readouterr().err
    assert error.startswith("mm1-lab: /") and error.endswith(text) and error.count("\n") == 1
    assert not list(here.rglob("*trials.csv*")) and not list(here.rglob("*sweep.json*"))


def test_a_disk_that_fills_while_training_ends_the_command_in_a_line_and_uses_up_no_retry(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begun = []

    def fill(worker: Worker, task: Task, report: object) -> None:
        begun.append(task.key)
        raise OSError(f"a library's own\nOSError: [Errno 28] {os.strerror(errno.ENOSPC)}")

    monkeypatch.setattr(Worker, "run", fill)
    assert main(["run", "data_mix", "--scale", "smoke", "--inline", "--only", "base"]) == 1
    assert len(begun) == 1 and not list(here.glob("results/local/failures/*"))
    where = f"(in {here}/results/local/store or {here}/results/local)"
    error = f"mm1-lab: OSError: [Errno 28] No space left on device {where}"
    assert capsys.readouterr().err.splitlines() == [f"{error}; fix this and run the same command to continue"]


def test_results_that_cannot_be_written_are_drawn_elsewhere(
    here: Path, monkeypatch: pytest.MonkeyPatch, refused: Refused, capsys: pytest.CaptureFixture[str]
) -> None:
    """And where memory does not suffice, that is told."""

    def refuse(*_: object, **kinds: bool) -> None:
        raise OSError(errno.EROFS, "Read-only file system", "summary.md")

    monkeypatch.setattr("analysis.redraw.draw", refuse)
    error = refused("figures")
    assert error == "mm1-lab: summary.md: Read-only file system; draw into a folder of your own: --into DIR\n"
    monkeypatch.setattr("analysis.redraw.draw", Mock(side_effect=MemoryError))
    assert main(["figures"]) == 1 and capsys.readouterr().err.startswith("mm1-lab: the memory does not suffice")


@pytest.mark.usefixtures("unrendered")
def test_weights_that_gc_deleted_are_trained_again_with_the_same_scores(
    finished: Place, again: Place, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the command that `export` names; the trial that was not asked for stays without."""
    monkeypatch.chdir(again.folder)
    before = again.tables()
    assert "freed" in told("gc", "--all", "--yes")
    arm = ("data_mix", "--scale", "smoke", "--only", "base")
    error = told("export", *arm, "mine", code=2)
    command = "mm1-lab run data_mix --scale smoke --only base --anew"
    assert error.endswith(f"train it again: {command}\n") and error.count("\n") == 1
    assert "done      base / seed 0 in" in told(*command.split()[1:], "--inline")
    assert again.tables() == before
    stored = [path.relative_to(again.results) for path in again.results.glob("store/*/model.safetensors")]
    assert len(stored) == 3, "encoder, decoder and the model of one arm, bit by bit those of before"
    assert all((again.results / one).read_bytes() == (finished.results / one).read_bytes() for one in stored)
    with monkeypatch.context() as patch:
        full = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
        other = OSError("no number")
        patch.setattr("mm1_lab.orchestrate.exporting.MM1Processor.save_pretrained", Mock(side_effect=[full, other]))
        for code, text in ((1, "mine: No space left on device"), (2, "no number")):
            error = told("export", *arm, "mine", code=code)
            assert error == f"mm1-lab: {text}; fix this and run the same command to continue\n"
    assert told("export", *arm, "mine") == "mine\n"
