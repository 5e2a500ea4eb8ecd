"""The results of one sweep: means and differences with intervals, panels, controls, and the paper's numbers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, wraps
from pathlib import Path
from typing import Any, Literal, TypeVar, TypeVarTuple

import numpy as np
import pandas as pd

from analysis.effects import levels_of
from analysis.paper import UNPUBLISHED, Paper, PaperNumber, combine_numbers, read_paper
from analysis.seeds import caution
from analysis.statistics import UNKNOWN, Interval, arm_means, over_questions
from mm1_lab.config import AVERAGE, TEXT_CORE, UNPARSED, Measure, Panel, RequestError, Sweep, canonical_json
from mm1_lab.results.manifest import claim_keys
from mm1_lab.results.reading import Variant, read_held_out, read_records, read_short_scores, read_variant
from mm1_lab.results.summary import benchmark_scores, over_benchmarks, rows_of, value_by
from mm1_lab.results.trained import epochs_text, own_rows

Record = Mapping[str, Any]
"""What a finished trial's `record.json` says of it."""
TrialValue = tuple[frozenset[str], float]
"""A trial's trained models and its value of a measure."""
FAMILIES = {"captioning": "captioning", "vqa": "VQA"}
"""Titles of the families of benchmarks with images."""
CIDER = " cider"
"""Ends the name of the benchmark for the CIDEr of captions that are scored by content."""
FAMILIES_APART = {
    "novel": "new combinations",
    "chat": "conversations",
    "solutions": "worked solutions",
}
"""Titles of the families that the means over all benchmarks exclude: probes, or tuned models only."""


Args = TypeVarTuple("Args")
T = TypeVar("T")


def kept(method: Callable[[Study, *Args], T]) -> Callable[[Study, *Args], T]:
    """A method that computes its value once for the same arguments; unlike with `functools.cache`, whose values live as
    long as the process, these go with their study."""

    @wraps(method)
    def found(study: Study, *given: *Args) -> T:
        values = vars(study).setdefault("_kept", {})
        key = (method, given)
        if key not in values:
            values[key] = method(study, *given)
        return values[key]

    return found


@dataclass(frozen=True, eq=False)
class Study(Variant):
    """A sweep at one scale, with what its finished trials have come to."""

    scores: pd.DataFrame
    """A row per question, number of shots, arm and seed; without the answers themselves."""
    held_out: pd.DataFrame
    """A row per source, arm and seed: the loss on held-out documents, in nats per text token."""
    records: Mapping[str, Record]
    """The record of each finished trial, by fingerprint."""
    failed_gates: tuple[str, ...] = ()
    """What rules out a verdict, by `read_judged`."""

    @property
    def sweep(self) -> Sweep:
        return self.manifest.sweep

    @property
    def shots(self) -> tuple[int, ...]:
        return self.manifest.shots

    @property
    def setting(self) -> str:
        """`scale mini`, and the data if they are not the miniature world."""
        data = self.manifest.data_name
        return f"scale {self.manifest.scale}" if data == "world" else f"scale {self.manifest.scale}, data {data}"

    @property
    def caution(self) -> str:
        """Why the results decide nothing, or a warning about their world and seeds; empty if there is none."""
        return caution(self.manifest, self.seeds)

    # arms and seeds

    @cached_property
    def seeds(self) -> list[int]:
        return sorted(self.scores["seed"].unique().tolist())

    @cached_property
    def scored(self) -> list[str]:
        """The arms with scores, in the sweep's order."""
        known = set(self.scores["arm"].unique())
        return [arm for arm in self.sweep.arms if arm in known]

    @cached_property
    def requested(self) -> list[str]:
        """The arms that were asked for (`run --only`) at some seed, in the sweep's order."""
        known = set(self.trials["arm"])
        return [arm for arm in self.sweep.arms if arm in known]

    def missing(self) -> list[str]:
        """Arms that were asked for, by those of the requested seeds at which they have no scores."""
        all_seeds = sorted(set(self.trials["seed"]))
        finished = set(zip(self.done["arm"].map(self.representative), self.done["seed"], strict=True))
        lacking: dict[str, list[str]] = {}
        for arm in self.requested:
            seeds = [seed for seed in all_seeds if (self.representative(arm), seed) not in finished]
            if seeds:
                word = "seeds" if len(seeds) > 1 else "seed"
                lacking.setdefault(f"{word} {', '.join(map(str, seeds))}", []).append(arm)
        return [f"{', '.join(arms)} ({which})" for which, arms in lacking.items()]

    def at_seeds(self, seeds: Sequence[int]) -> Study:
        """This study with only the trials of `seeds`."""
        trials = self.trials[self.trials["seed"].isin(seeds)]
        known = set(trials["fingerprint"])
        return replace(
            self,
            trials=trials,
            scores=self.scores[self.scores["seed"].isin(seeds)],
            held_out=self.held_out[self.held_out["seed"].isin(seeds)],
            records={fingerprint: record for fingerprint, record in self.records.items() if fingerprint in known},
        )

    @kept
    def representative(self, arm: str) -> str:
        """The first arm with scores that has the same trials (by recipe or fingerprint), so that they count once."""
        own = self._trials_of(arm)
        return next((other for other in self.scored if own & self._trials_of(other)), arm)

    @cached_property
    def levels(self) -> pd.DataFrame:
        """A row per arm, a column per level of every axis: 1.0 where the arm has it."""
        axes = pd.DataFrame([levels_of(recipe) for recipe in self.sweep.arms.values()], index=list(self.sweep.arms))
        return pd.get_dummies(axes, dtype=float)

    @cached_property
    def distinct(self) -> list[str]:
        """The arms with scores, one of those that are the same trials."""
        return [arm for arm in self.scored if self.representative(arm) == arm]

    @kept
    def _trials_of(self, arm: str) -> set[str]:
        found = set(self.trials["fingerprint"][self.trials["arm"] == arm])
        if recipe := self.sweep.arms.get(arm):
            if recipe.sft and recipe.sft.starts_by_seed:  # which may be another arm's at one seed alone
                found.clear()
            found.add(canonical_json(recipe.model_dump(mode="json")))
        return found

    @cached_property
    def controls(self) -> list[str]:
        """Arms that see no images beside others that do; shown, but they do not contribute to the others' variance."""
        blind = [arm for arm, recipe in self.sweep.arms.items() if recipe.images == "blind"]
        return blind if len(blind) < len(self.sweep.arms) else []

    @cached_property
    def are_tuned(self) -> bool:
        """Whether all arms with scores, controls aside, are tuned on instructions."""
        return all(self.is_tuned(arm) for arm in self.scored if arm not in self.controls)

    def is_tuned(self, arm: str) -> bool:
        """Whether the arm's models are tuned on instructions; of a model evaluated as exported, its records say so."""
        sft = self.sweep.arms[arm].sft
        if sft is None or sft.steps:
            return sft is not None
        found = map(self.records.get, self.trials["fingerprint"][self.trials["arm"] == arm])
        return any(record["config"]["model"]["model"]["tuned"] for record in found if record)

    @cached_property
    def panels(self) -> dict[str, Panel]:
        """The sweep's panels, or one with all arms except controls."""
        arms = {arm: arm for arm in self.sweep.arms if arm not in self.controls}
        return self.sweep.panels or {"": Panel(title=self.sweep.title, arms=arms)}

    @cached_property
    def others(self) -> list[str]:
        """Arms that are neither in a panel nor controls."""
        shown = set[str]()
        for panel in self.panels.values():
            shown |= {self.representative(arm) for arm in panel.arms.values()}
        rest = [arm for arm in self.sweep.arms if arm not in self.controls]
        return [arm for arm in rest if self.representative(arm) not in shown]

    # measures

    @cached_property
    def asked(self) -> pd.DataFrame:
        """A row per arm, seed, benchmark, family, kind of question and number of shots with scores."""
        return self.scores[["arm", "seed", "benchmark", "family", "kind", "shots"]].drop_duplicates()

    @cached_property
    def families(self) -> dict[str, str]:
        """Titles of the families of benchmarks with images by the name in their measures, which is empty for the mean
        over all of them, or for the only one."""
        known = set(self.scores["family"].unique())
        titles = {family: title for family, title in FAMILIES.items() if family in known}
        apart = {family: title for family, title in FAMILIES_APART.items() if family in known}
        if "captioning" in titles:
            metrics = self.scores["metric"][self.scores["family"] == "captioning"]
            titles["captioning"] += " (CIDEr)" if (metrics == "cider").any() else " (content)"
        if len(titles) == 1:
            titles = {"": titles.popitem()[1]}
        elif titles:
            titles = {"": "all image benchmarks"} | titles
        return titles | apart

    @cached_property
    def measures(self) -> list[Measure]:
        """The measures with scores that have a column of their own, in order. Raises RequestError if there are none."""
        every = [TEXT_CORE]
        for family in self.families:
            every += [Measure(family, shots) for shots in self.shots]
        found = [measure for measure in every if len(rows_of(self.asked, measure))]
        if not found:
            raise RequestError(f"{self.folder}: no trial has scores; name benchmarks in the file of the data")
        return found

    @cached_property
    def cider_measures(self) -> list[Measure]:
        """The CIDEr of captions in the miniature world, which are scored by content; empty on other data."""
        return _of_benchmarks(self.asked[self.asked["benchmark"].str.endswith(CIDER)])

    @property
    def own_benchmarks(self) -> list[Measure]:
        """Measures of each benchmark of the user's data; empty for the miniature world, whose tables show families."""
        if self.manifest.in_world:
            return []
        is_family = self.asked["benchmark"].isin(self.scores["family"].unique())
        return _of_benchmarks(self.asked[~is_family].sort_values("shots", kind="stable"))

    @kept
    def all_values(self, measure: Measure) -> pd.DataFrame:
        """The value of each trial: a row per arm of the sweep, a column per seed; NaN where there is none."""
        if measure.minus:
            first, second = measure.parts
            return self.all_values(first) - self.all_values(second)
        trial = ["arm", "seed"]
        if measure.about == "loss":
            of_source = self.held_out[self.held_out["source"] == measure.of]
            values = of_source.set_index(trial)["loss"]
        else:
            if measure == UNPARSED or measure.about == "kind":  # of which means by benchmark do not tell
                values = over_benchmarks(self.scores, measure, trial)
            else:
                values = value_by(rows_of(self._by_benchmark, measure), trial)
        table = values.unstack("seed").reindex(index=list(self.sweep.arms), columns=self.seeds).astype(np.float64)
        representatives = [self.representative(arm) for arm in table.index]
        if len(set(representatives)) < len(representatives):  # the same trials, maybe asked for at different seeds
            table = table.groupby(representatives).transform("first")
        return table

    @cached_property
    def seen_before_claims(self) -> dict[str, tuple[int, ...]]:
        """For each contrast, the seeds at which its arms had scores before it was claimed."""
        return {claim: self.manifest.claims.get(key, ()) for claim, key in claim_keys(self.sweep).items()}

    @cached_property
    def _by_benchmark(self) -> pd.DataFrame:
        """A row per trial, benchmark and number of shots, which most measures are means of."""
        return benchmark_scores(self.scores, ["arm", "seed"])

    @cached_property
    def by_block(self) -> pd.DataFrame:
        """A row per trial, benchmark, number of shots and block of questions: the sum of its scores and their count."""
        keys = ["arm", "seed", "benchmark", "family", "shots", "block"]
        groups = self.scores.groupby(keys, sort=False, observed=True)
        return groups["score"].agg(["sum", "count"]).reset_index()

    @kept
    def trial_values(self, measure: Measure) -> pd.DataFrame:
        """`all_values` of the `distinct` arms; those that `first_alike` finds alike are one."""
        first = self.first_alike(measure)
        values = self.all_values(measure).loc[list(first)]
        are_alike = len(set(first.values())) < len(first)
        return values.groupby(list(first.values()), sort=False).first() if are_alike else values

    @kept
    def first_alike(self, measure: Measure) -> dict[str, str]:
        """Each of the `distinct` arms with the first one that has the same trained models and the same values at the
        seeds that both have, as arms have that differ in how other questions are asked: these are no repeats."""
        found = {}
        groups: dict[str, dict[int, TrialValue]] = {}  # trials of arms that are alike, by the first of these
        known: dict[tuple[int, TrialValue], str] = {}  # of each trial the first arm of the group that had it first
        values = self.all_values(measure).loc[self.distinct].to_numpy()
        for arm, own in zip(self.distinct, values.tolist(), strict=True):
            models = self._models[arm]
            at_seeds = zip(self.seeds, own, strict=True)
            trials = {seed: (models[seed], value) for seed, value in at_seeds if seed in models and not np.isnan(value)}
            candidates = (known[trial] for trial in trials.items() if trial in known)
            first = next((one for one in candidates if _agree(groups[one], trials)), arm)
            groups[first] = groups.get(first, {}) | trials
            for trial in trials.items():
                known.setdefault(trial, first)
            found[arm] = first
        return found

    @cached_property
    def finished(self) -> list[tuple[str, int, Record]]:
        """The arm, seed and record of each finished trial."""
        done = zip(self.done["arm"], self.done["seed"], self.done["fingerprint"], strict=True)
        return [(arm, seed, self.records.get(fingerprint, {})) for arm, seed, fingerprint in done]

    @cached_property
    def _models(self) -> dict[str, dict[int, frozenset[str]]]:
        """The fingerprints of the trained models behind each finished trial, by arm and seed."""
        models = defaultdict[str, dict[int, frozenset[str]]](dict)
        for arm, seed, record in self.finished:
            if stages := record.get("fingerprints"):
                models[arm][seed] = frozenset(name for kind, name in stages.items() if kind != "evaluation")
        return models

    @cached_property
    def own_rows(self) -> dict[str, int]:
        """The `own_rows` of each arm that was pre-trained."""
        found = {}
        for arm, _, record in self.finished:
            tokens = own_rows(record.get("config", {}))  # alike at every seed
            if tokens is not None:
                found[arm] = tokens
        return found

    @cached_property
    def epochs(self) -> dict[str, str]:
        """The `epochs_text` of each arm that is tuned on conversations of the user's; of its first seed."""
        found: dict[str, str] = {}
        for arm, _, record in self.finished:
            tuning = record.get("summaries", {}).get("sft", {})
            if any(tuning.get("epochs", {}).values()):  # the world's conversations never end
                found.setdefault(arm, epochs_text(tuning["epochs"], tuning.get("left_out", 0)))
        return found

    @cached_property
    def epochs_before_tuning(self) -> dict[str, Mapping[str, float]]:
        """How often each arm's pre-training read each source of the user's; of its first seed."""
        found: dict[str, Mapping[str, float]] = {}
        for arm, _, record in self.finished:
            found.setdefault(arm, record.get("summaries", {}).get("multimodal", {}).get("epochs", {}))
        return found

    def seed_values(self, arm: str, measure: Measure) -> list[float]:
        """The values of the arm's trials, ordered by seed."""
        values = self.all_values(measure).loc[arm].to_numpy(np.float64)
        return values[~np.isnan(values)].tolist()

    def seed_count(self, arm: str) -> int:
        return len(self.seed_values(arm, self.measures[0]))

    @kept
    def majority(self, measure: Measure) -> float:
        """The score of the best constant answer per kind of question: the mean over seeds, between which questions
        differ, however many arms have which. NaN for a measure with captions."""
        names = set(rows_of(self.asked, measure)["benchmark"])
        seeds = dict(zip(self.done["fingerprint"], self.done["seed"], strict=True))
        levels = defaultdict[int | None, list[float]](list)
        for fingerprint, record in self.records.items():
            if names and (known := record.get("majority")):
                if not names <= set(known):
                    return np.nan
                levels[seeds.get(fingerprint)] += [known[name] for name in names]
        means = [float(np.mean(of_seed)) for of_seed in levels.values()]
        return float(np.mean(means or [np.nan]))

    # the paper

    @cached_property
    def paper(self) -> Paper:
        """The paper's numbers for this sweep's panels; empty on a user's own data, and unless there are both captions
        and questions, like in the paper's averages."""
        if not self.manifest.in_world or not set(FAMILIES) <= set(self.families):
            return Paper({}, {})
        known = read_paper(self.sweep.reproduces)
        shown = {}
        for (key, label, measure), number in known.values.items():
            if key in self.panels and label in self.panels[key].arms:
                shown[key, label, measure] = number
        return replace(known, values=shown)

    def paper_value(self, arm: str, measure: Measure) -> PaperNumber:
        """The paper's own number for an arm, from the first panel that has it."""
        if measure.minus:
            first, second = (self.paper_value(arm, part) for part in measure.parts)
            return combine_numbers([(1.0, first), (-1.0, second)])
        if measure == AVERAGE:
            numbers = [self.paper_value(arm, Measure(shots=shots)) for shots in self.shots]
            return combine_numbers([(1 / len(numbers), number) for number in numbers])
        for key, panel in self.panels.items():
            for label, shown in panel.arms.items():
                if shown == arm and (number := self.paper.value(key, label, measure)):
                    return number
        return UNPUBLISHED

    # means with intervals

    @cached_property
    def uncertainty(self) -> Literal["seeds", "questions"]:
        """The unit of the intervals of arms' means: seeds if they leave a degree of freedom, otherwise questions."""
        return "seeds" if self.arm_means(self.measures[0]) else "questions"

    @cached_property
    def shows_intervals(self) -> bool:
        """Whether tables and figures show those of arms' means: over two seeds they may be ± 0.0 by luck."""
        return self.uncertainty == "questions" or len(self.seeds) > 2

    @kept
    def arm_means(self, measure: Measure) -> dict[str, Interval]:
        """The mean of each arm but controls, whose variance is another; empty if seeds leave no degree of freedom."""
        own = self.all_values(measure).loc[self.distinct].drop(index=self.controls, errors="ignore")
        return arm_means(own, self.trial_values(measure).drop(index=self.controls, errors="ignore"))

    @kept
    def mean(self, arm: str, measure: Measure) -> Interval:
        """The mean of an arm with its interval; UNKNOWN without scores. Over seeds, there is no interval for controls
        and unparsed answers, which do not share the residual variance, or if a measure leaves no degree of freedom.
        These are not adjusted for missing seeds, which could put a share of unparsed answers below nought."""
        if self.uncertainty != "seeds":
            return self.over_questions({(arm, measure): 1.0}, self.seeds)
        mean = self.arm_means(measure).get(self.representative(arm), UNKNOWN)
        if mean and measure != UNPARSED:
            return mean
        values = self.seed_values(arm, measure) or [np.nan]
        return Interval(float(np.mean(values)))

    def over_questions(self, weights: Mapping[tuple[str, Measure], float], seeds: Sequence[int]) -> Interval:
        """A weighted sum of scores, by (arm, measure), with an interval over questions; averages `seeds` and shots.
        UNKNOWN if one of the scores is missing."""
        sums: dict[Measure, tuple[Any, Any, Any]] = {}
        for (arm, measure), weight in weights.items():
            for sign, part in zip((1.0, -1.0), measure.parts, strict=False):
                blocks, shots = self._blocks(part, tuple(seeds))
                scored = self.representative(arm)
                if scored not in blocks.index:
                    return UNKNOWN
                own = blocks.loc[scored]
                total = sums[part][0] if part in sums else 0.0
                sums[part] = total + sign * weight * own["mean"], own["count"], shots  # the latter of all arms alike
        if any(total.isna().any() for total, _, _ in sums.values()):
            return UNKNOWN
        return over_questions(*sums.values())

    @kept
    def _blocks(self, measure: Measure, seeds: tuple[int, ...]) -> tuple[pd.DataFrame, pd.Series[int]]:
        """Mean score and number of answers by arm, benchmark and block; and the numbers of shots of each benchmark."""
        rows = rows_of(self.scores, measure)
        rows = rows[rows["seed"].isin(seeds)]
        blocks = rows.groupby(["arm", "benchmark", "block"], observed=True)["score"].agg(["mean", "count"])
        return blocks, rows.groupby("benchmark", observed=True)["shots"].nunique()


def _agree(group: Mapping[int, TrialValue], trials: Mapping[int, TrialValue]) -> bool:
    """Whether the trials are the same ones at the seeds that both have."""
    return all(group.get(seed, trial) == trial for seed, trial in trials.items())


def _of_benchmarks(asked: pd.DataFrame) -> list[Measure]:
    rows = asked[["benchmark", "shots"]].drop_duplicates()
    return [Measure(name, int(shots)) for name, shots in rows.itertuples(index=False)]


def read_study(folder: Path | str, seeds: Sequence[int] | None = None) -> Study:
    """Reads a sweep's folder; its trials at `seeds` alone, if given. Raises RequestError if it has no results, or
    results of another schema."""
    variant = read_variant(folder)
    study = Study(
        **vars(variant),
        scores=read_short_scores(variant),
        held_out=read_held_out(variant),
        records=read_records(variant),
    )
    return study if seeds is None else study.at_seeds(seeds)
