import subprocess
from pathlib import Path

from mm1_lab.results.ledger import Parts
from mm1_lab.results.packed import damaged

REPOSITORY = Path(__file__).parents[2]


def test_what_the_repository_ships_is_whole_and_small() -> None:
    parts = Parts(REPOSITORY / "results" / "parts")
    assert not parts.damaged() and not damaged(REPOSITORY / "results" / "study")
    listed = subprocess.run(["git", "ls-files", "-z", "results"], cwd=REPOSITORY, capture_output=True, check=True)
    paths = [path for name in listed.stdout.decode().split("\0") if name and (path := REPOSITORY / name).exists()]
    assert len(paths) <= 500 and sum(path.stat().st_size for path in paths) <= 25_000_000
