"""Measurements of scores over learning rates from a search's results folder."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from analysis.law.lr_points import HELD_OUT, Measurements, Objective
from analysis.seeds import caution
from analysis.statistics import Interval, mean_of
from mm1_lab.config import Recipe, Size, canonical_json
from mm1_lab.results.reading import Variant, read_held_out, read_records, read_scores
from mm1_lab.results.summary import held_out_loss, measures, most_shots


@dataclass(frozen=True)
class SearchResults:
    """A search's finished trials."""

    variant: Variant

    @cached_property
    def values(self) -> pd.DataFrame:
        return measures(read_scores(self.variant))

    @cached_property
    def average(self) -> str:
        """`8-shot average`: the plain mean over the benchmarks with images at the largest number of shots."""
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
        diverged, names = self.variant.ledger.diverged(), self.cell_names
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
            row = {"name": names[_start(recipe)], "params": float(counts[recipe.decoder]), "tokens": math.nan}
            row |= {"learning_rate": float(rate), "seed": trial.seed, "images": recipe.images, "arm": trial.arm}
            rows.append(row | {self.average: average, HELD_OUT: loss})
        return pd.DataFrame(rows)

    @cached_property
    def cell_names(self) -> dict[str, str]:
        """Names of the cells by `_start`: that of the size, or of the search's arm if several have this size."""
        starts: dict[str, dict[str, str]] = {}
        for arm, recipe in self.variant.manifest.sweep.arms.items():
            starts.setdefault(recipe.decoder, {})[_start(recipe)] = arm.removesuffix(" blind").rpartition(" ")[0]
        return {start: size if len(arms) == 1 else arm for size, arms in starts.items() for start, arm in arms.items()}

    @cached_property
    def measurements(self) -> Measurements:
        manifest = self.variant.manifest
        points = self.runs[self.runs["images"] == "shown"].drop(columns=["images"]).reset_index(drop=True)
        details = ", ".join([f"scale {manifest.scale}", f"data {manifest.data_name}", *manifest.overrides])
        return Measurements(
            details,
            points,
            (Objective(self.average, False, "points"), Objective(HELD_OUT, True, "nats per text token")),
        )

    @cached_property
    def leads(self) -> dict[str, Interval | None]:
        """Average at the best rate minus that of the blind control by size, in points, over seeds.

        Without an interval for one seed; None if a size has no blind control. A size that diverged at every rate has
        no entry.
        """
        leads: dict[str, Interval | None] = {}
        for size, runs in self.runs.groupby("name", sort=False):
            shown = runs[runs["images"] == "shown"]
            averages = shown.groupby("learning_rate")[self.average].mean().dropna()
            if averages.empty:
                continue
            scores = shown[shown["learning_rate"] == averages.idxmax()].set_index("seed")[self.average]
            blind = runs[runs["images"] == "blind"].set_index("seed")[self.average]
            leads[str(size)] = mean_of((scores - blind).dropna().tolist())
        return leads

    @property
    def sees(self) -> bool:
        """Whether the average is above the blind control's at every size; significantly so with several seeds."""
        return all(lead is not None and _positive(lead) for lead in self.leads.values())

    @property
    def cautions(self) -> tuple[str, ...]:
        """Which seeds and world the results are of, and how they compare with the paper's law."""
        manifest, rows = self.variant.manifest, self.variant.done
        record = next(iter(read_records(self.variant).values()), {})
        training = record.get("config", {}).get("model", {}).get("training", {})
        share = training.get("lr_multipliers", {}).get("decoder", 1)
        own = f"the decoder learns at {share:g} × this rate, and " * (share != 1)
        levels = f"Compare slopes with MM1's, not levels: {own}batch and length differ from the paper's."
        return tuple(filter(None, (levels, caution(manifest, sorted(set(rows["seed"]))))))

    def notes(self, in_front: str) -> tuple[str, ...]:
        """Notes on how the average compares with the blind controls, and why `in_front` is the main objective."""
        known = {size: lead for size, lead in self.leads.items() if lead}
        several = self.runs.groupby("params")["name"].unique()
        shared = [f"{' and '.join(names)} have one size: each has an optimum of its own, and the law goes through all."
                  for names in several if len(names) > 1]  # fmt: skip
        if len(known) < len(self.leads):
            lacking = f"The {self.average} is not compared with blind controls yet; {HELD_OUT} stands in front."
            return (lacking, *shared)
        listed = ", ".join(f"{size} {_lead_text(lead)}" for size, lead in known.items())
        listed = f"The {self.average} at the best rate − blind control, points: {listed}."
        if self.sees:
            lawless = "It has no law, so the held-out loss stands in front."
            return (listed, *[lawless] * (in_front == HELD_OUT), *shared)
        weak = ", ".join(size for size, lead in known.items() if not _positive(lead))
        return (
            f"{listed} At {weak} it is not above the blind control's: these sizes are the wrong ones for that "
            f"objective at this scale, and {HELD_OUT} stands in front.",
            *shared,
        )


def _start(recipe: Recipe) -> str:
    """The same text for all rates of a search's arm and for its blind control, and for no other arm."""
    return canonical_json(recipe.model_dump(mode="json", exclude={"learning_rate", "images"}))


def _positive(lead: Interval) -> bool:
    return (lead.estimate if math.isnan(lead.low) else lead.low) > 0


def _lead_text(lead: Interval) -> str:
    interval = "" if math.isnan(lead.low) else f" [{lead.low:+.1f}, {lead.high:+.1f}]"
    return f"{lead.estimate:+.1f}{interval}".replace("-", "−")
