"""The decision accuracy of cheaper runs of a sweep (Magnusson et al. 2025, DataDecide).

Design choices are often made with small runs. Decision accuracy is the share of pairs of arms in which a proxy
(fewer steps, a smaller scale) finds the same arm better as the full run (the reference) does, by means over seeds;
chance is 50 %. For comparison it is also given for a single seed of the reference against the mean of its other seeds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd

from analysis.statistics import Floats
from analysis.study import Study
from analysis.table import Table
from mm1_lab.config import TEXT_CORE, Measure
from mm1_lab.results import Manifest

FEWEST_PAIRS = 3
"""Pairs that two runs must have in common; a share of one or two is meaningless."""
Differences = Mapping[tuple[Measure, str, str], Floats]
"""By measure, first and second arm: the difference at each seed that both have."""


@dataclass(frozen=True)
class Paired:
    """A sweep's pairwise comparisons of arms."""

    manifest: Manifest
    seeds: int
    flops: float
    """Mean FLOPs per trial, as recorded with its times: multimodal training and later stages, without shared parts."""
    differences: Differences
    """Without controls and arms that are the same trials."""

    @property
    def name(self) -> str:
        return ", ".join([f"scale {self.manifest.scale}", *self.manifest.overrides])

    @property
    def question(self) -> tuple[str, str]:
        """Sweep and data; only runs with the same are compared."""
        return self.manifest.sweep.name, self.manifest.data_name


def pair_arms(study: Study) -> Paired:
    """What comparing all pairs of a sweep's arms needs."""
    arms = [arm for arm in study.scored if study.representative(arm) == arm and arm not in study.controls]
    differences = {}
    for measure in [*(Measure(shots=shots) for shots in study.shots), TEXT_CORE]:
        scores = study.trial_values(measure)
        for first, second in combinations(arms, 2):
            both = [seed for seed in study.seeds if (first, seed) in scores and (second, seed) in scores]
            if both:
                values = [scores[first, seed] - scores[second, seed] for seed in both]
                differences[measure, first, second] = np.array(values)
    spent = [sum(each["flops"] for each in record.get("timings", {}).values()) for record in study.records.values()]
    return Paired(study.manifest, len(study.seeds), float(np.mean(spent or [np.nan])), differences)


def accuracy(references: Sequence[Paired], runs: Sequence[Paired]) -> pd.DataFrame:
    """A row per reference, proxy (a cheaper run of the same sweep), number of the latter's seeds, and measure.

    Columns: sweep, reference, proxy, seeds (for 1, the mean over single seeds), cost (share of the reference's FLOPs),
    measure, pairs, accuracy. Runs at `smoke`, where nothing is learnt, are left out.
    """
    rows: list[dict[str, object]] = []
    for reference in references:
        alike = (run for run in runs if run.question == reference.question and run.flops < reference.flops)
        proxies = [run for run in alike if "smoke" not in (run.manifest.scale, reference.manifest.scale)]
        if proxies and reference.seeds > 1:
            agreements: dict[Measure, list[float]] = {}
            for (measure, _, _), own in reference.differences.items():
                if len(own) > 1:
                    others = (own.sum() - own) / (len(own) - 1)
                    agreements.setdefault(measure, []).append(_agreement(own, others))
            rows += _rows(reference, reference.name, 1, 1 / reference.seeds, agreements)
        for proxy in proxies:
            single: dict[Measure, list[float]] = {}
            mean: dict[Measure, list[float]] = {}
            for pair in reference.differences.keys() & proxy.differences.keys():
                truth, found = reference.differences[pair].mean(), proxy.differences[pair]
                single.setdefault(pair[0], []).append(_agreement(found, truth))
                mean.setdefault(pair[0], []).append(_agreement(found.mean(), truth))
            for seeds, agreements in {1: single, proxy.seeds: mean}.items():
                cost = proxy.flops * seeds / (reference.flops * reference.seeds)
                rows += _rows(reference, proxy.name, seeds, cost, agreements)
    return pd.DataFrame(rows)


def _agreement(found: Floats | float, truth: Floats | float) -> float:
    """The share of differences with the same sign as the true one; a zero difference counts one half."""
    product = np.asarray(found) * truth
    return float(np.mean(np.where(product == 0, 0.5, product > 0)))


def _rows(
    reference: Paired, proxy: str, seeds: int, cost: float, agreements: Mapping[Measure, Sequence[float]]
) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for measure in sorted(agreements, key=lambda one: (one == TEXT_CORE, one.shots or 0)):
        found = agreements[measure]
        if len(found) < FEWEST_PAIRS:
            continue
        rows.append(
            {
                "sweep": reference.manifest.sweep.name,
                "reference": reference.name,
                "proxy": proxy,
                "seeds": seeds,
                "cost": cost,
                "measure": measure,
                "pairs": len(found),
                "accuracy": np.mean(found),
            }
        )
    return rows


def accuracy_table(rows: pd.DataFrame, title: str) -> Table:
    """The accuracies as a table: a row per proxy run, a column per measure."""
    shown: dict[tuple[object, ...], dict[str, object]] = {}
    for row in rows.to_dict("records"):
        by = row["proxy"]
        if by == row["reference"]:
            by += " (for its other seeds)"
        cells = shown.setdefault((row["sweep"], by, row["seeds"]), {})
        cells["sweep"] = row["sweep"]
        cells["by"] = by
        cells["seeds"] = str(row["seeds"])
        cells["cost, %"] = f"{100 * row['cost']:.3g}"
        cells[str(row["measure"])] = f"{100 * row['accuracy']:.0f}"
    notes = [
        "Percentage of pairs of arms for which the run prefers the same arm as the full run; chance is 50.",
        "One seed: mean over single seeds. Cost: FLOPs of the trials, without the encoders and decoders that "
        "they share, in percent of the reference's. Pairs share arms: these are fewer facts than pairs.",
    ]
    return Table(title, pd.DataFrame(shown.values()), notes, group="sweep")
