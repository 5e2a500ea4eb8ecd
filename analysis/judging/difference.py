"""A difference of arms as it was measured: within each seed, with intervals over seeds and over questions."""

from collections.abc import Mapping
from functools import cached_property

import numpy as np

from analysis.shared import on_common_benchmarks
from analysis.statistics import Floats, Interval, moderated, one_sample
from analysis.study import Study

Weights = Mapping[tuple[str, str], float]
"""A weighted sum of scores, by (arm, measure)."""


class Difference:
    """A weighted sum of scores, over the benchmarks that all of its terms have."""

    def __init__(self, study: Study, weights: Weights) -> None:
        self._whole = study
        self.study, self.over = on_common_benchmarks(study, weights)
        """The study with these benchmarks only, and these in words, if others are left out."""
        self.weights = weights
        self._merged = _merged(self.study, weights)

    @cached_property
    def seeds(self) -> list[int]:
        """The seeds that have all scores; none if the arms are the same trials."""
        if not any(self._merged.values()):
            return []
        known = [(arm, self.study.trial_values(measure)) for arm, measure in self._merged]
        return [seed for seed in self.study.seeds if all((arm, seed) in scores for arm, scores in known)]

    @cached_property
    def values(self) -> Floats:
        """The sum within each of `seeds`."""
        terms = [(arm, self.study.trial_values(measure), w) for (arm, measure), w in self._merged.items()]
        return np.array([sum(w * scores[arm, seed] for arm, scores, w in terms) for seed in self.seeds])

    def over_first(self, count: int) -> Interval | None:
        """The interval over the first `count` seeds; None for fewer than two.

        A moderated t interval for a pair of arms at one measure, an ordinary t interval for anything else.
        """
        study, values, seeds = self.study, self.values[:count], self.seeds[:count]
        measures = {measure for _, measure in self.weights}
        if sorted(self.weights.values()) != [-1.0, 1.0] or len(measures) > 1:
            return one_sample(values)
        known = study.trial_values(next(iter(measures)))
        left_out = {study.representative(arm) for arm, _ in self.weights} | set(study.controls)
        others = [arm for arm in study.scored if arm not in left_out and all((arm, seed) in known for seed in seeds)]
        pool = [[known[arm, seed] for seed in seeds] for arm in others]
        return moderated(values, np.array(pool).reshape(len(others), len(seeds)))

    @cached_property
    def over_seeds(self) -> Interval | None:
        return self.over_first(len(self.seeds))

    @cached_property
    def over_questions(self) -> Interval | None:
        return self.study.over_questions(self.weights, self.seeds) if self.seeds else None

    @property
    def found(self) -> Interval | None:
        """The interval over seeds, or with one seed over questions."""
        return self.over_seeds or self.over_questions

    @property
    def unit(self) -> str:
        """What `found` is over: `seeds`, `questions`, or nothing."""
        return "seeds" if self.over_seeds else "questions" if self.found else ""

    @property
    def lacking(self) -> str:
        """Why there is no interval over seeds; empty if there is one."""
        if self.found:
            return "" if self.over_seeds else "one seed"
        terms = _merged(self._whole, self.weights)
        if not any(terms.values()):
            return "the same trials"
        seeds = [{seed for one, seed in self._whole.trial_values(measure) if one == arm} for arm, measure in terms]
        if not all(seeds):
            return "no scores"
        return "no question in common" if set.intersection(*seeds) else "no seed in common"


def _merged(study: Study, weights: Weights) -> dict[tuple[str, str], float]:
    """The weights, added up over arms that are the same trials."""
    merged: dict[tuple[str, str], float] = {}
    for (arm, measure), weight in weights.items():
        key = study.representative(arm), measure
        merged[key] = merged.get(key, 0.0) + weight
    return merged
