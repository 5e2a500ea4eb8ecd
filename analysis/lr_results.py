"""Measurements of a learning-rate search, from its folder in the results."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.lr_curve import Floats
from analysis.lr_fit import Fit, Target, fit_all
from analysis.lr_points import Measurements, Objective
from analysis.lr_report import write_fits
from analysis.optimum import Optimum
from analysis.statistics import Interval, over_questions, resample_blocks
from mm1_lab.config import Size, non_embedding_parameters
from mm1_lab.results import Ledger
from mm1_lab.results.reading import Variant, read_held_out, read_records, read_scores, read_variant
from mm1_lab.results.summary import held_out_loss, measures, most_shots

HELD_OUT = "held-out loss"


def draw_search(folder: Path, targets: Sequence[Target] | None = None, keep_unbracketed: bool = False) -> list[Path]:
    """Fits and draws a search's folder (`RESULTS/SCALE/lr_law`); returns the files written.

    Without targets, those of the last fit are predicted again. Raises RequestError where there are no results.
    """
    results = SearchResults(read_variant(folder))
    if targets is None:
        targets = _last_targets(folder)
    fits = fit_all(results.measurements, targets, keep_unbracketed, results.resample)
    fits = results.in_order(fits)
    measurements = results.measurements
    ordered = Measurements(
        measurements.title, measurements.points, tuple(fit.objective for fit in fits), results.notes(fits)
    )
    return write_fits(folder, ordered, fits)


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
    def scores(self) -> pd.DataFrame:
        return read_scores(self.variant)

    @cached_property
    def average(self) -> str:
        """`8-shot average`: the plain mean over the benchmarks with images, at the most shots."""
        return f"{self.average_measure} average"

    @cached_property
    def average_measure(self) -> str:
        return most_shots(set(measures(self.scores)["measure"]))

    @cached_property
    def runs(self) -> pd.DataFrame:
        """A row a trial: name, params, tokens, learning_rate, seed, images, arm and both objectives."""
        values = measures(self.scores)
        chosen = values[values["measure"] == self.average_measure]
        averages = {(a, s): v for a, s, v in zip(chosen["arm"], chosen["seed"], chosen["value"], strict=True)}
        held_out = read_held_out(self.variant)
        losses = {
            (rows["arm"].iloc[0], rows["seed"].iloc[0]): dict(zip(rows["source"], rows["loss"], strict=True))
            for _, rows in held_out.groupby(["arm", "seed"])
        }
        records = read_records(self.variant)
        counts = {}
        for record in records.values():
            size = record["config"]["model"]["decoder"]["size"]
            counts[record["recipe"]["decoder"]] = non_embedding_parameters(Size.model_validate(size))
        ledger = Ledger(self.variant.results, self.variant.results)
        rows = []
        columns = (self.variant.trials[name].tolist() for name in ("arm", "seed", "fingerprint", "done"))
        for arm, seed, fingerprint, done in zip(*columns, strict=True):
            recipe, key = self.variant.manifest.sweep.arms[arm], (arm, seed)
            if recipe.decoder not in counts or not (done or ledger.diverged(fingerprint)):
                continue
            loss = losses[key] if done else {}
            rows.append(
                {
                    "name": recipe.decoder,
                    "params": float(counts[recipe.decoder]),
                    "tokens": np.nan,
                    "learning_rate": self._rate(records.get(fingerprint), recipe.learning_rate),
                    "seed": seed,
                    "images": recipe.images,
                    "arm": arm,
                    self.average: averages[key] if done else np.nan,
                    HELD_OUT: held_out_loss(loss, recipe.data_mix.shares()) if done else np.nan,
                }
            )
        return pd.DataFrame(rows)

    @staticmethod
    def _rate(record: dict[str, object] | None, asked: object) -> float:
        config = record["config"] if record else None
        return float(config["model"]["training"]["learning_rate"] if isinstance(config, dict) else asked)  # type: ignore[arg-type]

    @cached_property
    def measurements(self) -> Measurements:
        manifest = self.variant.manifest
        points = self.runs[self.runs["images"] == "shown"].drop(columns=["images"]).reset_index(drop=True)
        objectives = (Objective(self.average, False), Objective(HELD_OUT, True))
        details = ", ".join([f"scale {manifest.scale}", f"data {manifest.data_name}", *manifest.overrides])
        return Measurements(details, points, objectives)

    @cached_property
    def seeds(self) -> int:
        return int(self.runs["seed"].nunique())

    @cached_property
    def blocks(self) -> tuple[list[str], dict[str, Floats], dict[str, Floats]]:
        """The arms, the sum of their scores at the most shots a block of questions, and the questions of each block.

        By benchmark; seeds are averaged.
        """
        shots = int(self.average_measure.removesuffix("-shot"))
        rows = self.scores[(self.scores["family"] != "text") & (self.scores["shots"] == shots)]
        means = rows.groupby(["arm", "benchmark", "block"])["score"].mean().unstack("arm")
        counts = rows.groupby(["benchmark", "block"])["question"].nunique()
        names = [str(name) for name in counts.index.get_level_values("benchmark").unique()]
        each = {name: np.asarray(counts.loc[[name]], dtype=np.float64) for name in names}
        sums = {name: np.asarray(means.loc[[name]], dtype=np.float64).T * each[name] for name in names}
        return [str(arm) for arm in means.columns], sums, each

    def resample(self, objective: Objective, optimum: Optimum) -> Floats | None:
        """(rates of the curve, resamples) averages on resampled questions, where there are several seeds."""
        if objective.column != self.average or self.seeds < 2 or optimum.curve is None:
            return None
        arms, sums, counts = self.blocks
        points = self.measurements.points
        own = points[points["name"] == optimum.cell.name]
        chosen = []
        for rate in optimum.curve.rates:
            arm = own.loc[np.isclose(np.log(own["learning_rate"]), rate), "arm"].iloc[0]
            chosen.append(arms.index(arm))
        resampled = resample_blocks({name: block[chosen] for name, block in sums.items()}, counts)
        return np.asarray(np.mean(list(resampled.values()), axis=0))

    def lead(self, size: str) -> Interval | None:
        """The average of a size at its best rate − that of its blind control; None where it has none."""
        runs = self.runs[self.runs["name"] == size]
        blind = runs.loc[runs["images"] == "blind"].dropna(subset=[self.average])
        seeing = runs[runs["images"] == "shown"].groupby("arm")[self.average].mean().dropna()
        if blind.empty or seeing.empty:
            return None
        arms, sums, counts = self.blocks
        best, control = arms.index(str(seeing.idxmax())), arms.index(str(blind["arm"].iloc[0]))
        return over_questions(
            {name: (sums[name][best] - sums[name][control]) / n for name, n in counts.items()}, counts
        )

    @cached_property
    def leads(self) -> dict[str, Interval | None]:
        return {str(name): self.lead(str(name)) for name in self.measurements.points["name"].unique()}

    @property
    def sees(self) -> bool:
        """Whether the average is above the blind control's at every size, beyond what other questions would change."""
        return all(lead is not None and lead.low > 0 for lead in self.leads.values())

    def in_order(self, fits: Sequence[Fit]) -> list[Fit]:
        """The fit that counts first: by the average, as in the paper, where it says something at every size."""
        average, loss = fits
        return [average, loss] if self.sees and (average.law or not loss.law) else [loss, average]

    def notes(self, fits: Sequence[Fit]) -> tuple[str, ...]:
        known = {size: lead for size, lead in self.leads.items() if lead}
        if len(known) < len(self.leads):
            return (f"The {self.average} is not compared with blind controls yet; {HELD_OUT} stands in front.",)
        listed = ", ".join(f"{size} {d.estimate:+.1f} [{d.low:+.1f}, {d.high:+.1f}]" for size, d in known.items())
        listed = f"{self.average} at the best rate − blind control, points: {listed.replace('-', '−')}."
        if self.sees:
            return (
                f"The {listed}",
                *(["It has no law, so the held-out loss stands in front."] * (fits[0].name == HELD_OUT)),
            )
        weak = ", ".join(size for size, lead in known.items() if lead.low <= 0)
        return (
            f"The {listed} At {weak} it is not above the blind control's: these sizes are the wrong ones for that "
            f"objective at this scale, and {HELD_OUT} stands in front.",
        )
