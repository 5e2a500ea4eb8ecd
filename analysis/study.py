"""One sweep's results, ready to be drawn: means and differences with intervals, panels, controls, the paper's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from analysis.paper import Paper, PaperNumber, combine_numbers, read_paper
from analysis.seeds import caution
from analysis.statistics import Interval, arm_means, over_blocks
from mm1_lab.config import Panel, Sweep
from mm1_lab.results import Manifest
from mm1_lab.results.reading import Variant, read_held_out, read_records, read_scores, read_variant
from mm1_lab.results.summary import APART, AVERAGE, CONTENT, PLAIN, TEXT_CORE, by_content, measures
from mm1_lab.source_code import changed_parts, changed_text

FAMILIES = {"captioning": "captioning (CIDEr)", "vqa": "VQA"}
"""Groups of benchmarks with images, and their titles."""
_APART_TITLES = ("new combinations", "conversations", "worked solutions", "choice by likelihood", "imported")
FAMILIES_APART = dict(zip(APART, _APART_TITLES, strict=True))
"""Groups of benchmarks that no mean over all has."""

UNPARSED = "unparsed %"
"""Percent of an arm's answers to questions (captions aside) that do not have the form of an answer."""

UNCERTAINTY = {
    "seeds": "95 % intervals over {seeds} training seeds (from score = arm + seed + rest), for comparing arms "
    "by eye; claims are tested within each seed",
    "questions": "95 % intervals over questions, conditional on these models",
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
    _block_cache: dict[str, tuple[pd.DataFrame, pd.Series[int]]] = field(default_factory=dict, init=False, repr=False)

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
        """The sweep's panels, or one of all its arms but controls; arms that are the same trials are shown once.

        A panel that is left with one arm is left out, as long as another one has more.
        """
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
        """Arms that are shown no images: they stand beside the others and lend no variance to them."""
        return [arm for arm, recipe in self.sweep.arms.items() if recipe.images == "blind"]

    @cached_property
    def others(self) -> list[str]:
        """Arms that no panel shows and that are no controls."""
        shown = {self.representative(arm) for panel in self.panels.values() for arm in panel.arms.values()}
        return [arm for arm in self.sweep.arms if arm not in self.controls and self.representative(arm) not in shown]

    @cached_property
    def paper(self) -> Paper:
        """None of its numbers where there are no questions or no captions: its averages are over both."""
        return read_paper(self.sweep.reproduces) if set(FAMILIES) <= set(self.families) else Paper({}, {})

    @cached_property
    def families(self) -> dict[str, str]:
        """Groups of benchmarks with images, by the prefix of their measures; one that is all there is has none."""
        known = set(self.scores["family"])
        titles = {family: title for family, title in FAMILIES.items() if family in known}
        apart = {family: title for family, title in FAMILIES_APART.items() if family in known}
        if len(titles) == 1:
            return {"": titles.popitem()[1]} | apart
        return ({"": "all image benchmarks"} if titles else {}) | titles | apart

    @cached_property
    def measures(self) -> list[str]:
        """Everything that has scores and a column of its own, in order."""
        known = set(self.values["measure"])
        every = [TEXT_CORE, *(f"{family} {k}-shot".strip() for family in self.families for k in self.shots)]
        return [measure for measure in every if measure in known]

    @cached_property
    def values(self) -> pd.DataFrame:
        """A row an arm, seed and measure: arm, seed, measure, value."""
        unparsed = self._rows(UNPARSED).groupby(["arm", "seed"], sort=False)["score"].mean().rename("value")
        return pd.concat([measures(self.scores), unparsed.reset_index().assign(measure=UNPARSED)], ignore_index=True)

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
        """What intervals of arms' means are about. Seeds, as soon as they leave a degree of freedom."""
        return "seeds" if self._means[self.measures[0]] else "questions"

    @property
    def uncertainty_note(self) -> str:
        return UNCERTAINTY[self.uncertainty].format(seeds=len(self.seeds))

    @property
    def in_world(self) -> bool:
        """Whether its data are the miniature world's."""
        return self.manifest.data.kind == "world"

    @property
    def caution(self) -> str:
        """Why these results decide nothing, or what is to be known of their world and seeds; empty where nothing is."""
        return caution(self.manifest, self.seeds)

    @property
    def notes(self) -> list[str]:
        """What must be said below every table."""
        missing = self.missing()
        lacking = f"Without scores: {', '.join(missing)}." if missing else ""
        changed = changed_text(part for one in self.records.values() for part in changed_parts(one.get("code", {})))
        notes = (f"Points; ± {self.uncertainty_note}.", self.caution, lacking, changed)
        return [note for note in notes if note]

    def mean(self, arm: str, measure: str) -> Interval | None:
        """None where there is no score."""
        if self.uncertainty == "seeds":
            return self._means.get(measure, {}).get(self.representative(arm))
        return self.over_questions({(arm, measure): 1.0})

    def over_questions(self, weights: Mapping[tuple[str, str], float]) -> Interval | None:
        """A weighted sum of scores, by (arm, measure), over questions; seeds and shots are averaged.

        None where one of the scores is missing.
        """
        terms = []
        for (arm, measure), weight in weights.items():
            means, questions = self._block_means(measure)
            if self.representative(arm) not in means or means[self.representative(arm)].isna().any():
                return None
            terms.append(weight * means[self.representative(arm)])
        total = sum(terms[1:], terms[0])
        return over_blocks(total, questions) if len(total) else None

    def seed_values(self, arm: str, measure: str) -> list[float]:
        """The value of each of the arm's trials, by seed."""
        trials = self._by_trial.get(measure, {})
        return [trials[arm, seed] for seed in self.seeds if (arm, seed) in trials]

    @property
    def benchmark_notes(self) -> list[str]:
        """What published benchmarks and users' own ask, of which split and how, a sentence each."""
        told = (record["benchmarks"] for record in self.records.values() if record.get("benchmarks"))
        return [f"{name}: {note}." for name, note in next(told, {}).items()]

    def majority(self, measure: str) -> float | None:
        """What the best constant answer for each kind of question earns, the mean over trials, for each seed asks its
        own; None for a measure with captions."""
        names = self._rows(measure)["benchmark"].unique()
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

    def paper_difference(self, weights: Mapping[tuple[str, str], float]) -> PaperNumber | None:
        """The same weighted sum, by (arm, measure), of the paper's numbers.

        For two arms of one panel, also where the paper states their difference itself.
        """
        if sorted(weights.values()) == [-1, 1]:
            (first, measure), (second, other) = sorted(weights, key=lambda term: -weights[term])
            for key, panel in self.panels.items() if measure == other else ():
                labels = {arm: label for label, arm in panel.arms.items()}
                known = {first, second} <= set(labels)
                if known and (number := self.paper.difference(key, labels[first], labels[second], measure)):
                    return number
        return combine_numbers([(weight, self.paper_value(*term)) for term, weight in weights.items()])

    def mixes_machines(self, arms: Iterable[str]) -> bool:
        """Whether the arms' scores were made on different processors or with different libraries."""
        rows = self.variant.trials[self.variant.trials["arm"].isin(list(arms))]
        found = [self.records[f].get("environment", {}) for f in rows["fingerprint"] if f in self.records]
        return len({str([machine.get(key) for key in ("processor", "threads", "versions")]) for machine in found}) > 1

    def representative(self, arm: str) -> str:
        """The first arm with scores that is the same trials, which count once: of one recipe, or of one fingerprint."""
        return self._representatives.get(arm, arm)

    @cached_property
    def _representatives(self) -> dict[str, str]:
        prints = {arm: set(rows["fingerprint"]) for arm, rows in self.variant.trials.groupby("arm")}

        def same(one: str, other: str) -> bool:
            shared = prints.get(one, set()) & prints.get(other, set())
            return self.sweep.arms[one] == self.sweep.arms[other] or bool(shared)

        return {arm: next((other for other in self.scored if same(arm, other)), arm) for arm in self.sweep.arms}

    @cached_property
    def _by_trial(self) -> dict[str, dict[tuple[str, int], float]]:
        """By measure, the value of each trial (arm, seed)."""
        found: dict[str, dict[tuple[str, int], float]] = {}
        columns = (self.values[name].tolist() for name in ("measure", "arm", "seed", "value"))
        for measure, arm, seed, value in zip(*columns, strict=True):
            found.setdefault(measure, {})[arm, seed] = value
        return found

    def trial_values(self, measure: str) -> dict[tuple[str, int], float]:
        """The value of each trial (arm, seed); arms of one recipe are one."""
        known = self._by_trial.get(measure, {})
        return {trial: value for trial, value in known.items() if self.representative(trial[0]) == trial[0]}

    @cached_property
    def _means(self) -> dict[str, dict[str, Interval]]:
        """By measure, the mean of each arm; none where seeds leave no degree of freedom."""
        return {measure: arm_means(self.trial_values(measure), self.controls) for measure in self._by_trial}

    def _rows(self, measure: str) -> pd.DataFrame:
        """The rows of scores that a measure averages."""
        family = self.scores["family"]
        if measure == UNPARSED:
            rows = self.scores[family == "vqa"]
            return rows.assign(score=100.0 * ~rows["parsed"])
        if measure.startswith(f"{CONTENT} "):
            return by_content(self._rows(measure.removeprefix(f"{CONTENT} ")))
        if measure == TEXT_CORE:
            return self.scores[family == "text"]
        plain = family.isin(PLAIN)
        if measure == AVERAGE:
            return self.scores[plain]
        name, _, shots = measure.rpartition(" ")
        chosen = (family == name) | (self.scores["benchmark"] == name) & ~plain if name else plain
        return self.scores[chosen & (self.scores["shots"] == int(shots.removesuffix("-shot")))]

    def _block_means(self, measure: str) -> tuple[pd.DataFrame, pd.Series[int]]:
        """A row a benchmark and block, a column an arm: the mean score; and the number of questions of each row."""
        if measure not in self._block_cache:
            rows = self._rows(measure)
            means = rows.groupby(["arm", "benchmark", "block"])["score"].mean().unstack("arm")
            counts = rows.groupby(["benchmark", "block"])["question"].nunique()
            self._block_cache[measure] = means, counts
        return self._block_cache[measure]


def read_study(folder: Path) -> Study:
    """Reads a sweep's folder. Raises RequestError where there are no results, or of another schema."""
    variant = read_variant(folder)
    return Study(variant, read_scores(variant), read_held_out(variant), read_records(variant))
