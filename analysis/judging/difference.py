"""A difference of arms as it was measured: within each seed, with intervals over seeds and over questions."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from analysis.statistics import UNKNOWN, Interval, moderated, one_sample, other_arms, other_axes
from analysis.study import Study
from mm1_lab.config import Measure

SAME_TRIALS = "the same trials"
"""Why arms have no difference, whatever the scale and the seeds."""
Weights = Mapping[tuple[str, Measure], float]
"""A weighted sum of scores, by (arm, measure)."""


@dataclass(frozen=True)
class Difference:
    """A weighted sum of a study's scores."""

    study: Study
    weights: Weights

    @cached_property
    def terms(self) -> Weights:
        """The weights, added up over arms that are the same trials."""
        terms = defaultdict[tuple[str, Measure], float](float)
        for (arm, measure), weight in self.weights.items():
            terms[self.study.representative(arm), measure] += weight
        return terms

    @cached_property
    def lacking(self) -> str:
        """Why it cannot be formed; empty if it can."""
        if not any(self.terms.values()):
            return SAME_TRIALS
        for measure in {measure for _, measure in self.terms}:
            arms = frozenset(arm for arm, other in self.terms if other == measure)
            if self.study.asked_unlike(arms, measure):
                return f"different benchmarks in the arms' means of {measure}"
        missing = self._scores.isna()
        if missing.all(axis=1).any():
            return "no scores"
        return "no seed in common" if missing.any().all() else ""

    @cached_property
    def _scores(self) -> pd.DataFrame:
        """A row per term, a column per seed."""
        return pd.DataFrame([self.study.all_values(measure).loc[arm] for arm, measure in self.terms])

    @cached_property
    def seeds(self) -> list[int]:
        """The seeds that have all scores."""
        complete = self._scores.notna().all()
        return [] if self.lacking else [seed for seed in self.study.seeds if complete[seed]]

    def over_first(self, count: int) -> Interval:
        """The interval over the first `count` seeds; none for fewer than two.

        A moderated t interval for arms at one measure, an ordinary t interval for several.
        """
        study, seeds = self.study, self.seeds[:count]
        values = np.array(list(self.terms.values())) @ self._scores[seeds].to_numpy()
        values = values.round(12) + 0.0  # thirds of equal scores do not add up to 0 in their last bits
        measures = {measure for _, measure in self.terms}
        if len(measures) > 1:
            return one_sample(values)
        alike = study.first_alike(*measures)
        of_arms = defaultdict[str, float](float)
        for (arm, _), weight in self.terms.items():
            of_arms[alike.get(arm, arm)] += weight
        known = study.trial_values(*measures)[seeds].dropna().drop(index=study.controls, errors="ignore")
        is_pair = sorted(self.weights.values()) == [-1.0, 1.0]
        if is_pair:
            others = known.drop(index=list(of_arms), errors="ignore")
            return moderated(values, other_arms(others.to_numpy()))
        if not set(of_arms) <= set(known.index):
            return one_sample(values)  # a control's variance is not that of the others
        own = np.array([of_arms.get(arm, 0.0) for arm in known.index])
        levels = study.levels.loc[known.index].to_numpy()
        return moderated(values, other_axes(own, levels, known.to_numpy()), float(own @ own))

    @cached_property
    def over_seeds(self) -> Interval:
        return self.over_first(len(self.seeds)) if self.seeds else UNKNOWN

    @cached_property
    def found(self) -> Interval:
        """The interval over seeds, or with one seed over questions."""
        if self.over_seeds or not self.seeds:
            return self.over_seeds
        return self.study.over_questions(self.weights, self.seeds)

    @property
    def unit(self) -> str:
        """What `found` is over: `seeds`, `questions`, or nothing."""
        if self.over_seeds:
            return "seeds"
        return "" if np.isnan(self.found.estimate) else "questions"
