"""Measurements of a learning-rate search, from its folder in the results."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import pandas as pd

from analysis.lr_law import Fit, Target, fit_all
from analysis.lr_points import Measurements, Objective
from analysis.lr_report import write_fits
from analysis.statistics import Interval, mean_of
from mm1_lab.config import Size
from mm1_lab.results.reading import Variant, read_held_out, read_records, read_scores, read_variant
from mm1_lab.results.summary import held_out_loss, measures, most_shots

HELD_OUT = "held-out loss"


def draw_search(folder: Path, targets: Sequence[Target] | None = None, keep_unbracketed: bool = False) -> list[Path]:
    """Fits and draws a search's folder (`RESULTS/SCALE/lr_law`); returns the files written.

    Without targets, those of the last fit are predicted again. Raises RequestError where there are no results.
    """
    results = SearchResults(read_variant(folder))
    chosen = _last_targets(folder) if targets is None else targets
    average, loss = fit_all(results.measurements, chosen, keep_unbracketed)
    # the fit that counts is by the average, as in the paper, where that says something at every size
    in_front = results.sees and (average.law or not loss.law)
    fits = [average, loss] if in_front else [loss, average]
    return write_fits(folder, replace(results.measurements, notes=results.notes(fits)), fits)


def _last_targets(folder: Path) -> list[Target]:
    path = folder / "law.json"
    if not path.exists():
        return []
    values = json.loads(path.read_text(encoding="utf-8"))
    rows = [row for fit in values["fits"] for row in fit["predictions"]]
    return [Target(name, params) for name, params in {row["size"]: row["params"] for row in rows}.items()]


@dataclass(frozen=True)
class SearchResults:
    """A search's finished trials."""

    variant: Variant

    @cached_property
    def values(self) -> pd.DataFrame:
        return measures(read_scores(self.variant))

    @cached_property
    def average(self) -> str:
        """`8-shot average`: the plain mean over the benchmarks with images, at the most shots."""
        return f"{most_shots(set(self.values['measure']))} average"

    @cached_property
    def runs(self) -> pd.DataFrame:
        """A row per trial: name, params, tokens, learning_rate, seed, images, arm and both objectives."""
        chosen = self.values[self.values["measure"] == self.average.removesuffix(" average")]
        averages = chosen.set_index(["arm", "seed"])["value"].to_dict()
        held_out = read_held_out(self.variant).groupby(["arm", "seed"])
        losses = {key: dict(zip(rows["source"], rows["loss"], strict=True)) for key, rows in held_out}
        records = read_records(self.variant)
        sizes = {r["recipe"]["decoder"]: r["config"]["model"]["decoder"]["size"] for r in records.values()}
        counts = {name: Size.model_validate(size).parameters().dense for name, size in sizes.items()}
        diverged = self.variant.ledger.diverged()
        rows = []
        for trial in self.variant.trials.itertuples():
            recipe = self.variant.manifest.sweep.arms[str(trial.arm)]
            if recipe.decoder not in counts or not (trial.done or trial.fingerprint in diverged):
                continue
            rate, average, loss = recipe.learning_rate, math.nan, math.nan
            if trial.done:
                rate = records[str(trial.fingerprint)]["config"]["model"]["training"]["learning_rate"]
                average = averages[trial.arm, trial.seed]
                loss = held_out_loss(losses[trial.arm, trial.seed], recipe.data_mix.shares())
            row = {"name": recipe.decoder, "params": float(counts[recipe.decoder]), "tokens": math.nan}
            row |= {"learning_rate": float(rate), "seed": trial.seed, "images": recipe.images, "arm": trial.arm}
            rows.append(row | {self.average: average, HELD_OUT: loss})
        return pd.DataFrame(rows)

    @cached_property
    def measurements(self) -> Measurements:
        manifest = self.variant.manifest
        points = self.runs[self.runs["images"] == "shown"].drop(columns=["images"]).reset_index(drop=True)
        details = ", ".join([f"scale {manifest.scale}", f"data {manifest.data_name}", *manifest.overrides])
        return Measurements(details, points, (Objective(self.average, False), Objective(HELD_OUT, True)))

    @cached_property
    def leads(self) -> dict[str, Interval | None]:
        """By size, how far the average at the best rate is above that of the blind control, in points over seeds.

        Without an interval for one seed; None where a size has no blind control.
        """
        leads: dict[str, Interval | None] = {}
        for size, runs in self.runs.groupby("name", sort=False):
            shown = runs[runs["images"] == "shown"]
            best = shown.groupby("learning_rate")[self.average].mean().idxmax()
            scores = shown[shown["learning_rate"] == best].set_index("seed")[self.average]
            blind = runs[runs["images"] == "blind"].set_index("seed")[self.average]
            leads[str(size)] = mean_of((scores - blind).dropna().tolist())
        return leads

    @property
    def sees(self) -> bool:
        """Whether the average is above the blind control's at every size; beyond chance where there are seeds."""
        return all(lead is not None and _positive(lead) for lead in self.leads.values())

    def notes(self, fits: Sequence[Fit]) -> tuple[str, ...]:
        known = {size: lead for size, lead in self.leads.items() if lead}
        if len(known) < len(self.leads):
            return (f"The {self.average} is not compared with blind controls yet; {HELD_OUT} stands in front.",)
        listed = ", ".join(f"{size} {_lead_text(lead)}" for size, lead in known.items())
        listed = f"The {self.average} at the best rate − blind control, points: {listed}."
        if self.sees:
            lawless = "It has no law, so the held-out loss stands in front."
            return (listed, lawless) if fits[0].name == HELD_OUT else (listed,)
        weak = ", ".join(size for size, lead in known.items() if not _positive(lead))
        return (
            f"{listed} At {weak} it is not above the blind control's: these sizes are the wrong ones for that "
            f"objective at this scale, and {HELD_OUT} stands in front.",
        )


def _positive(lead: Interval) -> bool:
    return (lead.estimate if math.isnan(lead.low) else lead.low) > 0


def _lead_text(lead: Interval) -> str:
    interval = "" if math.isnan(lead.low) else f" [{lead.low:+.1f}, {lead.high:+.1f}]"
    return f"{lead.estimate:+.1f}{interval}".replace("-", "−")
