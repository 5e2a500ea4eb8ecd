"""A difference of arms as it was measured: within each seed, with intervals over seeds and over questions."""

from collections.abc import Mapping
from functools import cached_property

import numpy as np
import pandas as pd

from analysis.effects import levels_of
from analysis.shared import on_common_benchmarks
from analysis.statistics import Floats, Interval, moderated, one_sample, other_arms, other_axes
from analysis.study import Study
from mm1_lab.config import Measure

Weights = Mapping[tuple[str, Measure], float]
"""A weighted sum of scores, by (arm, measure)."""


class Difference:
    """A weighted sum of scores, over the benchmarks that all of its terms have."""

    def __init__(self, study: Study, weights: Weights) -> None:
        self.whole_study = study
        self.study, self.over = on_common_benchmarks(study, weights)
        """The study with these benchmarks only, and these in words, if others are left out."""
        self.weights = weights
        self._terms: dict[tuple[str, Measure], float] = {}
        """The weights, added up over arms that are the same trials."""
        for (arm, measure), weight in weights.items():
            term = study.representative(arm), measure
            self._terms[term] = self._terms.get(term, 0.0) + weight

    @cached_property
    def seeds(self) -> list[int]:
        """The seeds that have all scores; none if the arms are the same trials."""
        if not any(self._terms.values()):
            return []
        return [seed for seed in self.study.seeds if all(seed in known for known in self._seeds_of_terms(self.study))]

    def _seeds_of_terms(self, study: Study) -> list[set[int]]:
        """The seeds at which each term has a score."""
        return [{seed for other, seed in study.trial_values(measure) if other == arm} for arm, measure in self._terms]

    @cached_property
    def values(self) -> Floats:
        """The sum within each of `seeds`."""
        total = np.zeros(len(self.seeds))
        for (arm, measure), weight in self._terms.items():
            scores = self.study.trial_values(measure)
            total = total + weight * np.array([scores[arm, seed] for seed in self.seeds])
        return total

    def over_first(self, count: int) -> Interval | None:
        """The interval over the first `count` seeds; None for fewer than two.

        A moderated t interval for arms at one measure, an ordinary t interval for several.
        """
        study, values, seeds = self.study, self.values[:count], self.seeds[:count]
        measures = {measure for _, measure in self.weights}
        if len(measures) > 1:
            return one_sample(values)
        known = study.trial_values(measures.pop())
        weights = {arm: weight for (arm, _), weight in self._terms.items()}
        scores = {}
        for arm in study.scored:
            if arm not in study.controls and all((arm, seed) in known for seed in seeds):
                scores[arm] = [known[arm, seed] for seed in seeds]
        if sorted(self.weights.values()) == [-1.0, 1.0]:
            pool = [own for arm, own in scores.items() if arm not in weights]
            return moderated(values, other_arms(np.array(pool).reshape(len(pool), len(seeds))))
        if not set(weights) <= set(scores):
            return one_sample(values)
        own = np.array([weights.get(arm, 0.0) for arm in scores])
        levels = pd.get_dummies(pd.DataFrame([levels_of(study.sweep.arms[arm]) for arm in scores])).to_numpy(np.float64)
        return moderated(values, other_axes(own, levels, np.array(list(scores.values()))), float(own @ own))

    @cached_property
    def over_seeds(self) -> Interval | None:
        return self.over_first(len(self.seeds))

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

    @property
    def lacking(self) -> str:
        """Why there is no interval over seeds; empty if there is one."""
        if self.found:
            return "" if self.over_seeds else "one seed"
        if not any(self._terms.values()):
            return "the same trials"
        seeds = self._seeds_of_terms(self.whole_study)
        if not all(seeds):
            return "no scores"
        return "no question in common" if set.intersection(*seeds) else "no seed in common"
