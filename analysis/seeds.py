"""Which seeds results are of, and what these were used for."""

from collections.abc import Sequence

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
