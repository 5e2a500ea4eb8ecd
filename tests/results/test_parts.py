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


def test_what_the_repository_ships_is_whole_and_small() -> None:
    parts = Parts(REPOSITORY / "results" / "parts")
    assert not parts.damaged() and not damaged(REPOSITORY / "results" / "study")
    listed = subprocess.run(["git", "ls-files", "-z", "results"], cwd=REPOSITORY, capture_output=True, check=True)
    paths = [path for name in listed.stdout.decode().split("\0") if name and (path := REPOSITORY / name).exists()]
    assert len(paths) <= 500 and sum(path.stat().st_size for path in paths) <= 25_000_000
