"""Synthetic learning-rate sweeps with known optima."""

import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from analysis.law.optimum import Cell

SLOPE, CONSTANT = -0.4214, -0.5535
SIZES = (9_437_184, 84_934_656, 301_989_888, 1_207_959_552)

Floats = NDArray[np.float64]


def true_log_rate(params: float) -> float:
    return SLOPE * math.log(params) + CONSTANT


def fall(distance: Floats, asymmetry: float = 0.5, cliff: float = math.inf) -> Floats:
    """Score below its best at a distance in ln η: gentle below the optimum, steeper above, and then a cliff."""
    above = np.maximum(distance, 0)
    return -0.02 * (distance**2 + asymmetry * above**3) - np.where(distance > cliff, 3 * (distance - cliff) + 0.3, 0)


def cell(
    params: float, log_rates: Iterable[float], scores: Iterable[float], seeds: Iterable[int] | None = None
) -> Cell:
    rates, values = np.array(list(log_rates)), np.array(list(scores))
    known = np.full(len(rates), -1) if seeds is None else np.array(list(seeds))
    return Cell(f"{params:.0f}", params, rates, values, known)


def searched_cell(
    generator: np.random.Generator, params: float, noise: float, seeds: int, scatter: float, cliff: float
) -> Cell:
    """A grid of five rates a factor of 2 apart around a guess that is off by up to a third of e, grown at its edges."""
    best = true_log_rate(params) + scatter * generator.normal()
    luck = 0.02 * generator.normal(size=seeds)
    rates = list(best + generator.uniform(-0.33, 0.33) + math.log(2) * np.arange(-2, 3))

    def run(rate: float) -> Floats:
        return np.asarray(fall(np.array(rate - best), 0.5, cliff) + luck + noise * generator.normal(size=seeds))

    scores = [run(rate) for rate in rates]
    for _ in range(3):
        place = int(np.argmax([score.mean() for score in scores]))
        if place == 0:
            rates.insert(0, rates[0] - math.log(2))
            scores.insert(0, run(rates[0]))
        elif place == len(rates) - 1:
            rates.append(rates[-1] + math.log(2))
            scores.append(run(rates[-1]))
        else:
            break
    known = np.tile(np.arange(seeds), len(rates)) if seeds > 1 else None
    return cell(params, np.repeat(rates, seeds), np.concatenate(scores), known)


def fine_cell(generator: np.random.Generator, params: float, noise: float, seeds: int, cliff: float) -> Cell:
    """A fine grid far beyond the optimum on both sides, whose highest rates fail."""
    best = true_log_rate(params)
    rates = best + 0.35 * np.arange(-8, 9) + generator.uniform(-0.3, 0.3)
    scores = fall(rates - best, 0.5, cliff)[:, None] + noise * generator.normal(size=(17, seeds))
    scores[rates - best > 2.4] = np.nan
    return cell(params, np.repeat(rates, seeds), scores.ravel(), np.tile(np.arange(seeds), 17))


def cell_at_a_cliff(generator: np.random.Generator, params: float, noise: float, top: float, place: float) -> Cell:
    """Five rates a factor of 2 apart and one at which runs diverge, as they do above the law's rate.

    The scores' smooth curve has its top `top` above the law's rate. `place`, 0 to 1, is where that is between the last
    rate that holds and the one that does not."""
    rates = true_log_rate(params) + math.log(2) * (np.arange(-4, 2) - place)
    scores = -0.02 * (rates - true_log_rate(params) - top)[:, None] ** 2
    scores = scores + 0.02 * generator.normal(size=3) + noise * generator.normal(size=(6, 3))
    scores[rates > true_log_rate(params)] = np.nan
    return cell(params, np.repeat(rates, 3), scores.ravel(), np.tile(np.arange(3), 6))


def write_csv(path: Path, rows: Iterable[Iterable[object]], heading: str = "params,learning_rate,score") -> Path:
    lines = [heading, *(",".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def exact_rows(sizes: Iterable[float] = SIZES) -> list[tuple[float, float, float]]:
    """Scores of parabolas whose tops lie exactly on Eq. 1, on a grid that does not hold them."""
    steps = (-1.5, -0.8, -0.2, 0.6, 1.1)
    return [(n, math.exp(true_log_rate(n) + step), 50 - 3 * step**2) for n in sizes for step in steps]
