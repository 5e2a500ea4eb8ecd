"""Would a cheaper run of a sweep have decided the same? Its decision accuracy (Magnusson et al. 2025, DataDecide).

Choices are made by small runs that are then trained at full size. Of all pairs of arms this counts those of which the
cheap run (fewer steps, a smaller scale) finds the same one better as the dear run does, by means over seeds: 50 % is a
coin. Beside it stands the same among the pairs that the dear run itself tells apart, and, to compare with, how often
one seed of the dear run finds the same one better as the mean of its others.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd

from analysis.claims import interval_over_seeds, per_seed
from analysis.statistics import Floats
from analysis.study import Study
from analysis.table import MISSING, Table
from mm1_lab.results import Manifest
from mm1_lab.results.summary import TEXT_CORE

FEWEST_PAIRS = 3
"""That two runs must share: of one or two a share says nothing."""


@dataclass(frozen=True)
class Paired:
    """A sweep's results as far as its arms are compared in pairs."""

    manifest: Manifest
    seeds: int
    flops: float
    """Of one trial, the mean, by the rule that times go by: multimodal training and what follows, no shared parts."""
    pairs: pd.DataFrame
    """A row per measure and pair of arms: measure, first, second, differences (one per seed), apart (at 95 %)."""

    @property
    def name(self) -> str:
        return ", ".join([f"scale {self.manifest.scale}", *self.manifest.overrides])

    @property
    def question(self) -> tuple[str, str]:
        """Runs are compared that ask the same of the same data."""
        return self.manifest.sweep.name, self.manifest.data_name


def pair_arms(study: Study) -> Paired:
    """Controls and arms that are the same trials as another are left out."""
    arms = [arm for arm in study.scored if study.representative(arm) == arm and arm not in study.controls]
    measures = [f"{shots}-shot" for shots in study.shots] + [TEXT_CORE]
    rows = []
    for measure in measures:
        for first, second in combinations(arms, 2):
            weights = {(first, measure): 1.0, (second, measure): -1.0}
            values, seeds = per_seed(study, weights)
            found = interval_over_seeds(study, weights, values, seeds)
            if seeds:
                apart = bool(found and (found.low > 0 or found.high < 0))
                rows.append((measure, first, second, values, apart))
    spent = [sum(each["flops"] for each in one.get("timings", {}).values()) for one in study.records.values()]
    pairs = pd.DataFrame(rows, columns=["measure", "first", "second", "differences", "apart"])
    return Paired(study.manifest, len(study.seeds), float(np.mean(spent or [np.nan])), pairs)


def accuracy(dear_runs: Sequence[Paired], runs: Sequence[Paired]) -> pd.DataFrame:
    """Of each of the dear runs a row per cheaper one of the same sweep, number of its seeds, and measure.

    Columns: sweep, dear, cheap, seeds (one: the mean over each by itself), cost (share of the dear run's FLOPs),
    measure, pairs, accuracy, apart (pairs that the dear run tells apart), accuracy_apart. Runs at `smoke`, where
    nothing is learnt, are left out.
    """
    rows = []
    for dear in dear_runs:
        alike = (run for run in runs if run.question == dear.question and run.flops < dear.flops)
        cheaper = [run for run in alike if "smoke" not in (run.manifest.scale, dear.manifest.scale)]
        if cheaper and dear.seeds > 1:
            each = dear.pairs["differences"]
            others = each.map(lambda own: (own.sum() - own) / max(len(own) - 1, 1))
            rows += _rows(dear, dear.name, 1, 1 / dear.seeds, dear.pairs.assign(told=each, truth=others))
        for cheap in cheaper:
            both = dear.pairs.merge(cheap.pairs, on=["measure", "first", "second"], suffixes=("", "_cheap"))
            each, truth = both["differences_cheap"], both["differences"].map(np.mean)
            for seeds, told in {1: each, cheap.seeds: each.map(np.mean)}.items():
                cost = cheap.flops * seeds / (dear.flops * dear.seeds)
                rows += _rows(dear, cheap.name, seeds, cost, both.assign(told=told, truth=truth))
    return pd.DataFrame(rows)


def _rows(dear: Paired, cheap: str, seeds: int, cost: float, pairs: pd.DataFrame) -> list[dict[str, object]]:
    """`pairs` with what is `told` of each, and the `truth`: numbers, or one per seed."""
    rows = []
    for measure, own in pairs.groupby("measure", sort=False):
        if len(own) < FEWEST_PAIRS:
            continue
        agree = np.array([_alike(told, truth) for told, truth in zip(own["told"], own["truth"], strict=True)])
        sure = agree[own["apart"].to_numpy(bool)]
        row = {"sweep": dear.manifest.sweep.name, "dear": dear.name, "cheap": cheap, "seeds": seeds, "cost": cost}
        row |= {"measure": measure, "pairs": len(own), "accuracy": agree.mean(), "apart": len(sure)}
        rows.append(row | {"accuracy_apart": sure.mean() if len(sure) else np.nan})
    return rows


def _alike(told: Floats, truth: Floats) -> float:
    """The share of differences with the sign of the true one; where there is no difference, a coin's."""
    return float(np.mean(np.where(told * truth == 0, 0.5, told * truth > 0)))


def accuracy_table(rows: pd.DataFrame, title: str) -> Table:
    """For people: a row per cheap run, a column per measure."""
    shown: dict[tuple[object, ...], dict[str, object]] = {}
    for one in rows.to_dict("records"):
        key = one["sweep"], one["cheap"], one["seeds"]
        itself = " (for its other seeds)" * (one["cheap"] == one["dear"])
        row = shown.setdefault(
            key, {"sweep": one["sweep"], "by": f"{one['cheap']}{itself}", "seeds": str(one["seeds"])}
        )
        row["cost, %"] = f"{100 * one['cost']:.3g}"
        sure = f" ({100 * one['accuracy_apart']:.0f} of {one['apart']})" if one["apart"] else f" ({MISSING})"
        row[str(one["measure"])] = f"{100 * one['accuracy']:.0f}{sure}"
    notes = [
        "Percent of the pairs of arms of which the run finds the same one better as the dear run does; 50 is a coin. "
        "In brackets the same among the pairs that the dear run tells apart (at 95 %), and how many they are.",
        "One seed: the mean over each by itself. Cost: FLOPs of the trials, without the encoders and decoders that "
        "they share, in percent of the dear run's. Pairs share arms: these are fewer facts than pairs.",
    ]
    return Table(title, pd.DataFrame(shown.values()), notes, group="sweep")
