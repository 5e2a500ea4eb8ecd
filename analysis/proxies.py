"""The decision accuracy of cheaper runs of a sweep (Magnusson et al. 2025, DataDecide).

Design choices are often made with small runs. Decision accuracy is the share of pairs of arms in which a proxy
(fewer steps, a smaller scale) finds the same arm better as the full run (the reference) does, by means over seeds;
chance is 50 %. For comparison it is also given for a single seed of the reference against the mean of its other seeds.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.runs import spent
from analysis.study import Study
from analysis.table import Table
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
    """Mean FLOPs of a trial, without encoder and decoder; what several trials share counts once."""
    differences: pd.DataFrame
    """The columns are the seeds, indexed by measure and pair; without controls and arms that are the same trials."""

    @property
    def name(self) -> str:
        return ", ".join([f"scale {self.manifest.scale}", *self.manifest.overrides])


def pair_arms(study: Study) -> Paired:
    """What comparing all pairs of a sweep's arms needs."""
    arms = [arm for arm in study.distinct if arm not in study.controls]
    firsts, seconds = np.triu_indices(len(arms), 1)
    pairs = [f"{arms[first]} − {arms[second]}" for first, second in zip(firsts, seconds, strict=True)]
    differences = {}
    for measure in [*(Measure(shots=shots) for shots in study.shots), TEXT_CORE]:
        values = study.all_values(measure).loc[arms].to_numpy()
        differences[str(measure)] = pd.DataFrame(values[firsts] - values[seconds], pairs, study.seeds, dtype=float)
    frame = pd.concat(differences, names=["measure", "pair"])
    return Paired(
        manifest=study.manifest,
        seeds=len(study.seeds),
        flops=spent(study.records.values(), "flops")[0],
        differences=frame.dropna(how="all"),
    )


def accuracy(references: Iterable[Paired], runs: Sequence[Paired]) -> pd.DataFrame:
    """A row per reference, proxy (a cheaper run of the same sweep), number of the latter's seeds, and measure.

    Columns: sweep, reference, proxy, seeds (for 1, the mean over single seeds), cost (share of the reference's FLOPs),
    measure, pairs, accuracy. Runs at `smoke`, where nothing is learnt, are left out.
    """
    tables = []
    for reference in references:
        proxies = [run for run in runs if _is_proxy(run, reference)]
        own = reference.differences
        if proxies and reference.seeds > 1:
            several = own[own.count(axis=1) > 1]
            sum_of_others = several.rsub(several.sum(axis=1), axis=0)
            tables.append(_rows(reference, reference, 1, several * sum_of_others))
        for proxy in proxies:
            common = own.index.intersection(proxy.differences.index)
            truth = own.loc[common].mean(axis=1)
            found = proxy.differences.loc[common]
            tables.append(_rows(reference, proxy, 1, found.mul(truth, axis=0)))
            if proxy.seeds > 1:
                of_means = found.mean(axis=1) * truth
                tables.append(_rows(reference, proxy, proxy.seeds, of_means.to_frame()))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def _is_proxy(run: Paired, reference: Paired) -> bool:
    own, other = run.manifest, reference.manifest
    alike = (own.sweep.name, own.data_name) == (other.sweep.name, other.data_name)
    alike = alike and own.data.digest == other.data.digest  # not of another version of the world
    return alike and run.flops < reference.flops and "smoke" not in (own.scale, other.scale)


def _rows(reference: Paired, proxy: Paired, seeds: int, product: pd.DataFrame) -> pd.DataFrame:
    """A row per measure, text last, from differences times the true ones (or what has their sign): both have the same
    sign or not; one of zero counts one half."""
    product = product.round(9)  # equal scores differ in their last bits
    agrees = (product > 0) + 0.5 * (product == 0)
    by_pair = agrees.where(product.notna()).mean(axis=1)
    of_measure = by_pair.groupby(level=0, sort=False).agg(["count", "mean"])
    of_measure = of_measure[of_measure["count"] >= FEWEST_PAIRS]
    return pd.DataFrame(
        {
            "sweep": reference.manifest.sweep.name,
            "reference": reference.name,
            "proxy": proxy.name,
            "seeds": seeds,
            "cost": proxy.flops * seeds / (reference.flops * reference.seeds),
            "measure": of_measure.index,
            "pairs": of_measure["count"].to_numpy(),
            "accuracy": of_measure["mean"].to_numpy(),
        }
    )


def accuracy_table(rows: pd.DataFrame, title: str) -> Table:
    """The accuracies as a table: a row per proxy run, a column per measure."""
    is_itself = rows["proxy"] == rows["reference"]
    shown = rows.assign(by=rows["proxy"].mask(is_itself, rows["proxy"] + " (for its other seeds)"))
    shown["cost, %"] = (100 * rows["cost"]).map("{:.3g}".format)
    shown["accuracy"] = (100 * rows["accuracy"]).map("{:.0f}".format)
    keys = ["sweep", "by", "seeds", "cost, %"]
    table = shown.pivot_table("accuracy", keys, "measure", aggfunc="first", sort=False).reset_index()
    notes = [
        "Percentage of pairs of arms for which the run prefers the same arm as the full run; chance is 50.",
        "One seed: mean over single seeds. Cost: FLOPs of the trials, without the encoders and decoders that "
        "they share, in percent of the reference's. Pairs share arms: these are fewer facts than pairs.",
    ]
    return Table(title, table, notes, group="sweep")
