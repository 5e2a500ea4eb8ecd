import subprocess
from pathlib import Path

import pytest

from mm1_lab.results import Ledger
from mm1_lab.results.packed import damaged
from mm1_lab.results.parts import Parts

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """A store with stage f, which is shipped, seen from another store, which is empty."""
    first = Ledger(tmp_path / "results", tmp_path / "store")
    partial = first.begin_stage("f")
    assert partial is not None
    (partial / "model.safetensors").write_bytes(b"weights")
    first.finish_stage("f")
    Parts(tmp_path / "parts").ship("f", first.stage_folder("f"))
    return Ledger(tmp_path / "results", tmp_path / "other", tmp_path / "parts")


def test_a_shipped_stage_is_done_and_read_where_it_lies(ledger: Ledger, tmp_path: Path) -> None:
    assert ledger.has_weights("f") and ledger.begin_stage("f") is None
    assert (ledger.stage_folder("f") / "model.safetensors").read_bytes() == b"weights"
    assert not ledger.store.exists(), "nothing is copied"
    assert not Ledger(tmp_path / "results", ledger.store).has_weights("f"), "without the parts it is to be computed"


def test_the_stores_own_comes_first(ledger: Ledger, tmp_path: Path) -> None:
    same = Ledger(tmp_path / "results", tmp_path / "store", tmp_path / "parts")
    assert not same.is_shipped("f") and same.stage_folder("f") == tmp_path / "store" / "f"


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("model.safetensors", b"weight", "model.safetensors does not match DONE"),
        ("model.safetensors", None, "model.safetensors: No such file"),
        ("DONE", b"{", "DONE cannot be read"),
        ("DONE", b"[]", "DONE cannot be read"),
        ("DONE", b"[" * 100_000, "DONE cannot be read"),
        ("DONE", b'{"files": {}}', "DONE lists no files"),
    ],
)
def test_a_damaged_part_is_told_and_not_used(
    ledger: Ledger, tmp_path: Path, name: str, content: bytes | None, reason: str
) -> None:
    path = tmp_path / "parts" / "f" / name
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    assert not ledger.has_weights("f") and ledger.begin_stage("f") is not None
    assert ledger.parts is not None
    assert list(ledger.parts.damaged()) == [path.parent]
    assert reason in ledger.parts.damaged()[path.parent]


def test_what_the_repository_ships_is_whole_and_small() -> None:
    parts = Parts(REPOSITORY / "results" / "parts")
    assert not parts.damaged() and not damaged(REPOSITORY / "results" / "study")
    listed = subprocess.run(["git", "ls-files", "-z", "results"], cwd=REPOSITORY, capture_output=True, check=True)
    paths = [path for name in listed.stdout.decode().split("\0") if name and (path := REPOSITORY / name).exists()]
    assert len(paths) <= 500 and sum(path.stat().st_size for path in paths) <= 25_000_000
