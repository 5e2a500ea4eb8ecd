"""The results of one sweep: means and differences with intervals, panels, controls, and the paper's numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from analysis.paper import Paper, PaperNumber, combine_numbers, read_paper
from analysis.seeds import caution
from analysis.statistics import Interval, arm_means, over_blocks
from mm1_lab.config import Panel, RequestError, Sweep, canonical_json
from mm1_lab.results import Manifest
from mm1_lab.results.reading import Variant, read_held_out, read_records, read_scores, read_variant
from mm1_lab.results.summary import AVERAGE, CONTENT, TEXT_CORE, by_content, measures, rows_of

FAMILIES = {"captioning": "captioning (CIDEr)", "vqa": "VQA"}
"""Titles of the families of benchmarks with images."""
FAMILIES_APART = {
    "novel": "new combinations",
    "chat": "conversations",
    "solutions": "worked solutions",
    "likelihood": "choice by likelihood",
    "imported": "imported",
}
"""Titles of the families that the means over all benchmarks exclude: probes, tuned models only, other programs."""

UNPARSED = "unparsed %"
"""Percent of an arm's answers to questions (not captions) that cannot be parsed as an answer."""

Blocks = tuple[pd.DataFrame, "pd.Series[int]", "pd.Series[int]"]


@dataclass(frozen=True)
class Study:
    """A sweep's results at one scale."""

    variant: Variant
    scores: pd.DataFrame
    """A row per question, number of shots, arm and seed; without the answers themselves."""
    held_out: pd.DataFrame
    """A row per source, arm and seed: the loss on held-out documents, in nats per text token."""
    records: Mapping[str, Mapping[str, Any]]
    """The record of each finished trial, by fingerprint."""
    _block_cache: dict[tuple[str, tuple[int, ...]], Blocks] = field(default_factory=dict, init=False, repr=False)
    _asked_cache: dict[str, dict[tuple[str, int], set[str]]] = field(default_factory=dict, init=False, repr=False)

    @property
    def manifest(self) -> Manifest:
        return self.variant.manifest

    @property
    def sweep(self) -> Sweep:
        return self.manifest.sweep

    @property
    def shots(self) -> tuple[int, ...]:
        return self.manifest.shots

    @cached_property
    def panels(self) -> dict[str, Panel]:
        """The sweep's panels, or one with all arms except controls; arms with the same trials are shown once. A panel
        that is left with one arm is dropped if another one has more."""
        shown = {}
        arms = {arm: arm for arm in self.sweep.arms if arm not in self.controls}
        for key, panel in (self.sweep.panels or {"": Panel(title=self.sweep.title, arms=arms)}).items():
            labels: dict[str, list[str]] = {}
            for label, arm in panel.arms.items():
                labels.setdefault(self.representative(arm), []).append(label)
            merged = {" = ".join(own): panel.arms[own[0]] for own in labels.values()}
            shown[key] = Panel(title=panel.title, arms=merged)
        return {key: panel for key, panel in shown.items() if len(panel.arms) > 1} or shown

    @property
    def blind(self) -> str | None:
        return next(iter(self.controls), None)

    @cached_property
    def controls(self) -> list[str]:
        """Arms that see no images beside others that do; shown, but they do not contribute to the others' variance."""
        blind = [arm for arm, recipe in self.sweep.arms.items() if recipe.images == "blind"]
        return blind if len(blind) < len(self.sweep.arms) else []

    @cached_property
    def others(self) -> list[str]:
        """Arms that are neither in a panel nor controls."""
        shown = {self.representative(arm) for panel in self.panels.values() for arm in panel.arms.values()}
        rest = [arm for arm in self.sweep.arms if self.representative(arm) not in shown]
        return [arm for arm in rest if arm not in self.controls]

    @cached_property
    def paper(self) -> Paper:
        """The paper's numbers for this sweep; empty on a user's own data, and unless there are both captions and
        questions, like in the paper's averages."""
        if not self.manifest.in_world or not set(FAMILIES) <= set(self.families):
            return Paper({}, {})
        return read_paper(self.sweep.reproduces)

    @cached_property
    def families(self) -> dict[str, str]:
        """Titles of the families of benchmarks with images by the prefix of their measures, which is empty for the mean
        over all of them, or for the only one."""
        known = set(self.scores["family"].unique())
        titles = {family: title for family, title in FAMILIES.items() if family in known}
        apart = {family: title for family, title in FAMILIES_APART.items() if family in known}
        if len(titles) == 1:
            return {"": titles.popitem()[1]} | apart
        return ({"": "all image benchmarks"} if titles else {}) | titles | apart

    @cached_property
    def measures(self) -> list[str]:
        """The measures with scores that have a column of their own, in order. Raises RequestError if there are none."""
        known = set(self.values["measure"])
        every = [TEXT_CORE, *(f"{family} {k}-shot".strip() for family in self.families for k in self.shots)]
        if not (found := [measure for measure in every if measure in known]):
            shots = ", ".join(map(str, self.shots))
            raise RequestError(f"{self.variant.folder}: no finished trial has a score at {shots} shots; run it again")
        return found

    @cached_property
    def content_measures(self) -> list[str]:
        """Those of `measures` with captions, with their content scores in place of the metric; empty without any."""
        known = set(self.values["measure"])
        return [name for name in (f"{CONTENT} {measure}" for measure in self.measures) if name in known]

    @property
    def own_benchmarks(self) -> list[str]:
        """Of the user's data, the measures of each benchmark by itself, of which tables have only the family's."""
        rows = self.asked[~self.asked["benchmark"].isin(self.scores["family"].unique())]
        rows = rows[["benchmark", "shots"]].drop_duplicates().sort_values("shots", kind="stable")
        names = [f"{name} {shots}-shot" for name, shots in zip(rows["benchmark"], rows["shots"], strict=True)]
        return [] if self.manifest.in_world else names

    @property
    def averages(self) -> list[str]:
        """The measures over all benchmarks: of text, then of images by number of shots."""
        return [measure for measure in self.measures if " " not in measure]

    @property
    def setting(self) -> str:
        """`scale mini`, and the data if they are not the miniature world."""
        data = self.manifest.data_name
        return f"scale {self.manifest.scale}" + f", data {data}" * (data != "world")

    @cached_property
    def values(self) -> pd.DataFrame:
        """A row per arm, seed and measure: columns arm, seed, measure, value."""
        unparsed = self._rows(UNPARSED).groupby(["arm", "seed"], sort=False)["score"].mean().rename("value")
        return pd.concat([measures(self.scores), unparsed.reset_index().assign(measure=UNPARSED)], ignore_index=True)

    @cached_property
    def seeds(self) -> list[int]:
        return sorted(int(seed) for seed in self.scores["seed"].unique())

    @cached_property
    def scored(self) -> list[str]:
        """The arms with scores, in the sweep's order."""
        known = set(self.scores["arm"].unique())
        return [arm for arm in self.sweep.arms if arm in known]

    def missing(self) -> list[str]:
        """Trials of the sweep without scores, at the requested seeds."""
        rows = self.variant.trials
        seeds = sorted(set(rows["seed"])) or [0]
        done = set(zip(rows["arm"][rows["done"]], rows["seed"][rows["done"]], strict=True))
        return [f"{arm} / seed {seed}" for seed in seeds for arm in self.sweep.arms if (arm, seed) not in done]

    @cached_property
    def uncertainty(self) -> Literal["seeds", "questions"]:
        """The unit of the intervals of arms' means: seeds if they leave a degree of freedom, otherwise questions."""
        return "seeds" if self._means[self.measures[0]] else "questions"

    @property
    def caution(self) -> str:
        """Why the results decide nothing, or a warning about their world and seeds; empty if there is none."""
        return caution(self.manifest, self.seeds)

    def mean(self, arm: str, measure: str) -> Interval | None:
        """The mean of an arm with its interval; None without scores. Over seeds, there is no interval for controls and
        unparsed answers, which do not share the residual variance, or if a measure leaves no degree of freedom."""
        if self.uncertainty != "seeds":
            return self.over_questions({(arm, measure): 1.0}, self.seeds)
        found = self._means.get(measure, {}).get(self.representative(arm))
        if found and arm not in self.controls and measure != UNPARSED:
            return found
        values = [found.estimate] if found else self.seed_values(arm, measure)
        return Interval(float(np.mean(values)), np.nan, np.nan) if values else None

    def over_questions(self, weights: Mapping[tuple[str, str], float], seeds: Sequence[int]) -> Interval | None:
        """A weighted sum of scores, by (arm, measure), with an interval over questions; averages `seeds` and shots.
        None if one of the scores is missing."""
        terms = []
        for (arm, measure), weight in weights.items():
            means, questions, shots = self._block_means(measure, tuple(seeds))
            if self.representative(arm) not in means or means[self.representative(arm)].isna().any():
                return None
            terms.append(weight * means[self.representative(arm)])
        total = sum(terms[1:], terms[0])
        return over_blocks(total, questions, shots) if len(total) else None

    def at_seeds(self, seeds: Iterable[int]) -> Study:
        """This study with only the trials of `seeds`."""
        trials, scores, held_out = (
            table[table["seed"].isin(list(seeds))] for table in (self.variant.trials, self.scores, self.held_out)
        )
        known = set(trials["fingerprint"])
        records = {fingerprint: record for fingerprint, record in self.records.items() if fingerprint in known}
        return Study(replace(self.variant, trials=trials), scores, held_out, records)

    def seed_values(self, arm: str, measure: str) -> list[float]:
        """The values of the arm's trials, ordered by seed."""
        trials = self._known(measure)
        return [trials[arm, seed] for seed in self.seeds if (arm, seed) in trials]

    def majority(self, measure: str) -> float | None:
        """The score of the best constant answer per kind of question: the mean over trials, as questions differ between
        seeds. None for a measure with captions."""
        names = rows_of(self.asked, measure)["benchmark"].unique()
        known = [record["majority"] for record in self.records.values() if record.get("majority")]
        if not len(names) or not known or any(set(names) - set(levels) for levels in known):
            return None
        return float(np.mean([[levels[name] for name in names] for levels in known]))

    def paper_value(self, arm: str, measure: str) -> PaperNumber | None:
        """The paper's own number for an arm, from the first panel that has it."""
        places = [(key, label) for key, panel in self.panels.items() for label, a in panel.arms.items() if a == arm]
        if measure == AVERAGE:
            return combine_numbers([(1 / len(self.shots), self.paper_value(arm, f"{k}-shot")) for k in self.shots])
        return next((number for place in places if (number := self.paper.value(*place, measure))), None)

    def representative(self, arm: str) -> str:
        """The first arm with scores that has the same trials (by recipe or fingerprint), so that they count once."""
        return self._representatives.get(arm, arm)

    @cached_property
    def _representatives(self) -> dict[str, str]:
        keys = {arm: {canonical_json(recipe.model_dump(mode="json"))} for arm, recipe in self.sweep.arms.items()}
        for arm, fingerprint in zip(self.variant.trials["arm"], self.variant.trials["fingerprint"], strict=True):
            keys.setdefault(arm, set()).add(fingerprint)
        first: dict[str, int] = {}
        for place, arm in enumerate(self.scored):
            for key in keys[arm]:
                first.setdefault(key, place)
        places = {arm: min((first[key] for key in own if key in first), default=None) for arm, own in keys.items()}
        return {arm: arm if place is None else self.scored[place] for arm, place in places.items()}

    @cached_property
    def _by_trial(self) -> dict[str, dict[tuple[str, int], float]]:
        """The value of each trial (arm, seed), by measure."""
        found: dict[str, dict[tuple[str, int], float]] = {}
        columns = (self.values[name].tolist() for name in ("measure", "arm", "seed", "value"))
        for measure, arm, seed, value in zip(*columns, strict=True):
            found.setdefault(measure, {})[arm, int(seed)] = value  # a frame with gaps holds them as floats
        for measure in self.own_benchmarks:
            found.setdefault(measure, self._of_a_benchmark(measure))
        return found

    def trial_values(self, measure: str) -> dict[tuple[str, int], float]:
        """The value of each trial (arm, seed), without arms that have the same trials as another."""
        known = self._known(measure)
        return {trial: value for trial, value in known.items() if self.representative(trial[0]) == trial[0]}

    def _known(self, measure: str) -> dict[tuple[str, int], float]:
        if measure not in self._by_trial:
            self._by_trial[measure] = self._of_a_benchmark(measure)
        return self._by_trial[measure]

    def _of_a_benchmark(self, measure: str) -> dict[tuple[str, int], float]:
        """The value of each trial, for the score of one benchmark, which the tables do not have; empty without one."""
        if not measure.endswith("-shot"):
            return {}
        rows = rows_of(self.scores, measure.removeprefix(f"{CONTENT} "))
        if measure.startswith(f"{CONTENT} "):
            rows = by_content(rows[rows[CONTENT].notna()] if CONTENT in rows else rows[:0])
        means = rows.groupby(["arm", "seed"], sort=False)["score"].mean().reset_index()
        columns = (means[name].tolist() for name in ("arm", "seed", "score"))
        return {(arm, int(seed)): value for arm, seed, value in zip(*columns, strict=True)}

    @cached_property
    def _means(self) -> dict[str, dict[str, Interval]]:
        """The mean of each arm, by measure; empty if seeds leave no degree of freedom."""
        return {measure: arm_means(self.trial_values(measure), self.controls) for measure in list(self._by_trial)}

    def _rows(self, measure: str) -> pd.DataFrame:
        """The rows of `scores` that a measure averages."""
        if measure == UNPARSED:
            rows = self.scores[self.scores["family"] == "vqa"]
            return rows.assign(score=100.0 * ~rows["parsed"])
        return rows_of(self.scores, measure)

    @cached_property
    def asked(self) -> pd.DataFrame:
        """A row per arm, seed, benchmark, family and number of shots with scores."""
        return self.scores[["arm", "seed", "benchmark", "family", "shots"]].drop_duplicates()

    def benchmarks_asked(self, measure: str) -> dict[tuple[str, int], set[str]]:
        """The benchmarks that a measure averages, by trial (arm, seed); without trials that have none of them."""
        if measure not in self._asked_cache:
            if measure == UNPARSED:
                rows = self.asked[self.asked["family"] == "vqa"]
            else:
                rows = rows_of(self.asked, measure.removeprefix(f"{CONTENT} "))
            by_trial = self._asked_cache.setdefault(measure, {})
            for arm, seed, benchmark in zip(*(rows[key].tolist() for key in ("arm", "seed", "benchmark")), strict=True):
                by_trial.setdefault((arm, seed), set()).add(benchmark)
        return self._asked_cache[measure]

    def _block_means(self, measure: str, seeds: tuple[int, ...]) -> Blocks:
        """The mean score per benchmark and block (rows) and arm (columns) at `seeds`, the number of questions per row,
        and the number of numbers of shots per benchmark."""
        if (measure, seeds) not in self._block_cache:
            rows = self._rows(measure)
            rows = rows[rows["seed"].isin(seeds)]
            means = rows.groupby(["arm", "benchmark", "block"])["score"].mean().unstack("arm")
            counts = rows.groupby(["benchmark", "block"])["question"].nunique()
            self._block_cache[measure, seeds] = means, counts, rows.groupby("benchmark")["shots"].nunique()
        return self._block_cache[measure, seeds]


def read_study(folder: Path) -> Study:
    """Reads a sweep's folder. Raises RequestError if it has no results, or results of another schema."""
    variant = read_variant(folder)
    scores = read_scores(variant).drop(columns=["fingerprint", "prediction", "reference_probability"])  # unused, slow
    return Study(variant, scores, read_held_out(variant), read_records(variant))
