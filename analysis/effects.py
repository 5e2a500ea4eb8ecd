"""Measures how much each axis changes the scores: by one-factor comparisons, and in full grids.

An axis is a field of the recipe. Arms that differ only in this axis form a group, and the effect of the axis is how far
its levels spread within groups. On a full grid, an analysis of variance splits the spread exactly into the parts that
each axis and each interaction explains. An axis that changes only together with others has no such group and no effect
of its own.

The unit is the seed: an effect is computed within each seed that its arms share and compared with its own variation
between seeds, as in a repeated-measures analysis of variance. For two levels this is the paired t test; for more it
assumes that the differences between levels vary equally between seeds (sphericity). With one seed there are estimates
only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from math import prod

import numpy as np
from scipy.special import fdtrc

from analysis.statistics import Floats, quantile
from mm1_lab.config import DataMix, Recipe, Sweep

Trials = Mapping[tuple[str, int], float]
"""The score of each trial (arm, seed)."""
Levels = dict[str, dict[str, str]]
"""The level of each axis that varies in the sweep, by arm."""
UNSET = "unset"
"""The level of a field that a recipe leaves open or does not have; `none` is another level, an encoder from scratch."""


def levels_of(recipe: Recipe) -> dict[str, str]:
    """Every axis of a recipe with its level as the recipe names it; the mix of sources is one axis."""
    levels: dict[str, str] = {}
    for name, value in recipe.model_dump(mode="json").items():
        axis = name.replace("_", " ")
        if name == "data_mix":
            levels[axis] = _mix(recipe.data_mix)
            levels["synthetic captions"] = f"{100 * value['synthetic_share']:g} %"
        elif isinstance(value, dict):
            for field, inner in value.items():
                levels[f"{axis} {field.replace('_', ' ')}"] = _level(inner)
        else:
            levels[axis] = _level(value)
    return levels


def _mix(mix: DataMix) -> str:
    """Percent of captions, pages and text, and of further sources by name: `45.5:45.5:9.09`."""
    weights = {"captions": 0.0, "interleaved": 0.0, "text": 0.0} | mix.weights
    total = sum(weights.values())
    parts = []
    for place, (source, weight) in enumerate(weights.items()):
        percent = f"{100 * weight / total:.3g}"
        parts.append(percent if place < 3 else f"{source} {percent}")
    return ":".join(parts)


def _level(value: object) -> str:
    """A field's value in words: `encoder` for the list `['encoder']`, `none` for an empty one."""
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return UNSET if value is None else str(value)


def varying(sweep: Sweep) -> Levels:
    """The levels of the axes that vary among a sweep's arms, without blind controls and duplicates."""
    levels: Levels = {}
    for arm, recipe in sweep.arms.items():
        own = levels_of(recipe)
        if recipe.images != "blind" and own not in levels.values():
            levels[arm] = own
    axes: dict[str, set[str]] = {}
    for own in (levels_of(sweep.base), *levels.values()):
        for axis in own:
            axes.setdefault(axis, {arm_levels.get(axis, UNSET) for arm_levels in levels.values()})
    varied = [axis for axis, different in axes.items() if len(different) > 1]
    return {arm: {axis: own.get(axis, UNSET) for axis in varied} for arm, own in levels.items()}


def groups(levels: Levels, axis: str) -> list[list[str]]:
    """Groups of at least two arms that differ only in `axis`."""
    alike: dict[tuple[str, ...], list[str]] = {}
    for arm, own in levels.items():
        others = tuple(level for other, level in own.items() if other != axis)
        alike.setdefault(others, []).append(arm)
    return [arms for arms in alike.values() if len(arms) > 1]


@dataclass(frozen=True, slots=True)
class Effect:
    """How far an axis, or an interaction of axes, spreads the scores of arms.

    The spread is twice the root mean square distance of levels from their group's mean; for two levels this is their
    difference. Its 95 % interval and p are NaN with one seed.
    """

    axes: tuple[str, ...]
    arms: float = np.nan
    spread: float = np.nan
    low: float = np.nan
    high: float = np.nan
    p_value: float = np.nan
    share: float = np.nan
    """Share of the sum of squares between the cells of a full grid."""
    seeds: tuple[int, ...] = ()
    """Those that it is computed from."""


def compared(trials: Trials, levels: Levels, axis: str) -> tuple[list[list[str]], tuple[int, ...]]:
    """The groups of arms that differ only in `axis`, and the seeds that all of them have, from which its effect is
    computed; of the possible choices, that with the most trials. Both are empty if no such arms share a seed."""
    seeds_of: dict[str, tuple[int, ...]] = {}
    for arm in levels:
        seeds = sorted(seed for other, seed in trials if other == arm)
        if seeds:
            seeds_of[arm] = tuple(seeds)
    best: tuple[list[list[str]], tuple[int, ...]] = ([], ())
    most = (0, 0)
    for choice in dict.fromkeys(seeds_of.values()):
        complete = {arm: levels[arm] for arm, own in seeds_of.items() if set(choice) <= set(own)}
        together = groups(complete, axis)
        size = len(choice) * sum(len(group) for group in together), len(choice)
        if together and size > most:
            best, most = (together, choice), size
    return best


def axis_effect(trials: Trials, levels: Levels, axis: str) -> Effect | None:
    """The effect of an axis by one-factor comparisons of arms at the seeds that they share; None if there are none."""
    together, seeds = compared(trials, levels, axis)
    if not together:
        return None
    arms = [arm for arm in levels if any(arm in group for group in together)]
    names = sorted({levels[arm][axis] for arm in arms})
    indicators = np.zeros((len(arms), len(names)))
    for group in together:
        rows = [arms.index(arm) for arm in group]
        columns = [names.index(levels[arm][axis]) for arm in group]
        indicators[rows, columns] = 1.0
        indicators[rows] -= indicators[rows].mean(0)
    return _effect(_scores(trials, arms, seeds), (axis,), indicators, seeds)


def grid_effects(trials: Trials, levels: Levels) -> list[Effect]:
    """The effect of every axis and interaction of a full grid, with its share; empty unless at least two axes are fully
    crossed and all cells share two seeds, or the only one: the exact decomposition needs a complete grid."""
    arms = list(levels)
    axes = list(next(iter(levels.values()), {}))
    cells = prod(len({own[axis] for own in levels.values()}) for axis in axes)
    all_seeds = sorted({seed for _, seed in trials})
    seeds = tuple(seed for seed in all_seeds if all((arm, seed) in trials for arm in arms))
    if len(axes) < 2 or len(arms) != cells or len(seeds) < max(1, min(2, len(all_seeds))):
        return []
    scores = _scores(trials, arms, seeds)
    averages = {axis: _averaging(list(levels.values()), axis) for axis in axes}
    identity = np.eye(len(arms))
    effects = []
    for size in range(1, len(axes) + 1):
        for subset in combinations(axes, size):
            projector = identity
            for axis in axes:
                average = averages[axis]
                projector = projector @ (identity - average if axis in subset else average)
            effects.append(_effect(scores, subset, projector, seeds))
    total = sum(effect.spread**2 for effect in effects)
    return [replace(effect, share=effect.spread**2 / total if total else np.nan) for effect in effects]


def _scores(trials: Trials, arms: Sequence[str], seeds: Sequence[int]) -> Floats:
    """Scores of shape (arms, seeds)."""
    return np.array([[trials[arm, seed] for seed in seeds] for arm in arms])


def _averaging(known: list[dict[str, str]], axis: str) -> Floats:
    """The matrix (cells, cells) that replaces each cell by the mean over `axis`."""
    rest = [{name: level for name, level in found.items() if name != axis} for found in known]
    same = np.array([[one == other for other in rest] for one in rest], dtype=np.float64)
    return same / same.sum(1, keepdims=True)


def _effect(scores: Floats, axes: tuple[str, ...], columns: Floats, of: tuple[int, ...]) -> Effect:
    """The effect of `axes`: scores (arms, seeds) at the seeds `of`, projected on the space of `columns` (arms, …)."""
    vectors, sizes, _ = np.linalg.svd(columns)
    rank = int((sizes > 1e-9).sum())
    by_seed = vectors[:, :rank].T @ scores  # (rank, seeds): the effect's coordinates at each seed
    mean = by_seed.mean(1)
    arms, seeds = scores.shape
    squares = float(mean @ mean)
    if squares <= 1e-24 * float((scores**2).sum()):  # what rounding leaves of equal scores
        squares = 0.0
    effect = Effect(axes, arms, _spread(squares, arms), seeds=of)
    if seeds < 2:
        return effect
    degrees = float(rank * (seeds - 1))
    rest = float(((by_seed - mean[:, None]) ** 2).sum())
    unit = rest / degrees / seeds  # the error of one coordinate of the mean
    if unit <= 1e-18 * (1 + squares):  # no variation between seeds
        return replace(effect, low=effect.spread, high=effect.spread, p_value=0.0 if squares else 1.0)
    f = squares / (rank * unit)
    least, most = _noncentralities(f, rank, degrees)
    low, high = _spread(least * unit, arms), _spread(most * unit, arms)
    return replace(effect, low=low, high=high, p_value=float(fdtrc(rank, degrees, f)))


def _spread(squares: float, arms: int) -> float:
    return float(2 * np.sqrt(squares / arms))


def _noncentralities(f: float, rank: int, degrees: float) -> tuple[float, float]:
    """The 95 % interval of the true sum of squares, in units of its error.

    The square root of the observed one is nearly normal with variance 1 around the square root of the true one plus
    `rank` − 1; with an estimated error, it is nearly Student's t. For rank 1 this is the exact t interval; otherwise
    simulated coverage is 93–98 %.
    """
    root = np.sqrt(rank * f)
    reach = quantile(0.975, degrees)
    low = max(root - reach, 0.0) ** 2 - (rank - 1)
    high = (root + reach) ** 2 - (rank - 1)
    return max(low, 0.0), max(high, 0.0)
