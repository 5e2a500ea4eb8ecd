"""Which seeds and which world results are of, and what that means for them."""

from collections.abc import Sequence

from mm1_lab.config import WORLD_DATA
from mm1_lab.results import Manifest

DEVELOPMENT = range(5)
"""Seeds that the world and the recipes were tuned on."""


CONFIRMATORY = 100
"""The first of the seeds that no development has used."""


def seed_columns(seeds: Sequence[int]) -> dict[str, object]:
    kinds = {"development" if s in DEVELOPMENT else "confirmatory" if s >= CONFIRMATORY else "other" for s in seeds}
    kind = kinds.pop() if len(kinds) == 1 else "mixed" if kinds else ""
    return {"seeds": len(seeds), "seed_list": " ".join(map(str, seeds)), "seeds_are": kind}


def seeds_text(seeds: Sequence[int]) -> str:
    """`seed 0`, `development seeds 0–2`, `seeds 100, 101 and 105`, in order."""
    kind = "development " * (set(seeds) <= set(DEVELOPMENT))
    if len(seeds) > 2 and seeds[-1] - seeds[0] == len(seeds) - 1:
        return f"{kind}seeds {seeds[0]}–{seeds[-1]}"
    several = len(seeds) > 1
    return f"{kind}seed{'s' * several} {', '.join(map(str, seeds[:-1]))}{' and ' * several}{seeds[-1]}"


def caution(manifest: Manifest, seeds: Sequence[int]) -> str:
    """Why results decide nothing, or what is to be known of their world and seeds; empty where nothing is."""
    if manifest.scale == "smoke":
        return "Smoke scale: models learn nothing here, and the numbers only show that everything runs."
    in_world = manifest.data.kind == "world"
    said = []
    if len(seeds) == 1:
        said.append(f"One seed ({seeds[0]}): what another seed would give is not known, so nothing is decided.")
    elif in_world and set(seeds) <= set(DEVELOPMENT):
        said.append(f"The {seeds_text(seeds)}: the world and its recipes were tuned on them.")
    if in_world and manifest.data.digest != WORLD_DATA.digest:
        said.append(f"Made in an earlier miniature world ({manifest.data.digest}, now {WORLD_DATA.digest}).")
    return " ".join(said)
