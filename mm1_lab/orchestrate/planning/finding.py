"""Resolves what a command names: a sweep, a scale, seeds."""

from pathlib import Path

from mm1_lab.config import RequestError, Scale, load_scale, nearest
from mm1_lab.config.errors import short
from mm1_lab.files import SHIPPED

SWEEPS = (Path("sweeps"), SHIPPED / "sweeps")
"""Folders searched for sweeps, recipes and scales by name: in the working directory, then in the package."""
MOST_SEEDS = 99
"""Limit of a count: fresh seeds are numbered from 100 on, so a larger number is meant as a seed."""


def find_scale(name: str, overrides: tuple[str, ...] = (), sweeps: Path = Path("sweeps")) -> Scale:
    """Loads a scale from `scales/` next to the sweep, one folder up, or in one of SWEEPS. Raises RequestError."""
    places = [folder / "scales" for folder in (sweeps, sweeps.parent, *SWEEPS)]
    return load_scale(name, next((p for p in places if (p / f"{name}.yaml").is_file()), places[-1]), overrides)


def find_sweep(name: str) -> Path:
    """The file of a sweep, given its path or its name in `sweeps/` (with `-` or `_`). Raises RequestError."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        return path
    for file in (folder / f"{spelt}.yaml" for folder in SWEEPS for spelt in (name, name.replace("-", "_"))):
        if file.exists():
            return file
    known = sorted({file.stem for folder in SWEEPS for file in folder.glob("*.yaml")})
    raise RequestError(f"there is no sweep {name!r}{nearest(name, known)}")


def parse_seeds(text: str) -> tuple[int, ...]:
    """Parses `--seeds`: a count (`3`: seeds 0, 1, 2) or a list (`5,6,7`; `100,` is one seed). Raises RequestError."""
    parts = [part.strip() for part in text.split(",")]
    if len(parts) > 1 and not parts[-1]:
        parts.pop()
    if not all(part.isascii() and part.isdigit() and len(part) <= 10 and int(part) < 2**32 for part in parts):
        raise RequestError(
            f"--seeds {short(text)}: give a count (3) or a list (5,6,7; one seed with a comma: 100,), below 2^32"
        )
    numbers = [int(part) for part in parts]
    if "," in text:
        return tuple(dict.fromkeys(numbers))
    if not 1 <= numbers[0] <= MOST_SEEDS:
        raise RequestError(
            f"--seeds {text}: a count is from 1 to {MOST_SEEDS}; for seed {text} alone add a comma: --seeds {text},"
        )
    return tuple(range(numbers[0]))
