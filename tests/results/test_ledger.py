import errno
import os
import re
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pandas as pd
import pytest

from mm1_lab import files, machine
from mm1_lab.config import RequestError
from mm1_lab.orchestrate.planning.loading import load_request
from mm1_lab.results import Ledger, ScoreRow, TrialRow, variant_name
from mm1_lab.results import ledger as ledger_module
from mm1_lab.results.manifest import Manifest, merge_manifest, read_manifest, read_trials
from mm1_lab.results.reading import list_variants, read_held_out, read_scores, read_variant
from mm1_lab.results.score_file import read_score_table, read_short_tables, write_scores
from tests.analysis.results_folder import of_arms

TRICKY = ("NA", "None", "", 'say "red", then\nblue', "1e5")
"""Predictions that a careless reader would turn into something else."""


def scores() -> list[ScoreRow]:
    return [
        ScoreRow("vqa", "vqa", "vqa", 0, number % 2, f"q{number}", "colour", 100 * number / 3, prediction, number != 2)
        for number, prediction in enumerate(TRICKY)
    ]


def write(ledger: Ledger, fingerprint: str, folder: Path) -> None:
    training = folder / "training.csv"
    training.write_text("step,name,value\n1,loss,2.5\n")
    ledger.write_scores(fingerprint, scores(), {"text": 2 / 3}, {"seed": 0}, {"training.csv": training})


def manifest(tmp_path: Path, seeds: str = "1") -> tuple[Manifest, list[TrialRow]]:
    request = load_request("data_mix", "smoke", seeds, (), (), None, tmp_path / "results", tmp_path / "store")
    rows = [TrialRow(trial.arm, trial.seed, trial.fingerprint) for trial in request.trials]
    return Manifest(variant="data_mix", sweep=request.sweep, scale="smoke"), rows


def test_what_another_machine_has_finished_is_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On NFS a folder that was missing stays so for a while, unless one tries to make it."""
    trial = load_request("data_mix", "smoke", 1, (), (), None, tmp_path / "results", tmp_path / "store").trials[0]
    stages = (trial.evaluation.model, trial.evaluation)
    there, here = (Ledger(tmp_path / "results", tmp_path / "store") for _ in range(2))
    missing: set[str] = set()
    look, make = os.stat, os.mkdir

    def cached_look(path: Any, **options: Any) -> os.stat_result:
        folder, _, name = str(path).rpartition("/")
        if name == files.DONE and (folder in missing or not os.path.isdir(folder)):
            missing.add(folder)
            raise FileNotFoundError(path)
        return look(path, **options)

    def make_anew(path: Any, *mode: int) -> None:
        missing.discard(str(path))
        make(path, *mode)

    lease = there.lease(stages)
    assert lease
    monkeypatch.setattr(os, "stat", cached_look)
    monkeypatch.setattr(os, "mkdir", make_anew)
    assert here.lease(stages) is None
    there.begin_stage(stages[0].fingerprint)
    there.finish_stage(stages[0].fingerprint)
    write(there, trial.fingerprint, tmp_path)
    lease.release()
    assert len(missing) == 2 and not any(map(here.is_done, stages))
    with here.lease(stages) or pytest.fail("not released"):
        assert all(map(here.is_done, stages))


def test_scores_come_back_as_they_were_written_or_are_refused(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "results", tmp_path / "store")
    folder = ledger.results / "smoke" / "data_mix"
    sweep, rows = manifest(tmp_path)
    merge_manifest(folder, sweep, rows, lambda row: True, lambda _: True)
    write(ledger, rows[1].fingerprint, tmp_path)
    assert list_variants(ledger.results) == [folder]
    variant = read_variant(folder)
    table = read_scores(variant)
    assert tuple(table["prediction"]) == TRICKY
    assert table["score"].tolist() == pytest.approx([100 * i / 3 for i in range(5)], rel=1e-7)
    assert table["parsed"].tolist() == [True, True, False, True, True]
    assert set(table["arm"]) == {rows[1].arm} and set(table["seed"]) == {0}
    assert read_held_out(variant)["loss"].tolist() == pytest.approx([2 / 3], rel=1e-8)
    path = ledger.trial_folder(rows[1].fingerprint) / "scores.parquet"
    pd.read_parquet(path).rename(columns={"block": "blok"}).to_parquet(path)
    with pytest.raises(RequestError, match=r"scores\.parquet: cannot be read .*block"):
        read_scores(variant)


def test_kinds_that_earlier_versions_called_otherwise_are_read_by_their_names_of_now(tmp_path: Path) -> None:
    rows = []
    for family, kind in (("chat", "the"), ("chat", "color"), ("chat", "thing"), ("chat", "count"), ("vqa", "the")):
        rows.append(ScoreRow(f"{family}-vqa", family, "exact", 0, 0, f"{family} {kind}", kind, 0.0, "", True))
    rows.append(ScoreRow("mine", "chat", "exact", 0, 0, "mine", "thing", 0.0, "", True))  # of a benchmark of one's own
    write_scores(tmp_path, rows)
    for table in (read_score_table(tmp_path), read_short_tables([tmp_path])):
        assert table["kind"].tolist() == ["place", "colour", "shape", "count", "the", "thing"]


def test_what_a_kill_left_counts_only_if_it_was_done(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "results", tmp_path / "store")
    ledger.begin_stage("f")
    (ledger.partial_folder("f") / "DONE").write_text("{}")  # before the rename
    assert ledger.begin_stage("f") is None and ledger.has_weights("f")
    for name in ("f", "f.partial"):
        (ledger.results / "trials" / name).mkdir(parents=True)
        (ledger.results / "trials" / name / "scores.parquet").write_text("benchm")
    assert not ledger.has_scores("f")
    write(ledger, "f", tmp_path)
    assert ledger.has_scores("f") and not (ledger.results / "trials" / "f.partial").exists()


def test_a_failure_that_is_cleared_meanwhile_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the listing and the reading."""
    ledger = Ledger(tmp_path)
    for name in ("cleared", "stays"):
        ledger.record_failure(name, "base / seed 0", 1, "diverged", "loss is nan")
    read = ledger_module.read_json

    def clear_first(path: Path, *more: Any) -> Any:
        ledger.clear_failure("cleared")
        return read(path, *more)

    monkeypatch.setattr(ledger_module, "read_json", clear_first)
    assert ledger.diverged() == {"stays": "loss is nan"}
    monkeypatch.undo()
    ledger.failure_file("stays", "log").write_text("Traceback")
    tmp_path.rename(moved := tmp_path.with_name("moved"))
    ledger = Ledger(moved)
    assert ledger.failures()["stays"]["log"] == str(moved / "failures" / "stays.log"), "where it is now"
    ledger.failure_file("stays").write_text("{")
    with pytest.raises(RequestError, match="delete it and run the sweep again"):
        ledger.failures()


def test_weights_that_are_damaged_after_a_plan_has_read_them_are_not_loaded(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    folder = ledger.begin_stage("f")
    assert folder is not None
    (folder / "model.safetensors").write_bytes(b"weights")
    ledger.finish_stage("f")
    assert ledger.has_intact_weights("f") and ledger.weights("f")
    (ledger.stage_folder("f") / "model.safetensors").write_bytes(b"wrights")
    with pytest.raises(RequestError, match="the weights are damaged or missing; run the sweep again"):
        ledger.weights("f")


def test_a_folder_whose_name_is_not_in_utf_8_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"cannot be written to \(its name is not in UTF-8\); choose"):
        Ledger(tmp_path / "caf\udce9").check_writable()


def test_a_later_run_adds_seeds_and_drops_what_is_not_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "smoke" / "data_mix"
    sweep, first = manifest(tmp_path)
    _, both = manifest(tmp_path, seeds="2")
    merge_manifest(folder, sweep, first, lambda row: True, lambda _: True)
    second = [row for row in both if row.seed == 1]
    merge_manifest(folder, sweep, second, lambda row: row.arm != "blind", lambda _: True)
    output = capsys.readouterr().out
    assert "1 trial of earlier runs left the tables (blind), as" in output and "other trials" not in output
    assert read_trials(folder) == [row for row in both if (row.arm, row.seed) != ("blind", 0)]
    assert list(read_manifest(folder).sweep.panels["a"].arms) == ["100/0", "66/33", "50/50", "33/66", "0/100"]
    path = folder / "sweep.json"
    text = re.sub(r'"digest": "[0-9a-f]+"', '"digest": null', path.read_text(encoding="utf-8"))
    path.write_text(text.replace("{", '{"later": 1,', 1), encoding="utf-8")
    with pytest.raises(RequestError, match=r"unknown key 'later'.*: use that one"):
        read_manifest(folder)
    arms = dict.fromkeys(("base", "same"), sweep.sweep.base)
    own = sweep.model_copy(update={"sweep": of_arms(sweep.sweep, arms)})
    rows = [TrialRow(arm, seed, str(seed)) for seed in (0, 1) for arm in arms]
    for added in (rows[:2], rows[2:]):
        merged = merge_manifest(tmp_path / "smoke" / "own", own, added, lambda _: True, lambda _: True)
    assert merged == rows, "arms that are the same keep their names"


@pytest.mark.parametrize("killed", ["write_csv", "write_json"])
def test_killed_before_either_file_is_written_renamed_arms_stay(
    killed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "smoke" / "data_mix"
    sweep, rows = manifest(tmp_path)
    merge_manifest(folder, sweep, rows, lambda _: True, lambda _: True)
    renamed = {f"{arm} again": recipe for arm, recipe in sweep.sweep.arms.items()}
    sweep = sweep.model_copy(update={"sweep": of_arms(sweep.sweep, renamed)})

    def kill(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(f"mm1_lab.results.manifest.{killed}", kill)
        merge_manifest(folder, sweep, [], lambda _: True, lambda _: True)
    merged = merge_manifest(folder, sweep, [], lambda _: True, lambda _: True)
    assert merged == [replace(row, arm=f"{row.arm} again") for row in rows]


def test_settings_and_data_name_the_variant_if_they_change_what_is_trained() -> None:
    def name(*settings: str, data: str = "world") -> str:
        return variant_name("s", settings, data)

    assert name("resources.cpus=1", "hardware.count=8", "workers={ViT-L: 2}", "retries=0") == name() == "s"
    assert name("resources.gpus=1") == "s,resources.gpus=1", "it chooses attention's kernel"
    assert name("resources={gpus: 1}") != "s"
    last = name("train.steps=200", "patch=4", " train.steps = 300 ", data="books")
    assert last == "s,patch=4,train.steps=300,data=books"
    spelt = {name(f"evaluate.shots={value}") for value in ("[0, 4]", "[0,4]", "[ 0,  4 ]")}
    others = {name(f"evaluate.shots={value}") for value in ("[0,_4]", "[0/4]")}
    assert len(spelt) == 1 and len(spelt | others) == 3
    assert not any(set(one) & set("/ []") for one in spelt | others)
    assert name("train.learning_rate=1e-3") == name("train.learning_rate=1.0e-3") == "s,train.learning_rate=0.001"
    assert name("train.steps=1e3") == name("train.steps=1000.0") == name("train.steps=1000") == "s,train.steps=1000"
    assert name("decoder=nan") == "s,decoder=nan"
    assert name("a=1,b=2") != name("a=1", "b=2")


def test_a_sweep_without_trials_has_none_done_and_its_command_does_not_invent_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "results" / "smoke" / "data_mix"
    sweep, rows = manifest(tmp_path)
    merge_manifest(folder, sweep, [], lambda row: True, lambda _: True)
    assert list(read_variant(folder).done["arm"]) == []
    merge_manifest(folder, sweep, [replace(rows[0], seed=5)], lambda row: True, lambda _: False)
    with pytest.raises(RequestError, match=r"no trial is finished; run the sweep: .* --seeds 5, --results"):
        read_scores(read_variant(folder))
    with monkeypatch.context() as there:
        there.chdir(folder.parent)
        assert read_variant(Path(folder.name)).folder == folder
    own = sweep.model_copy(update={"data_name": "books-1f9ac2"})
    assert own.command() == f"mm1-lab run {sweep.sweep.name} --scale {sweep.scale} --data FOLDER/books.yaml"


def test_a_finished_stage_is_readable_whoever_began_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Libraries keep some files to their owner; only the owner can change a file's mode, even to what it is."""

    def refuse(path: Path, mode: int) -> None:
        raise PermissionError(1, "Operation not permitted", str(path))

    ledger = Ledger(tmp_path / "results", tmp_path / "store")
    for fingerprint, mode in (("own", 0o600), ("colleague's", 0o666)):
        partial = ledger.begin_stage(fingerprint)
        assert partial is not None
        (partial / "model.safetensors").touch(mode)
        ledger.finish_stage(fingerprint)
        assert ledger.has_weights(fingerprint)
        monkeypatch.setattr(Path, "chmod", refuse)
    folder = ledger.stage_folder("own")
    assert (folder / "model.safetensors").stat().st_mode == (folder / "DONE").stat().st_mode


def test_in_a_folder_that_a_group_shares_all_is_the_group_s_whatever_the_umask(tmp_path: Path) -> None:
    """Elsewhere a file keeps the mode of the one that it replaces, and a new one has that of the umask."""
    (tmp_path / "team").mkdir()
    (tmp_path / "team").chmod(0o775)
    (tmp_path / "team" / "before.csv").touch(0o600)
    (tmp_path / "own.csv").touch(0o644)
    (tmp_path / "all").mkdir()
    (tmp_path / "all").chmod(0o777)
    before = os.umask(0o077)
    try:
        ledger = Ledger(tmp_path / "team" / "results")
        ledger.check_writable()
        ledger.write_scores("f0", [], {}, {}, {})
        partial = ledger.begin_stage("f1")
        assert partial is not None
        (partial / "model.safetensors").touch(0o600)
        ledger.finish_stage("f1")
        for name in ("team/before.csv", "own.csv", "new.csv", "all/new.csv"):
            files.write_text(tmp_path / name, "1")
    finally:
        os.umask(before)
    modes = {path: path.stat().st_mode for path in (tmp_path / "team").rglob("*")}
    assert len(modes) > 8
    assert {path for path, mode in modes.items() if mode & 0o070 != (0o070 if path.is_dir() else 0o060)} == set()
    modes = {name: (tmp_path / name).stat().st_mode & 0o777 for name in ("own.csv", "new.csv", "all/new.csv")}
    assert list(modes.values()) == [0o644, 0o600, 0o600]


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives a folder to a group that it is not in")
def test_in_a_folder_of_another_group_the_umask_holds(tmp_path: Path) -> None:
    """As in /tmp, where files get the group of the user, who may share it with many."""
    os.chown(tmp_path, -1, 4321)
    tmp_path.chmod(0o1777)
    before = os.umask(0o077)
    try:
        files.write_text(tmp_path / "results" / "own.csv", "1")
    finally:
        os.umask(before)
    assert [path.stat().st_mode & 0o777 for path in tmp_path.rglob("*")] == [0o700, 0o600]


def test_what_may_not_be_read_is_not_to_be_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is what a network disk does not give now."""
    path = tmp_path / "smoke" / "data_mix" / "sweep.json"
    files.write_text(path, "{")
    files.write_text(path.with_name("trials.csv"), "")
    owner = f"its owner ({path.owner()}): chmod g+r"
    again = "run the same command again"
    for number, remedy in ((errno.EACCES, f"{owner} {path}"), (errno.EIO, again)):
        monkeypatch.setattr("mm1_lab.results.schema.open", Mock(side_effect=OSError(number, "no", "p")), raising=False)
        with pytest.raises(RequestError) as refused:
            read_manifest(path.parent)
        assert str(refused.value) == f"{path}: cannot be read (no); {remedy}"
    monkeypatch.setattr(Path, "open", Mock(side_effect=PermissionError(errno.EPERM, "no", "p")))
    with pytest.raises(RequestError, match=rf"trials\.csv: cannot be read \(no\); {re.escape(owner)}"):
        read_trials(path.parent)


def test_processes_of_the_same_number_may_write_the_same_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in containers that share a disk: here one does while the other is about to rename its own."""
    path, replace = tmp_path / "file", files.replace

    def meanwhile(temporary: Path, path: Path) -> None:
        monkeypatch.setattr(files, "replace", replace)
        files.write_bytes(path, b"second")
        replace(temporary, path)

    monkeypatch.setattr(files, "replace", meanwhile)
    files.write_bytes(path, b"first")
    assert path.read_bytes() == b"first" and list(tmp_path.iterdir()) == [path]


def test_a_disk_that_cannot_sync_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As some that are shared with another system; of files it is an error."""

    def sync(descriptor: int) -> None:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode) or refuses_files:
            raise OSError(errno.EINVAL, "no")

    refuses_files = False
    monkeypatch.setattr(os, "fsync", sync)
    files.write_bytes(tmp_path / "file", b"first")
    refuses_files = True
    with pytest.raises(OSError, match="no"):
        files.write_bytes(tmp_path / "file", b"second")
    assert (tmp_path / "file").read_bytes() == b"first"


def test_a_container_limits_processors_and_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What holds is the narrowest limit of its group and those above it; the outermost has none."""
    own = tmp_path / "groups" / "pod" / "container"
    own.mkdir(parents=True)
    (tmp_path / "own").write_text("4:memory:/elsewhere\n0::/pod/container\n")
    monkeypatch.setattr(machine, "OWN_GROUP", tmp_path / "own")
    monkeypatch.setattr(machine, "CONTROL_GROUPS", tmp_path / "groups")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(64), raising=False)
    assert machine.machine_cpus() == 64
    for folder, cpus, memory in ((own, "max 100000", "max"), (own.parent, "250000 100000", "3000000")):
        (folder / "cpu.max").write_text(f"{cpus}\n")
        (folder / "memory.max").write_text(f"{memory}\n")
        (folder / "memory.stat").write_text("anon 1000000\nfile 1500000\n")
    assert (machine.machine_cpus(), machine.free_memory()) == (2, 2e6), "a cache of files makes way"
    (own / "cpu.max").write_text("50000 100000\n")
    assert (machine.machine_cpus(), machine.machine_cpus(3.5), machine.machine_cpus(99)) == (1, 4, 64), "but slower"
    monkeypatch.setattr(machine, "OWN_GROUP", tmp_path / "none")
    assert machine.machine_cpus() == 64 and machine.free_memory() > 2e6
