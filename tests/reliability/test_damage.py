"""Files that are not what was written: told in one line, put aside, made anew; never read as if all were well."""

import errno
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pandas as pd
import pyarrow.parquet as pq
import pytest

from mm1_lab import files
from mm1_lab.cli import main
from mm1_lab.config import RequestError, digest
from mm1_lab.results import Ledger, packed
from mm1_lab.results.manifest import read_trials
from mm1_lab.results.schema import NotReadable
from mm1_lab.results.upkeep import verify
from tests.conftest import Refused
from tests.orchestrate.conftest import mark_done

ARMS = ("--scale", "smoke", "--only", "base", "--only", "captions")


@pytest.fixture
def copy(finished: Any, unrendered: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A results folder with two finished trials, in a working directory of its own."""
    shutil.copytree(finished.folder, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return Path("results/local").absolute()


def stage_of(results: Path, kind: str) -> Path:
    """The folder of a finished stage of this kind."""
    return next(path.parent for path in results.glob("store/*/stage.json") if f'"kind": "{kind}"' in path.read_text())


def flip(path: Path) -> None:
    """Changes low bits of some numbers in the middle of a file."""
    data = bytearray(path.read_bytes())
    for place in range(len(data) // 2, len(data) // 2 + 400, 4):
        data[place] ^= 1
    path.write_bytes(data)


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _fingerprint(results: Path, arm: str) -> str:
    rows = (results / "smoke" / "data_mix" / "trials.csv").read_text().splitlines()
    return next(row.split(",")[2] for row in rows if row.startswith(f"{arm},"))


def _fewer_rows(path: Path) -> None:
    table = pq.read_table(path)
    pq.write_table(table.slice(0, len(table) // 2), path)


def _other_value(path: Path) -> None:
    table = pd.read_parquet(path)
    table.loc[0, "score"] += 1
    table.to_parquet(path)


@pytest.mark.slow
def test_a_damaged_score_enters_no_table_and_what_is_copied_back_does(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the dates that it had, as by `cp -a`."""
    folder, table = copy / "trials" / _fingerprint(copy, "captions"), copy / "smoke" / "data_mix" / "scores.csv"
    shutil.copytree(folder, tmp_path / "kept")
    drawn = table.read_bytes()
    _fewer_rows(folder / "scores.parquet")
    assert main(["figures"]) == 0
    printed = capsys.readouterr()
    lines = printed.out.splitlines()  # which say where and how many, whatever is damaged
    assert len(lines) < 8 and lines[-1].endswith("summary.md")
    assert any("smoke/data_mix: " in line and line.endswith(" files") for line in lines)
    told = [line for line in printed.err.splitlines() if "damaged" in line]
    assert len(told) == 1 and str(folder) in told[0] and "run the sweep again" in told[0]
    assert not folder.exists() and folder.with_name(f"{folder.name}.damaged").is_dir()
    assert b"base," in table.read_bytes() and b"captions,0" not in table.read_bytes()
    assert main(["status"]) == 0
    assert "1 done, 1 missing, 0 failed" in capsys.readouterr().out
    shutil.copytree(tmp_path / "kept", folder)
    assert main(["run", "data_mix", *ARMS, "--inline"]) == 0
    assert "nothing ran" in capsys.readouterr().out and table.read_bytes() == drawn
    assert main(["figures"]) == main(["run", "data_mix", *ARMS, "--inline"]) == 0
    assert "Drawing tables and figures …\n" not in capsys.readouterr().out.partition("summary.md")[2]


@pytest.mark.slow
def test_a_run_makes_what_is_damaged_anew_and_as_it_was(
    copy: Path, finished: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Scores, which are told once; and weights, which are to be loaded again, as the model of `captions` is removed."""
    folder = copy / "trials" / _fingerprint(copy, "captions")
    for name, damage in (("record.json", Path.unlink), ("scores.parquet", halve)):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(finished.results / "trials" / folder.name, folder)
        damage(folder / name)
        for _ in range(2):
            assert main(["status"]) == 0
            told = capsys.readouterr().out
            assert "1 done, 1 missing" in told and f"damaged ({folder}.damaged); `run` makes it anew" in told
    record = json.loads((finished.results / "trials" / folder.name / "record.json").read_text())
    shutil.rmtree(copy / "store" / record["fingerprints"]["multimodal"])
    damaged = [copy / "trials" / _fingerprint(copy, "base"), stage_of(copy, "decoder"), stage_of(copy, "encoder")]
    halve(damaged[0] / "DONE")
    flip(damaged[1] / "model.safetensors")
    halve(damaged[2] / "model.safetensors")
    assert main(["run", "data_mix", *ARMS, "--inline"]) == 0
    printed = capsys.readouterr()
    assert all(f"done      {arm} / seed 0" in printed.out for arm in ("base", "captions"))
    lines = [line for line in printed.err.splitlines() if "damaged" in line]
    assert len(lines) == len(damaged), "and not again of the scores"
    for one in damaged:
        assert sum(str(one) in line and ".damaged" in line for line in lines) == 1, lines
        assert one.with_name(f"{one.name}.damaged").is_dir()
    names = ("scores.parquet", "held_out.csv", "training.csv")
    own = [f"trials/{trial.name}/{name}" for trial in (folder, damaged[0]) for name in names]
    for path in (*own, "smoke/data_mix/table.md"):
        assert (copy / path).read_bytes() == (finished.results / path).read_bytes()


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("scores.parquet", _other_value),
        ("held_out.csv", lambda path: path.write_text("source,loss\n")),
        ("record.json", lambda path: path.write_text("[" * 100_000)),
        ("held_out.csv", Path.unlink),
    ],
)
def test_whatever_is_damaged_of_a_score_it_is_not_read(
    copy: Path, name: str, damage: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    from mm1_lab.results.reading import read_variant

    folder = copy / "trials" / _fingerprint(copy, "captions")
    damage(folder / name)
    variant = read_variant(copy / "smoke" / "data_mix")
    assert dict(zip(variant.trials["arm"], variant.trials["done"], strict=True)) == {"base": True, "captions": False}
    assert f"damaged ({name if damage is not Path.unlink else folder / name}" in capsys.readouterr().err


def test_what_cannot_be_read_now_is_no_damage(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another user may read it, or a network disk later."""
    folder = copy / "trials" / _fingerprint(copy, "captions")
    ledger = Ledger(copy)
    owned = "not readable for you; its owner"
    later = rf"not now: '{folder}/"
    kinds = {errno.EACCES: (NotReadable, owned), errno.EIO: (OSError, later), errno.ENOTCONN: (OSError, later)}
    for number, (kind, told) in kinds.items():
        monkeypatch.setattr(hashlib, "file_digest", Mock(side_effect=OSError(number, "not now")))
        with pytest.raises(kind, match=told):
            ledger.has_intact_scores(folder.name)
    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", Mock(side_effect=OSError(errno.ESTALE, "not now")))
        patch.setattr(Path, "exists", os.path.exists)  # as since Python 3.14, which says no
        with pytest.raises(OSError, match="not now"):
            ledger.has_scores(folder.name)  # a trial taken for missing would be evaluated again
        with pytest.raises(OSError, match="not now"):
            read_trials(copy / "smoke" / "data_mix")  # and those of earlier runs would leave the tables
    assert folder.exists() and ledger.has_whole_scores(folder.name)


def test_of_large_files_stretches_are_looked_at_and_in_full_all_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "LARGE", 1000)
    monkeypatch.setattr(files, "STRETCH", 10)
    ledger = Ledger(tmp_path / "results", tmp_path / "store")
    for fingerprint in "abc":
        mark_done(ledger, fingerprint, weights=bytes(range(250)) * 400)
    weights = {name: ledger.store / name / "model.safetensors" for name in "abc"}
    data = weights["a"].read_bytes()
    weights["a"].write_bytes(data[:-1])  # another size
    weights["b"].write_bytes(b"\xff" * 60_000 + data[60_000:])  # a long stretch
    weights["c"].write_bytes(data[:200] + b"\xff" + data[201:])  # a byte between two stretches
    assert files.damage(ledger.store / "a", full=False) and files.damage(ledger.store / "b", full=False)
    assert not files.damage(ledger.store / "c", full=False) and files.damage(ledger.store / "c")
    assert ledger.weights("c") == ledger.store / "c"
    with pytest.raises(RequestError, match="damaged or missing"):
        ledger.weights("a")
    assert not ledger.has_weights("a") and (ledger.store / "a.damaged" / "model.safetensors").exists()
    assert not ledger.has_weights("a.damaged"), "nobody may take it for a finished stage"
    assert verify(ledger) == (2, 2, []), "in full"


@pytest.mark.skipif(not Path("/proc").exists(), reason="it asks /proc which file is synced")
def test_what_is_renamed_into_place_is_on_the_disk_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that only holds what was synced: at each renaming, every file and folder under the new name must be there,
    as it is now; and the folder that has the new name must be synced afterwards."""
    disk: dict[str, bytes | list[str]] = {}
    loose: list[Path] = []
    fsync, replace = os.fsync, os.replace

    def state(path: Path) -> bytes | list[str]:
        return sorted(os.listdir(path)) if path.is_dir() else path.read_bytes()

    def synced(descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)
        disk[str(path)] = state(path)
        loose[:] = [folder for folder in loose if folder != path]

    def renamed(source: Any, target: Any) -> None:
        for path in (Path(source), *Path(source).rglob("*")):
            assert disk.get(str(path)) == state(path), f"{path} is not on the disk"
        replace(source, target)
        loose.append(Path(target).parent)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    monkeypatch.setattr(Path, "replace", renamed)
    monkeypatch.setattr(Path, "rename", renamed)
    from mm1_lab.results import ScoreRow

    ledger = Ledger(tmp_path / "results", tmp_path / "store")
    folder = ledger.begin_stage("a")
    assert folder is not None
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "training.csv").write_text("step,name,value\n")
    ledger.finish_stage("a")
    score = ScoreRow("vqa", "vqa", "vqa", 0, 0, "q", "colour", 1.0, "red", True)
    training = ledger.stage_folder("a") / "training.csv"
    ledger.write_scores("b", [score], {"text": 1.0}, {}, {"training.csv": training})
    with files.new_file(tmp_path / "cache" / "table") as file:
        file.write_bytes(b"table")
    assert ledger.has_intact_scores("b") and not loose, f"{loose} may lose a new name"


OLDER = "written with results schema 1, this version reads 3; delete results/local/smoke and results/local/trials, and"


@pytest.mark.parametrize(
    ("name", "old", "new", "told"),
    [
        ("sweep.json", '"schema_version": 3', '"schema_version": 1', f"{OLDER} run the sweeps again"),
        ("sweep.json", '"schema_version": 3', '"schema_version": 4', "this version reads 3; update mm1-lab"),
        ("sweep.json", "captions", "captiens", "is damaged (it differs from its digest)"),
        ("trials.csv", ",0,", ",1,", "is damaged: it differs from its check"),
    ],
)
def test_a_list_of_trials_that_is_damaged_but_reads_or_is_of_an_older_schema_is_told(
    name: str, old: str, new: str, told: str, copy: Path, refused: Refused
) -> None:
    path = copy / "smoke" / "data_mix" / name
    path.write_text(path.read_text().replace(old, new, 1))
    error = refused("figures")
    assert f"{name}: " in error and told in error


def test_a_sweep_of_another_version_is_left_out_beside_others(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(copy / "smoke" / "data_mix", copy / "smoke" / "later")
    path = copy / "smoke" / "later" / "sweep.json"
    values = json.loads(path.read_text())
    del values["digest"]
    path.write_text(json.dumps({"later": 1} | values | {"digest": digest({"later": 1} | values)}))
    for command in ("figures", "status"):
        assert main([command]) == 0
        told = capsys.readouterr()
        assert "data_mix" in told.out and told.err.count("\n") == 1
        assert "later/sweep.json: unknown key 'later'" in told.err and "use that one" in told.err
        packed.tell_once.cache_clear()
