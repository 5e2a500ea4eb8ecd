"""What a command names: a sweep, a scale, seeds, and the law that its learning rates follow."""

from pathlib import Path

from mm1_lab.config import LearningRateLaw, RequestError, Scale, load_scale, nearest, read_law
from mm1_lab.files import SHIPPED
from mm1_lab.formatting import command_line
from mm1_lab.results import Ledger, variant_name

STUDY = SHIPPED / "results" / "study"
SWEEPS = (Path("sweeps"), SHIPPED / "sweeps")
"""Where sweeps and their recipes are found by name: in the working directory, then in the package."""
MOST_SEEDS = 10_000
"""Of a command; thousands of trials take seconds to plan, millions would take all memory."""


def find_scale(name: str, overrides: tuple[str, ...] = (), sweeps: Path = Path("sweeps")) -> Scale:
    """A scale from those beside the sweeps or one folder up, or else from the package's. Raises RequestError."""
    places = [folder / "scales" for folder in (sweeps, sweeps.parent, SHIPPED / "sweeps")]
    return load_scale(name, next(place for place in places if place.is_dir()), overrides)


def find_law(
    ledger: Ledger, scale: str, overrides: tuple[str, ...], data: Path | None, data_name: str
) -> LearningRateLaw:
    """The law of a scale with these settings on these data: of the results folder, else of the published study, which
    is about the miniature world without settings. Raises RequestError where there is none."""
    place = Path(scale) / variant_name("lr_law", overrides, data_name) / "law.json"
    for folder in (ledger.results, STUDY):
        if (folder / place).exists():
            return read_law(folder / place)
    command = command_line("fit-lr-law", "--scale", scale, settings=overrides, data=data)
    raise RequestError(
        f"learning_rate: law: there is no {ledger.results / place} yet; find the law of this scale with these data and "
        f"settings: {command}"
    )


def find_sweep(name: str) -> Path:
    """A path to a YAML file, or the bare name of a sweep in `sweeps/`, with `-` or `_`. Raises RequestError."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml") or path.exists():
        return path
    for file in (folder / f"{spelt}.yaml" for folder in SWEEPS for spelt in (name, name.replace("-", "_"))):
        if file.exists():
            return file
    known = sorted({file.stem for folder in SWEEPS for file in folder.glob("*.yaml")})
    raise RequestError(f"there is no sweep {name!r}{nearest(name, known)}")


def parse_seeds(text: str) -> tuple[int, ...]:
    """`3` is a count: seeds 0, 1, 2. `5,6,7` are the seeds themselves; `100,` is one. Raises RequestError."""
    parts = [part.strip() for part in text.split(",")]
    if len(parts) > 1 and not parts[-1]:
        parts.pop()
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise RequestError(f"--seeds {text!r}: give a count (3) or a list (5,6,7; one seed with a comma: 100,)")
    numbers = [int(part) if len(part) <= 10 else 2**32 for part in parts]
    if max(numbers) >= 2**32 or (numbers[0] > MOST_SEEDS and "," not in text):
        raise RequestError(f"--seeds: at most {MOST_SEEDS} seeds, each below 2^32 (numpy's generators take no others)")
    if "," in text:
        return tuple(dict.fromkeys(numbers))
    if numbers[0] < 1:
        raise RequestError("--seeds 0: at least one seed is needed")
    return tuple(range(numbers[0]))
