"""A difference of arms as it was measured: within each seed, with intervals over seeds and over questions."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from analysis.effects import levels_of
from analysis.statistics import Floats, Interval, moderated, one_sample, other_arms, other_axes
from analysis.study import Study
from mm1_lab.config import Measure

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
        terms: dict[tuple[str, Measure], float] = {}
        for (arm, measure), weight in self.weights.items():
            term = self.study.representative(arm), measure
            terms[term] = terms.get(term, 0.0) + weight
        return terms

    @cached_property
    def lacking(self) -> str:
        """Why it cannot be formed; empty if it can."""
        if not any(self.terms.values()):
            return "the same trials"
        for measure in {measure for _, measure in self.terms}:
            arms = frozenset(arm for arm, other in self.terms if other == measure)
            if self.study.asked_unlike(arms, measure):
                return f"different benchmarks in the arms' means of {measure}"
        if not all(self._seeds_of_terms):
            return "no scores"
        return "" if set.intersection(*self._seeds_of_terms) else "no seed in common"

    @cached_property
    def _seeds_of_terms(self) -> list[set[int]]:
        found = []
        for arm, measure in self.terms:
            found.append({seed for other, seed in self.study.trial_values(measure) if other == arm})
        return found

    @cached_property
    def seeds(self) -> list[int]:
        """The seeds that have all scores."""
        return [] if self.lacking else sorted(set.intersection(*self._seeds_of_terms))

    def over_first(self, count: int) -> Interval | None:
        """The interval over the first `count` seeds; None for fewer than two.

        A moderated t interval for arms at one measure, an ordinary t interval for several.
        """
        study, seeds = self.study, self.seeds[:count]
        values: Floats = np.zeros(len(seeds))
        for (arm, measure), weight in self.terms.items():
            known = study.trial_values(measure)
            values += weight * np.array([known[arm, seed] for seed in seeds])
        measures = {measure for _, measure in self.terms}
        if len(measures) > 1:
            return one_sample(values)
        weights = {arm: weight for (arm, _), weight in self.terms.items()}
        scores = {}
        for arm in study.scored:
            if arm not in study.controls and all((arm, seed) in known for seed in seeds):
                scores[arm] = [known[arm, seed] for seed in seeds]
        if sorted(self.weights.values()) == [-1.0, 1.0]:
            others = [own for arm, own in scores.items() if arm not in weights]
            return moderated(values, other_arms(np.array(others)))
        if not set(weights) <= set(scores):
            return one_sample(values)  # a control's variance is not that of the others
        own = np.array([weights.get(arm, 0.0) for arm in scores])
        axes = pd.DataFrame([levels_of(study.sweep.arms[arm]) for arm in scores])
        levels = pd.get_dummies(axes).to_numpy(np.float64)
        pool = other_axes(own, levels, np.array(list(scores.values())))
        return moderated(values, pool, float(own @ own))

    @cached_property
    def over_seeds(self) -> Interval | None:
        return self.over_first(len(self.seeds)) if self.seeds else None

    @cached_property
    def found(self) -> Interval | None:
        """The interval over seeds, or with one seed over questions."""
        if self.over_seeds or not self.seeds:
            return self.over_seeds
        return self.study.over_questions(self.weights, self.seeds)

    @property
    def unit(self) -> str:
        """What `found` is over: `seeds`, `questions`, or nothing."""
        if self.over_seeds:
            return "seeds"
        return "questions" if self.found else ""
