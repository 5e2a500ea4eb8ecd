"""One sweep's results, ready to be drawn: means and differences with intervals, panels, controls, the paper's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from analysis.paper import Paper, PaperNumber, read_paper
from analysis.statistics import Blocks, Interval, SeedModel, Verdict, judge
from mm1_lab.config import Contrast, Panel, Sweep
from mm1_lab.results.reading import Variant, read_held_out, read_records, read_scores, read_variant
from mm1_lab.results.summary import TEXT_CORE, measures

if TYPE_CHECKING:
    import pandas as pd

FAMILIES = ("", "captioning", "vqa")
"""Groups of benchmarks with images that have a mean of their own; the first stands for all of them."""

UNCERTAINTY = {
    "seeds": "95 % intervals over {seeds} training seeds: linear model arm + seed, variance pooled over the sweep, t",
    "questions": "95 % intervals over questions (bootstrap of blocks), conditional on these models: they say nothing "
    "about models trained from other seeds. All arms answer the same questions, so their differences are surer "
    "than the intervals of their means suggest (see contrasts)",
}


@dataclass(frozen=True)
class Study:
    """A sweep's results at one scale."""

    variant: Variant
    scores: pd.DataFrame
    """A row a question, shot count, arm and seed."""
    held_out: pd.DataFrame
    """A row a source, arm and seed: the loss on documents that training never saw, in nats a text token."""
    records: Mapping[str, Mapping[str, Any]]
    """What was recorded of each finished trial, by fingerprint."""

    @property
    def sweep(self) -> Sweep:
        return self.variant.manifest.sweep

    @property
    def shots(self) -> tuple[int, ...]:
        return self.variant.manifest.shots

    @cached_property
    def panels(self) -> dict[str, Panel]:
        """The sweep's panels, or one of all its arms."""
        return self.sweep.panels or {"": Panel(title=self.sweep.title, arms={arm: arm for arm in self.sweep.arms})}

    @cached_property
    def blind(self) -> str | None:
        """The control that is shown no images, if the sweep has one."""
        return next((arm for arm, recipe in self.sweep.arms.items() if recipe.images == "blind"), None)

    @cached_property
    def others(self) -> list[str]:
        """Arms that no panel shows: the controls."""
        shown = {arm for panel in self.panels.values() for arm in panel.arms.values()}
        return [arm for arm in self.sweep.arms if arm not in shown]

    @cached_property
    def paper(self) -> Paper:
        return read_paper(self.sweep.reproduces)

    @cached_property
    def measures(self) -> list[str]:
        """Everything that has scores and a column of its own, in order."""
        known = set(self.values["measure"])
        every = [TEXT_CORE, *(f"{family} {k}-shot".strip() for family in FAMILIES for k in self.shots)]
        return [measure for measure in every if measure in known]

    @cached_property
    def values(self) -> pd.DataFrame:
        """A row an arm, seed and measure: arm, seed, measure, value."""
        return measures(self.scores)

    @cached_property
    def seeds(self) -> list[int]:
        return sorted(int(seed) for seed in self.scores["seed"].unique())

    @cached_property
    def scored(self) -> list[str]:
        """The arms with scores, in the sweep's order."""
        known = set(self.scores["arm"])
        return [arm for arm in self.sweep.arms if arm in known]

    def missing(self) -> list[str]:
        """Trials of the sweep, at the seeds that were asked for, without scores."""
        rows = self.variant.trials
        seeds = sorted(set(rows["seed"])) or [0]
        done = set(zip(rows["arm"][rows["done"]], rows["seed"][rows["done"]], strict=True))
        return [f"{arm} / seed {seed}" for seed in seeds for arm in self.sweep.arms if (arm, seed) not in done]

    @cached_property
    def uncertainty(self) -> Literal["seeds", "questions"]:
        """What intervals are about. Seeds, as soon as they leave a degree of freedom to estimate their spread."""
        model = self._seed_models.get(self.measures[0])
        return "seeds" if model and model.degrees_of_freedom > 0 else "questions"

    @property
    def uncertainty_note(self) -> str:
        return UNCERTAINTY[self.uncertainty].format(seeds=len(self.seeds))

    def mean(self, arm: str, measure: str) -> Interval | None:
        """None where there is no score."""
        arm = self._representative(arm)
        if self.uncertainty == "seeds":
            model = self._seed_models.get(measure)
            return model.mean(arm) if model else None
        arms, blocks = self._blocks(measure)
        return blocks.mean(arms.index(arm)) if arm in arms else None

    def difference(self, first: str, second: str, measure: str) -> Interval | None:
        """`first` − `second`, paired; None where one of them has no score or both are one recipe."""
        first, second = self._representative(first), self._representative(second)
        if first == second:
            return None
        if self.uncertainty == "seeds":
            model = self._seed_models.get(measure)
            return model.difference(first, second) if model else None
        arms, blocks = self._blocks(measure)
        return blocks.difference(arms.index(first), arms.index(second)) if {first, second} <= set(arms) else None

    def verdict(self, contrast: Contrast) -> tuple[Interval | None, Verdict]:
        difference = self.difference(contrast.first, contrast.second, contrast.measure)
        return difference, judge(contrast, difference)

    def seed_values(self, arm: str, measure: str) -> list[float]:
        """The value of each of the arm's trials, by seed."""
        trials = self._by_trial.get(measure, {})
        return [trials[arm, seed] for seed in self.seeds if (arm, seed) in trials]

    def unparsed(self, arm: str) -> float | None:
        """Percent of the arm's answers to questions (captions aside) that do not have the form of an answer."""
        rows = self.scores[(self.scores["arm"] == arm) & (self.scores["family"] == "vqa")]
        return float(100 * (1 - rows["parsed"].mean())) if len(rows) else None

    def majority(self, measure: str) -> float | None:
        """What the best constant answer for each kind of question earns; None for a measure with captions."""
        known: dict[str, float] = next(
            (record["majority"] for record in self.records.values() if record.get("majority")), {}
        )
        names = self.scores.loc[_selection(self.scores, measure), "benchmark"].unique()
        return float(np.mean([known[name] for name in names])) if len(names) and set(names) <= set(known) else None

    def paper_difference(self, contrast: Contrast) -> PaperNumber | None:
        """The paper's own difference, where one panel shows both arms and the paper gives it."""
        for key, panel in self.panels.items():
            labels = {arm: label for label, arm in panel.arms.items()}
            if {contrast.first, contrast.second} <= set(labels):
                number = self.paper.difference(key, labels[contrast.first], labels[contrast.second], contrast.measure)
                if number:
                    return number
        return None

    def mixes_machines(self, contrast: Contrast) -> bool:
        """Whether the two arms' scores were made on different processors or with different libraries."""
        rows = self.variant.trials[self.variant.trials["arm"].isin([contrast.first, contrast.second])]
        found = [self.records[f].get("environment", {}) for f in rows["fingerprint"] if f in self.records]
        return len({str([machine.get(key) for key in ("processor", "threads", "versions")]) for machine in found}) > 1

    def _representative(self, arm: str) -> str:
        """The first arm with scores of the same recipe: its trials are the same trials, and count once."""
        same = (name for name in self.scored if self.sweep.arms[name] == self.sweep.arms[arm])
        return next(same, arm)

    @cached_property
    def _by_trial(self) -> dict[str, dict[tuple[str, int], float]]:
        """By measure, the value of each trial (arm, seed)."""
        found: dict[str, dict[tuple[str, int], float]] = {}
        columns = (self.values[name].tolist() for name in ("measure", "arm", "seed", "value"))
        for measure, arm, seed, value in zip(*columns, strict=True):
            found.setdefault(measure, {})[arm, seed] = value
        return found

    @cached_property
    def _seed_models(self) -> dict[str, SeedModel]:
        """By measure; none with one seed."""
        arms = {arm for arm in self.scored if self._representative(arm) == arm}
        trials = {
            measure: {trial: value for trial, value in values.items() if trial[0] in arms}
            for measure, values in self._by_trial.items()
        }
        return {m: SeedModel(values) for m, values in trials.items() if len({seed for _, seed in values}) > 1}

    def _blocks(self, measure: str) -> tuple[list[str], Blocks]:
        """The arms that have the measure, and their scores a block; seeds and shot counts are averaged."""
        if measure not in self._block_cache:
            rows = self.scores[_selection(self.scores, measure)]
            means = rows.groupby(["arm", "benchmark", "block"])["score"].mean().unstack("arm")
            means = means.loc[:, means.notna().all()]
            questions = rows.groupby(["benchmark", "block"])["question"].nunique()
            names = [str(name) for name in questions.index.get_level_values("benchmark").unique()]
            counts = {name: np.asarray(questions.loc[[name]], dtype=np.float64) for name in names}
            sums = {name: np.asarray(means.loc[[name]], dtype=np.float64).T * counts[name] for name in names}
            self._block_cache[measure] = ([str(arm) for arm in means.columns], Blocks(sums, counts))
        return self._block_cache[measure]

    @cached_property
    def _block_cache(self) -> dict[str, tuple[list[str], Blocks]]:
        return {}


def _selection(scores: pd.DataFrame, measure: str) -> pd.Series[bool]:
    """The rows of scores that a measure averages."""
    if measure == TEXT_CORE:
        return scores["family"] == "text"
    *family, shots = measure.split()
    chosen = (scores["family"] == family[0]) if family else (scores["family"] != "text")
    return chosen & (scores["shots"] == int(shots.removesuffix("-shot")))


def read_study(folder: Path) -> Study:
    """Reads a sweep's folder. Raises RequestError where there are no results, or of another schema."""
    variant = read_variant(folder)
    return Study(variant, read_scores(variant), read_held_out(variant), read_records(variant))
