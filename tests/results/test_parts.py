import subprocess
from pathlib import Path

from mm1_lab.results import Ledger
from mm1_lab.results.packed import damaged

REPOSITORY = Path(__file__).parents[2]


def test_what_the_repository_ships_is_whole_and_small(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, tmp_path, REPOSITORY / "results" / "parts")
    assert not ledger.damaged_parts() and not damaged(REPOSITORY / "results" / "study")
    listed = subprocess.run(["git", "ls-files", "-z", "results"], cwd=REPOSITORY, capture_output=True, check=True)
    paths = [path for name in listed.stdout.decode().split("\0") if name and (path := REPOSITORY / name).exists()]
    assert len(paths) <= 500 and sum(path.stat().st_size for path in paths) <= 25_000_000
