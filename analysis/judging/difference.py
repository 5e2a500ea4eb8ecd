"""A difference of arms as it was measured: within each seed, with intervals over seeds and over questions."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from analysis.likeness import unlike
from analysis.statistics import UNKNOWN, Floats, Interval, moderated, one_sample, other_arms, other_axes
from analysis.study import Study
from mm1_lab.config import Measure

SAME_TRIALS = "the same trials"
"""Why arms have no difference, whatever the scale and the seeds."""
UNLIKE = "different "
"""Begins why arms that have scores have no difference."""
LEAST_WEIGHT = 1e-9
"""What is below it is the rounding of a sum of weights."""
Weights = Mapping[tuple[str, Measure], float]
"""A weighted sum of scores, by (arm, measure)."""


@dataclass(frozen=True)
class Difference:
    """A weighted sum of a study's scores."""

    study: Study
    weights: Weights

    @cached_property
    def terms(self) -> Weights:
        """The weights, added up over arms that are the same trials; without scores that cancel out."""
        terms = defaultdict[tuple[str, Measure], float](float)
        for (arm, measure), weight in self.weights.items():
            terms[self.study.representative(arm), measure] += weight
        return {term: weight for term, weight in terms.items() if abs(weight) > LEAST_WEIGHT}

    @cached_property
    def lacking(self) -> str:
        """Why it cannot be formed; empty if it can."""
        if not self.terms:
            return SAME_TRIALS
        for measure in {measure for _, measure in self.terms}:
            arms = frozenset(arm for arm, other in self.terms if other == measure)
            if what := unlike(self.study, arms, measure):
                return f"{UNLIKE}{what} in the arms' means of {measure}"
        missing = np.isnan(self._scores)
        if missing.all(axis=1).any():
            return "no scores"
        return "no seed in common" if missing.any(axis=0).all() else ""

    @cached_property
    def _scores(self) -> Floats:
        """A row per term, a column per seed."""
        return np.array([self.study.all_values(measure).loc[arm] for arm, measure in self.terms], np.float64)

    @cached_property
    def _complete(self) -> NDArray[np.int64]:
        """The places, among the study's seeds, of those that have all scores."""
        missing = np.isnan(self._scores).any(axis=0)
        return np.flatnonzero(~missing) if not self.lacking else np.array([], np.int64)

    @cached_property
    def seeds(self) -> list[int]:
        """The seeds that have all scores."""
        return [self.study.seeds[place] for place in self._complete]

    def over_first(self, count: int) -> Interval:
        """The interval over the first `count` seeds; none for fewer than two.

        A moderated t interval for arms at one measure, an ordinary t interval for several.
        """
        study, seeds = self.study, self._complete[:count]
        values = np.array(list(self.terms.values())) @ self._scores[:, seeds]
        values = values.round(12) + 0.0  # thirds of equal scores do not add up to 0 in their last bits
        measures = {measure for _, measure in self.terms}
        if len(measures) > 1:
            return one_sample(values)
        alike = study.first_alike(*measures)
        of_arms = defaultdict[str, float](float)
        for (arm, _), weight in self.terms.items():
            of_arms[alike.get(arm, arm)] += weight
        each = study.trial_values(*measures)
        scores = each.to_numpy()[:, seeds]
        pool = ~np.isnan(scores).any(axis=1) & ~each.index.isin(study.controls)
        factors = np.array(list(self.terms.values()))
        is_pair = len(factors) == 2 and abs(factors.sum()) < LEAST_WEIGHT
        # weights of 0 are of a lesson that sets two axes against each other: it is judged by the variance of both
        if is_pair and all(self.weights.values()):
            pool &= ~each.index.isin(list(of_arms))
            return moderated(values, other_arms(scores[pool]), float(factors @ factors))
        arms = each.index[pool]
        if not set(of_arms) <= set(arms):
            return one_sample(values)  # a control's variance is not that of the others
        own = np.array([of_arms.get(arm, 0.0) for arm in arms])
        levels = study.levels.loc[arms].to_numpy()
        return moderated(values, other_axes(own, levels, scores[pool]), float(own @ own))

    @cached_property
    def over_seeds(self) -> Interval:
        return self.over_first(len(self.seeds)) if self.seeds else UNKNOWN

    @cached_property
    def found(self) -> Interval:
        """The interval over seeds, or with one seed over questions; of losses at one seed the difference alone."""
        return self.over_seeds if np.isnan(self._over_questions.estimate) else self._over_questions

    @cached_property
    def _over_questions(self) -> Interval:
        """With one seed."""
        if self.over_seeds or not self.seeds:
            return UNKNOWN
        return self.study.over_questions(self.terms, self.seeds)

    @property
    def unit(self) -> str:
        """What `found` is over: `seeds`, `questions`, or nothing."""
        if self.over_seeds:
            return "seeds"
        return "" if np.isnan(self._over_questions.estimate) else "questions"
