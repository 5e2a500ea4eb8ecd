"""Packs of results: what comes back from them, and what a damage, a kill, a second process or a stranger does."""

import errno
import gzip
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mm1_lab import files
from mm1_lab.cli import main
from mm1_lab.config import RequestError
from mm1_lab.orchestrate.planning.loading import load_request
from mm1_lab.results import Ledger, ScoreRow, TrialRow
from mm1_lab.results.manifest import Manifest, merge_manifest, read_manifest, row_check
from mm1_lab.results.packed import damaged, pack
from mm1_lab.results.reading import curves, read_held_out, read_records, read_scores, read_variant
from mm1_lab.results.score_file import pack_scores, unpack_scores
from tests.conftest import REPOSITORY, Refused, Told

NEW = {"controls": "c0", "data_mix": "da"}
"""The fingerprints of further trials, by sweep."""
PREDICTIONS = ("NA", "", 'say "red", then\nblue', "1e5")


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Two sweeps that share the base, each with a second arm."""
    results = tmp_path / "results"
    ledger = Ledger(results)
    training = tmp_path / "training.csv"
    training.write_text("step,name,value\n1,loss,2.5\n")
    for name, arms in {"data_mix": ("base", "captions"), "controls": ("base", "half-rate")}.items():
        request = load_request(name, "smoke", "1", arms, (), None, results, results / "store")
        rows = [TrialRow(trial.arm, trial.seed, trial.fingerprint) for trial in request.trials]
        for row in rows:
            if not ledger.has_scores(row.fingerprint):
                _write(ledger, row, training)
        manifest = Manifest(variant=name, sweep=request.sweep, scale="smoke")
        merge_manifest(request.folder, manifest, rows, lambda _: True, lambda _: True)
    return results


def _write(ledger: Ledger, row: TrialRow, training: Path) -> None:
    scores = [
        ScoreRow("vqa", "vqa", "vqa", shots, 0, f"q{n}", "colour", n / 3, text, n != 2)
        for shots in (8, 0)
        for n, text in enumerate((*PREDICTIONS, row.arm))
    ]
    record = {"seed": row.seed, "fingerprints": {"evaluation": row.fingerprint}, "timings": {"evaluation": 1 / 3}}
    held_out = {"text": 2 / 3}
    ledger.write_scores(row.fingerprint, scores, held_out, record, {"training.csv": training})


def pack_alone(results: Path) -> None:
    """Leaves packs without the trials that they are of."""
    pack(results)
    shutil.rmtree(results / "trials")


def _read(results: Path) -> list[object]:
    """All that is read of both sweeps."""
    found: list[object] = []
    for folder in sorted(results.glob("smoke/*")):
        variant = read_variant(folder)
        scores = read_scores(variant)
        found += [scores.to_csv(float_format="%.6g"), read_held_out(variant).to_csv(), read_records(variant)]
    return found


def test_what_was_packed_comes_back_when_it_is_first_read_or_was_damaged_since(
    results: Path, capsys: pytest.CaptureFixture[str], printed: Told
) -> None:
    before = _read(results)
    shared = [row for path in results.glob("smoke/*/trials.csv") for row in pd.read_csv(path)["fingerprint"]]
    assert re.search(r"5 files, [1-9].* KB: commit", printed("pack", str(results)))
    packs = {path: path.read_bytes() for path in results.glob("smoke/*/[rs]*[zt]")}
    shutil.rmtree(results / "trials")
    assert len(set(shared)) == 3 < len(shared), "the base is in one pack"
    assert _read(results) == before
    assert "unpacking 3 trials, once" in capsys.readouterr().err
    ledger = Ledger(results)
    with pytest.raises(RequestError, match="packs leave curves out"):
        curves(str(results / "smoke" / "data_mix"))
    pack(results)
    assert {path: path.read_bytes() for path in packs} == packs, "packing again changes nothing"
    _read(results)
    shutil.rmtree(results / "trials" / shared[0])
    with (results / files.DONE).open("a") as done:
        done.write("\n")
    assert _read(results) == before, "other packs than were unpacked, as after a pull"
    assert "unpacking 1 trial, once" in capsys.readouterr().err, "and none that is there"

    path = next(results.glob("trials/*/scores.parquet"))
    path.write_bytes(path.read_bytes()[:-1])
    assert main(["verify", "--results", str(results), "--store", str(results)]) == 1
    pack(results)
    assert _read(results) == before

    (results / "trials" / shared[0] / "scores.parquet").write_text("cut")
    assert ledger.has_intact_scores(shared[0]), "from the pack, in the same command"
    ledger.forget(shared[0])
    assert not Ledger(results).has_scores(shared[0]), "what is to be trained again is not taken from the pack"
    assert main(["verify", "--results", str(results), "--store", str(results)]) == 0


def test_an_earlier_pack_which_was_sorted_by_question_gives_each_trial_its_rows(results: Path, tmp_path: Path) -> None:
    own = {path.name: pq.read_table(path / "scores.parquet") for path in sorted((results / "trials").iterdir())}
    tables = []
    for name, table in own.items():
        numbered = table.append_column("row", pa.array(range(len(table)), pa.int32()))
        tables.append(numbered.append_column("trial", pa.array([name] * len(table))))
    keys = [(key, "ascending") for key in ("shots", "question", "trial")]
    pq.write_table(pa.concat_tables(tables).sort_by(keys), tmp_path / "earlier.parquet")
    found = dict(unpack_scores(tmp_path / "earlier.parquet", own))
    assert found.keys() == own.keys() and all(table.equals(own[name]) for name, table in found.items())


def test_a_sweep_that_is_gone_leaves_no_pack(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pack(results)
    assert not capsys.readouterr().err
    before = sorted(results.glob("smoke/data_mix/*.gz"))
    (results / "smoke" / "data_mix" / "trials.csv").unlink()
    packs = pack(results)
    assert before and not list(results.glob("smoke/data_mix/*[zt]"))
    assert {path.parent.name for path in packs[:-1]} == {"controls"}
    assert not damaged(results)
    assert re.search(r"trials: \d finished trials? of no sweep as it is now", capsys.readouterr().err)
    (results / "smoke" / "controls" / "trials.csv").unlink()
    with pytest.raises(RequestError, match="there is no finished trial to pack"):
        pack(results)
    assert all(path.exists() for path in packs), "the last ones are kept"


@pytest.mark.parametrize("what", ["interrupted", "damaged"])
def test_packing_that_ends_in_the_middle_can_be_repeated(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Both sweeps have new trials; of the second one's packs, or trials, one stops it."""
    before = _read(results)
    pack(results)
    training = tmp_path / "training.csv"
    for folder in sorted(results.glob("smoke/*")):
        row = TrialRow("base", 1, NEW[folder.name])
        _write(Ledger(results), row, training)
        merge_manifest(folder, read_manifest(folder), [row], lambda _: True, lambda _: True)
    more = _read(results)
    assert more != before
    if what == "damaged":
        path = results / "trials" / NEW["data_mix"] / "scores.parquet"
        whole = path.read_bytes()
        path.write_bytes(whole[:-1])
        with pytest.raises(RequestError, match="mm1-lab verify moves it aside"):
            pack(results)
        assert not damaged(results)
        path.write_bytes(whole)
    else:
        written: list[Path] = []

        def stop(path: Path, folders: list[Path]) -> None:
            if written:
                raise KeyboardInterrupt
            written.append(path)
            pack_scores(path, folders)

        with monkeypatch.context() as now:
            now.setattr("mm1_lab.results.packed.pack_scores", stop)
            with pytest.raises(KeyboardInterrupt):
                pack(results)
    pack_alone(results)
    assert _read(results) == more


def test_a_damaged_pack_is_told_and_is_restored_or_given_up(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = _read(results)
    pack_alone(results)
    path, done = results / "smoke" / "data_mix" / "scores.parquet", results / files.DONE
    records = path.with_name("records.jsonl.gz")
    whole, told, intact = path.read_bytes(), done.read_bytes(), records.read_bytes()
    records.write_bytes(intact[:-1])
    assert _finished(results) == [[True, True], [True, False]]
    records.write_bytes(intact)
    capsys.readouterr()
    path.write_bytes(whole[:-1])
    assert _finished(results) == [[True, True], [True, False]]
    said = capsys.readouterr().err
    assert said.count(": damaged (") == 1 and "data_mix/scores.parquet: damaged" in said, "once a command"
    assert main(["verify", "--results", str(results), "--store", str(results)]) == 1
    assert "; restore it\n" in capsys.readouterr().err, "deleting a pack mends nothing"
    with pytest.raises(RequestError, match=f"data_mix: its pack is damaged .* or delete {done} to pack without these"):
        pack(results)
    path.write_bytes(whole)
    assert _read(results) == before

    shutil.rmtree(results / "trials")
    done.write_text("[" * 100_000)
    assert not any(map(any, _finished(results)))
    assert "DONE: damaged" in capsys.readouterr().err

    done.write_bytes(told)
    path.write_bytes(whole[:-1])
    assert _finished(results) == [[True, True], [True, False]]
    done.unlink()
    pack_alone(results)
    assert not damaged(results) and _finished(results) == [[True, True], [True, False]], "what is left is packed"


def _finished(results: Path) -> list[list[bool]]:
    """Of both sweeps, which trials are there."""
    return [read_variant(folder).trials["done"].tolist() for folder in sorted(results.glob("smoke/*"))]


def test_a_pack_writes_only_into_its_trials(results: Path, victim: Path, refused: Refused) -> None:
    """Digests are no signature: whoever writes a pack writes the list of digests."""
    (records, *_) = pack(results)
    lines = gzip.decompress(records.read_bytes()).decode().splitlines()
    entry = json.loads(lines[0])
    entry["trial"] = "../../victim"
    records.write_bytes(gzip.compress("\n".join([json.dumps(entry), *lines[1:]]).encode()))
    shutil.rmtree(results / "trials")
    _sign(results, records)
    message = refused("compare", "data_mix", "base", "captions", "--scale", "smoke", "--results", str(results))
    assert f"{records}: '../../victim' is no fingerprint; do not use packs of this source" in message
    _is_untouched(victim)


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A folder beside the results, which looks like a trial's."""
    files.write_text(tmp_path / "victim" / "thesis.txt", "kept")
    files.write_json(tmp_path / "victim" / files.DONE, {"files": {"thesis.txt": "0"}})
    return tmp_path / "victim"


def _is_untouched(victim: Path) -> None:
    assert sorted(path.name for path in victim.iterdir()) == [files.DONE, "thesis.txt"]
    assert (victim / "thesis.txt").read_text() == "kept"


def _sign(results: Path, path: Path) -> None:
    """Adds the file to the packs that DONE lists."""
    done = files.load_json(results / files.DONE)
    done["files"][path.relative_to(results).as_posix()] = files.file_digest(path)
    files.write_json(results / files.DONE, done)


def test_packing_deletes_no_file_that_is_no_pack(results: Path, victim: Path, refused: Refused) -> None:
    pack(results)
    done = files.load_json(results / files.DONE)
    names = ("../victim/thesis.txt", "smoke/data_mix/sweep.json", "../../scores.parquet", "/a/b/scores.parquet")
    for name in (*names, "trials/abc/scores.parquet", "smoke/data_mix/mine/scores.parquet", "scores.parquet"):
        files.write_json(results / files.DONE, {"files": done["files"] | {name: "0"}})
        message = refused("pack", str(results))
        assert f"{results / files.DONE}: {name!r} is no pack; do not use packs of this source" in message
    _is_untouched(victim)


def test_links_leave_what_they_lead_to(results: Path, victim: Path, refused: Refused) -> None:
    pack_alone(results)
    (results / "trials").symlink_to(victim)
    message = refused("figures", "--results", str(results))
    assert f"{results / 'trials'}: is a link, and packs are unpacked only into a folder" in message
    _is_untouched(victim)
    (results / "trials").unlink()
    trial = results / "trials" / "f"  # is damaged
    trial.parent.mkdir()
    trial.symlink_to(victim)
    main(["verify", "--results", str(results)])
    assert not trial.exists()
    _is_untouched(victim)


def test_a_manifest_and_a_list_of_trials_name_no_paths(results: Path, victim: Path, refused: Refused) -> None:
    folders = list(results.glob("smoke/*"))
    for key, value, message in (
        ("scale", "../victim", "scale: must be a name, not a path, as a folder of the results has it"),
        ("scale", "trials", "scale: is the name of another folder of the results; rename the scale"),
        ("variant", "../../victim", "variant: must be a name, not a path"),
        ("variant", "..", "variant: must be a name, not a path"),
    ):
        for folder in folders:
            values = files.load_json(folder / "sweep.json") | {"scale": "smoke", "variant": folder.name, key: value}
            values.pop("digest", None)
            files.write_json(folder / "sweep.json", values)
        assert f"sweep.json: {message}" in refused("figures", "--results", str(results))
    _is_untouched(victim)
    row = TrialRow("base", 0, "../../victim")
    for folder in folders:
        values = files.load_json(folder / "sweep.json") | {"scale": "smoke", "variant": folder.name}
        files.write_json(folder / "sweep.json", values)
        columns, *_ = (folder / "trials.csv").read_text().splitlines()
        text = f"{columns}\nbase,0,{row.fingerprint},{row_check(row)}\n"
        (folder / "trials.csv").write_text(text)
    message = refused("figures", "--results", str(results))
    assert "trials.csv: cannot be read (row 2: '../../victim' is no fingerprint); delete it and run" in message
    _is_untouched(victim)


def test_a_pack_of_another_version_is_refused_in_one_line(results: Path, refused: Refused) -> None:
    path = pack(results)[0]
    text = gzip.decompress(path.read_bytes()).decode().replace('"schema_version": 3', '"schema_version": 2')
    files.write_text(path, text)
    shutil.rmtree(results / "trials")
    _sign(results, path)
    status = ("status", path.parent.name, "--scale", "smoke", "--results", str(results))
    for command in (status, ("pack", str(results))):
        assert f"{path}: written with results schema 2, this version reads 3" in refused(*command)


def test_packs_that_cannot_be_unpacked_or_were_copied_without_the_list_of_them_are_told(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pack_alone(results)
    (results / "trials").write_text("no folder")  # as a superuser may write everywhere
    with pytest.raises(RequestError, match=r"trials cannot be unpacked there .* name the copy with --results"):
        _read(results)
    (results / "trials").unlink()
    (results / files.DONE).unlink()
    read_variant(next(results.glob("smoke/*")))
    assert f"has a pack of trials, but {results / files.DONE} is missing, so it is not read" in capsys.readouterr().err


def test_two_processes_and_a_kill_leave_whole_trials(results: Path) -> None:
    before = _read(results)
    pack_alone(results)
    slow = "import os, sys, time; from mm1_lab import files; new = files.commit\n"
    slow += "def commit(partial, folder): new(partial, folder); print('one', flush=True); time.sleep(60)\n"
    slow += "files.commit = commit\n"
    read = "from pathlib import Path; from mm1_lab.results import Ledger; print(Ledger(Path(sys.argv[1])).trials)"
    command = [sys.executable, "-c", f"{slow}{read}", str(results)]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE) as killed:
        assert killed.stdout is not None and killed.stdout.readline() == b"one\n"
        killed.send_signal(signal.SIGKILL)
    assert len(list(results.glob("trials/*/DONE"))) == 1 and not (results / "trials" / ".unpacked").exists()
    with subprocess.Popen([*command[:2], f"import sys; {read}", str(results)], cwd=REPOSITORY) as other:
        assert _read(results) == before
    assert other.returncode == 0 and _read(results) == before and len(list(results.glob("trials/*/DONE"))) == 3


def test_packs_of_an_installation_of_somebody_else_are_unpacked_in_the_users_cache(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = _read(results)
    pack(results)
    make_folder = files.make_folder
    number = errno.EACCES

    def refuse(folder: Path) -> None:  # as a superuser may write everywhere
        if results in (folder, *folder.parents):
            raise OSError(number, os.strerror(number), str(folder))
        make_folder(folder)

    monkeypatch.setattr(files, "make_folder", refuse)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert _read(results) == before and not (tmp_path / "cache").exists(), "nothing is unpacked that was just packed"
    shutil.rmtree(results / "trials")
    assert _read(results) == before and not (results / "trials").exists()
    path = next(tmp_path.glob("cache/mm1-lab/*/*/scores.parquet"))
    path.write_text("cut")
    assert _read(results) == before, "from the pack"
    number = errno.ENOSPC
    with pytest.raises(RequestError, match=r"unpacked there \(No space left on device\)"):
        _read(results)
    number = errno.EACCES
    (results / "trials").mkdir()
    with pytest.raises(RequestError, match=r"unpacked there \(Permission denied\)"):  # it may have trials of its own
        _read(results)
    (results / "trials").rmdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(path))
    with pytest.raises(RequestError, match=r"unpacked there \(Permission denied\); copy .* and name the copy"):
        _read(results)


def test_what_the_repository_ships_is_whole_and_small(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, tmp_path, REPOSITORY / "results" / "parts")
    assert not ledger.damaged_parts() and not damaged(REPOSITORY / "results" / "study")
    listed = subprocess.run(["git", "ls-files", "-z", "results"], cwd=REPOSITORY, capture_output=True, check=True)
    paths = [path for name in listed.stdout.decode().split("\0") if name and (path := REPOSITORY / name).exists()]
    assert len(paths) <= 500 and sum(path.stat().st_size for path in paths) <= 25_000_000
