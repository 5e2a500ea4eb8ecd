"""Files that are derived from users' data."""

from collections.abc import Callable
from pathlib import Path

from mm1_lab.config import RequestError
from mm1_lab.files import locked, naming, new_file, why_not_writable


def make_once(path: Path, make: Callable[[Path], None]) -> None:
    """Has `make` write `path` if it is missing: in one process, on whatever node, while others wait at its lock. Raises
    RequestError if its folder cannot be written to."""
    if path.exists():
        return
    if lack := why_not_writable(path.parent):
        raise RequestError(lack)
    with locked(path.parents[1] / "locks" / f"{path.parent.name}-{path.stem[:2]}.lock"):
        if not path.exists():
            with new_file(path) as temporary, naming(path):
                make(temporary)
