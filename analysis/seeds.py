"""Seeds: which ones (and which world) results come from, what differences they can detect, how many are needed."""

from collections.abc import Sequence

import numpy as np
from scipy.special import nctdtr, stdtrit

from analysis.statistics import LEAST, LEVEL, UNLIKE, Floats
from mm1_lab.config import WORLD_DATA, Expectation
from mm1_lab.results import Manifest

DEVELOPMENT = (*range(5), *range(200, 205))
"""Seeds that were used to tune the world and the recipes. At those from 200 on a study began and stopped: its decoders
did not pass their gate (results/LOG.md)."""
CONFIRMATORY = 100
"""The first seed of those never used in development."""
POWER = 0.8
MOST_SEEDS = 1000
"""More are never run in practice."""


def seed_columns(seeds: Sequence[int], in_world: bool) -> dict[str, object]:
    """Their number, which, and of which kind; nothing was tuned on seeds of a user's own data, so these are of none."""
    kinds = set()
    for seed in seeds:
        if seed in DEVELOPMENT:
            kinds.add("development")
        else:
            kinds.add("confirmatory" if seed >= CONFIRMATORY else "other")
    kind = ""
    if kinds and in_world:
        kind = kinds.pop() if len(kinds) == 1 else "mixed"
    return {"seeds": len(seeds), "seed_list": " ".join(map(str, seeds)), "seeds_are": kind}


def seeds_text(seeds: Sequence[int], in_world: bool = True) -> str:
    """`seed 0`, `development seeds 0–2`, `seeds 100, 101 and 105`; `seeds` must be sorted."""
    kind = "development " if in_world and set(seeds) <= set(DEVELOPMENT) else ""
    if len(seeds) == 1:
        return f"{kind}seed {seeds[0]}"
    if len(seeds) > 2 and seeds[-1] - seeds[0] == len(seeds) - 1:
        return f"{kind}seeds {seeds[0]}–{seeds[-1]}"
    return f"{kind}seeds {', '.join(map(str, seeds[:-1]))} and {seeds[-1]}"


def tuned_on(seeds: Sequence[int]) -> str:
    """A warning about sorted seeds of the miniature world if all of them are development seeds; otherwise empty."""
    if not seeds or not set(seeds) <= set(DEVELOPMENT):
        return ""
    return f"The {seeds_text(seeds)}, on which the world and its recipes were tuned."


def caution(manifest: Manifest, seeds: Sequence[int]) -> str:
    """Why the results decide nothing, or a warning about their world and seeds; empty if there is none."""
    if manifest.scale == "smoke":
        return "Smoke scale: models learn nothing here, and the numbers only show that everything runs."
    said = []
    if len(seeds) == 1:
        said.append(f"One seed ({seeds[0]}): the spread over seeds is unknown, so nothing is decided.")
    if manifest.in_world and (note := tuned_on(seeds)):
        said.append(note)
    if earlier_world(manifest):
        said.append(f"Made in an earlier miniature world ({manifest.data.digest}).")
    return " ".join(said)


def earlier_world(manifest: Manifest) -> bool:
    """Whether results are of an earlier miniature world."""
    return manifest.in_world and manifest.data.digest != WORLD_DATA.digest


def _power(shift: float | Floats, degrees_of_freedom: float | Floats, level: float) -> Floats:
    """The power of a one-sided test at `level` for a true difference of `shift` standard errors."""
    bound = stdtrit(degrees_of_freedom, 1 - level)
    return np.nan_to_num(1 - nctdtr(degrees_of_freedom, shift, bound), nan=1.0)


def seeds_needed(
    expect: Expectation,
    margin: float,
    estimate: float,
    error: float,
    prior: float = 0.0,
    family: float = 1,
    unlike: float = UNLIKE,
) -> float:
    """Seeds that decide a claim with 80 % power if the true difference is the estimate; infinite beyond MOST_SEEDS.

    `error` is the standard deviation of a single seed's difference; `prior` is the degrees of freedom from the pool,
    without which a share `unlike` of claims keeps its own variance; the level is that of Holm's first step over
    `family` claims. An estimate exactly on the margin can never be decided.
    """
    many = np.arange(2, MOST_SEEDS + 1, dtype=np.float64)
    errors = max(error, LEAST) / np.sqrt(many)
    level = LEVEL / family
    own_variance = unlike if prior else 1.0
    if expect == "less":
        estimate = -estimate

    def beyond(value: float, tail: float) -> Floats:
        """The power to tell the estimate from a value at each number of seeds."""
        shift = abs(estimate - value) / errors
        own = _power(shift, many - 1, tail)
        pooled = _power(shift, many - 1 + prior, tail)
        return own_variance * own + (1 - own_variance) * pooled

    if expect == "equivalent" and abs(estimate) < margin:
        power = beyond(margin, level) + beyond(-margin, level) - 1
    elif expect == "equivalent":
        power = beyond(float(np.copysign(margin, estimate)), level / 2)
    elif expect == "keeps":
        power = beyond(-margin, level if estimate > -margin else level / 2)
    else:
        power = beyond(margin, level / 2)
    enough = np.flatnonzero(power >= POWER)
    return float(many[enough[0]]) if len(enough) else float("inf")
