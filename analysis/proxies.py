"""The decision accuracy of cheaper runs of a sweep (Magnusson et al. 2025, DataDecide).

Design choices are often made with small runs. Decision accuracy is the share of pairs of arms in which a proxy
(fewer steps, a smaller scale) finds the same arm better as the full run (the reference) does, by means over seeds;
chance is 50 %. It is also given for only those pairs that the reference separates significantly, and, for comparison,
for a single seed of the reference against the mean of its other seeds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np
import pandas as pd

from analysis.statistics import Floats, moderated, other_arms
from analysis.study import Study
from analysis.table import MISSING, Table
from mm1_lab.config import TEXT_CORE, Measure
from mm1_lab.results import Manifest

FEWEST_PAIRS = 3
"""Pairs that two runs must have in common; a share of one or two is meaningless."""


@dataclass(frozen=True)
class Paired:
    """A sweep's pairwise comparisons of arms."""

    manifest: Manifest
    seeds: int
    flops: float
    """Mean FLOPs per trial, as recorded with its times: multimodal training and later stages, without shared parts."""
    scores: Mapping[Measure, pd.DataFrame]
    """By measure, a row per arm and a column per seed; without controls and arms that are the same trials."""

    @property
    def name(self) -> str:
        return ", ".join([f"scale {self.manifest.scale}", *self.manifest.overrides])

    @property
    def question(self) -> tuple[str, str]:
        """Sweep and data; only runs with the same are compared."""
        return self.manifest.sweep.name, self.manifest.data_name

    @cached_property
    def pairs(self) -> pd.DataFrame:
        """A row per measure and pair of arms: measure, first, second, differences (per seed), apart (significant)."""
        rows = []
        for measure, table in self.scores.items():
            scores = table.to_numpy(np.float64)
            known = np.isfinite(scores)
            for first, second in combinations(range(len(table)), 2):
                if (both := known[first] & known[second]).any():
                    pool = known[:, both].all(1)
                    pool[[first, second]] = False
                    values = scores[first, both] - scores[second, both]
                    found = moderated(values, other_arms(scores[pool][:, both]))
                    apart = bool(found and (found.low > 0 or found.high < 0))
                    rows.append((measure, table.index[first], table.index[second], values, apart))
        return pd.DataFrame(rows, columns=["measure", "first", "second", "differences", "apart"])


def pair_arms(study: Study) -> Paired:
    """What comparing all pairs of a sweep's arms needs."""
    arms = [arm for arm in study.scored if study.representative(arm) == arm and arm not in study.controls]
    scores = {}
    for measure in [*(Measure(shots=shots) for shots in study.shots), TEXT_CORE]:
        known = study.trial_values(measure)
        scores[measure] = pd.DataFrame({seed: {arm: known.get((arm, seed)) for arm in arms} for seed in study.seeds})
    spent = [sum(each["flops"] for each in one.get("timings", {}).values()) for one in study.records.values()]
    return Paired(study.manifest, len(study.seeds), float(np.mean(spent or [np.nan])), scores)


def accuracy(references: Sequence[Paired], runs: Sequence[Paired]) -> pd.DataFrame:
    """A row per reference, proxy (a cheaper run of the same sweep), number of the latter's seeds, and measure.

    Columns: sweep, reference, proxy, seeds (for 1, the mean over single seeds), cost (share of the reference's FLOPs),
    measure, pairs, accuracy, apart (pairs that the reference separates), accuracy_apart. Runs at `smoke`, where
    nothing is learnt, are left out.
    """
    rows = []
    for reference in references:
        alike = (run for run in runs if run.question == reference.question and run.flops < reference.flops)
        proxies = [run for run in alike if "smoke" not in (run.manifest.scale, reference.manifest.scale)]
        if proxies and reference.seeds > 1:
            several = reference.pairs[reference.pairs["differences"].map(len) > 1]
            each = several["differences"]
            others = each.map(lambda own: (own.sum() - own) / (len(own) - 1))
            rows += _rows(reference, reference.name, 1, 1 / reference.seeds, several.assign(found=each, truth=others))
        for proxy in proxies:
            both = reference.pairs.merge(proxy.pairs, on=["measure", "first", "second"], suffixes=("", "_proxy"))
            each, truth = both["differences_proxy"], both["differences"].map(np.mean)
            for seeds, found in {1: each, proxy.seeds: each.map(np.mean)}.items():
                cost = proxy.flops * seeds / (reference.flops * reference.seeds)
                rows += _rows(reference, proxy.name, seeds, cost, both.assign(found=found, truth=truth))
    return pd.DataFrame(rows)


def _rows(reference: Paired, proxy: str, seeds: int, cost: float, pairs: pd.DataFrame) -> list[dict[str, object]]:
    """Rows for `pairs` with columns `found` and `truth`: differences, or arrays of one per seed."""
    rows = []
    for measure, own in pairs.groupby("measure", sort=False):
        if len(own) < FEWEST_PAIRS:
            continue
        agree = np.array([_agreement(found, truth) for found, truth in zip(own["found"], own["truth"], strict=True)])
        sure = agree[own["apart"].to_numpy(bool)]
        row = {
            "sweep": reference.manifest.sweep.name,
            "reference": reference.name,
            "proxy": proxy,
            "seeds": seeds,
            "cost": cost,
        }
        row |= {"measure": measure, "pairs": len(own), "accuracy": agree.mean(), "apart": len(sure)}
        rows.append(row | {"accuracy_apart": sure.mean() if len(sure) else np.nan})
    return rows


def _agreement(found: Floats, truth: Floats) -> float:
    """The share of differences with the same sign as the true one; a zero difference counts one half."""
    return float(np.mean(np.where(found * truth == 0, 0.5, found * truth > 0)))


def accuracy_table(rows: pd.DataFrame, title: str) -> Table:
    """The accuracies as a table: a row per proxy run, a column per measure."""
    shown: dict[tuple[object, ...], dict[str, object]] = {}
    for one in rows.to_dict("records"):
        key = one["sweep"], one["proxy"], one["seeds"]
        itself = " (for its other seeds)" * (one["proxy"] == one["reference"])
        row = shown.setdefault(
            key, {"sweep": one["sweep"], "by": f"{one['proxy']}{itself}", "seeds": str(one["seeds"])}
        )
        row["cost, %"] = f"{100 * one['cost']:.3g}"
        sure = f" ({100 * one['accuracy_apart']:.0f} of {one['apart']})" if one["apart"] else f" ({MISSING})"
        row[str(one["measure"])] = f"{100 * one['accuracy']:.0f}{sure}"
    notes = [
        "Percentage of pairs of arms for which the run prefers the same arm as the full run; chance is 50. In "
        "parentheses: the same among pairs that differ significantly (95 %) in the full run, and their number.",
        "One seed: mean over single seeds. Cost: FLOPs of the trials, without the encoders and decoders that "
        "they share, in percent of the reference's. Pairs share arms: these are fewer facts than pairs.",
    ]
    return Table(title, pd.DataFrame(shown.values()), notes, group="sweep")
