"""Seeds: which ones (and which world) results come from, what differences they can detect, how many are needed."""

from bisect import bisect_left
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from scipy.special import gammaincinv, ndtr, stdtrit

from analysis.statistics import LEVEL, NO_ERROR, UNLIKE, Floats
from mm1_lab.config import WORLD_DATA, Expectation
from mm1_lab.results import Manifest

DEVELOPMENT = (*range(5), *range(200, 205))
"""Seeds that were used to tune the world and the recipes. At those from 200 on a study began and stopped: its decoders
did not pass their gate (results/LOG.md)."""
CONFIRMATORY = 100
"""The first seed of those never used in development."""
SEEN = "seen before the claim"
POWER = 0.7995
"""80 %, rounded: at few seeds the power for large differences stays just below it, as the F test leaves a fifth of the
pairs their own variance."""
MOST_SEEDS = 1000
"""More are never run in practice."""


def seed_columns(seeds: Sequence[int], in_world: bool, seen: int = 0) -> dict[str, object]:
    """The columns on seeds: how many, which, and of which kind. Seeds of a user's own data have no kind, as nothing was
    tuned on them. `seen`: how many had scores before the claim was written."""
    kinds = set()
    for seed in seeds if in_world else ():
        kind = "confirmatory" if seed >= CONFIRMATORY else "other"
        kinds.add("development" if seed in DEVELOPMENT else kind)
    if seen and kinds == {"confirmatory"}:  # what was seen confirms nothing
        kinds.clear()
    words = ["mixed"] if len(kinds) > 1 else [*kinds]
    if seen:
        words.append(f"{seen} {SEEN}")
    return {"seeds": len(seeds), "seed_list": " ".join(map(str, seeds)), "seeds_are": ", ".join(words)}


def seeds_text(seeds: Sequence[int], in_world: bool = True) -> str:
    """`seed 0`, `development seeds 0–2`, `seeds 100, 101 and 105`; `seeds` must be sorted."""
    kind = "development " if in_world and set(seeds) <= set(DEVELOPMENT) else ""
    *others, last = seeds
    if not others:
        return f"{kind}seed {last}"
    if len(others) > 1 and last - seeds[0] == len(others):
        return f"{kind}seeds {seeds[0]}–{last}"
    return f"{kind}seeds {', '.join(map(str, others))} and {last}"


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


QUANTILES = (np.arange(200) + 0.5) / 200


@lru_cache(1024)
def _variances(degrees: float) -> Floats:
    """At `QUANTILES`, a variance of so many degrees of freedom over the true one."""
    return np.asarray(2 * gammaincinv(degrees / 2, QUANTILES) / degrees)


def _power(shift: float, degrees: float, level: float, prior: float) -> float:
    """The power of a one-sided test at `level` for a true difference of `shift` standard errors: the mean over the
    values that a variance with so many `degrees` of freedom may take. The largest of them, a share UNLIKE, stand
    alone; the others are moderated towards the pool's variance (see `analysis/statistics.py`), which is taken for the
    true one."""
    variance = _variances(degrees)
    total = prior + degrees
    bounds = np.sqrt((prior + degrees * variance) / total) * stdtrit(total, 1 - level)
    alone = 1 - UNLIKE < QUANTILES
    bounds[alone] = np.sqrt(variance[alone]) * stdtrit(degrees, 1 - level)
    return float(ndtr(shift - bounds).mean())


def seeds_needed(
    expect: Expectation,
    margin: float,
    estimate: float,
    error: float,
    prior: float = 0.0,
    family: float = 1,
    variances: float = 1,
) -> float:
    """Seeds that decide a claim with 80 % power if the true difference is the estimate; infinite beyond MOST_SEEDS.

    `error` is the standard deviation of the difference at a single seed, and `prior` the degrees of freedom that the
    pool lends; a share UNLIKE of claims keeps its own variance, without the pool. Each seed adds as many degrees of
    freedom as there are `variances`: one, or with independent runs up to one for each arm. The level is that of Holm's
    first step over `family` claims. An estimate exactly on the margin can never be decided.
    """
    level = LEVEL / family
    if expect == "less":
        estimate = -estimate

    def power(seeds: int) -> float:
        def beyond(value: float, tail: float) -> float:
            """The power to tell the estimate from a value."""
            shift = abs(estimate - value) * np.sqrt(seeds) / max(error, NO_ERROR)
            return _power(shift, variances * (seeds - 1), tail, prior)

        if expect == "equivalent" and abs(estimate) < margin:
            return beyond(margin, level) + beyond(-margin, level) - 1
        if expect == "equivalent":
            return beyond(float(np.copysign(margin, estimate)), level / 2)
        if expect == "keeps":
            return beyond(-margin, level if estimate > -margin else level / 2)
        return beyond(margin, level / 2)

    if not power(MOST_SEEDS) >= POWER:  # also of an unknown estimate
        return float("inf")
    return float(bisect_left(range(MOST_SEEDS), POWER, lo=2, key=power))
