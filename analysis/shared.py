"""Compares like with like: a difference of means is taken over the benchmarks that both have.

Arms that were trained alike are asked alike, but an arm may have been evaluated before a benchmark was added.
"""

from collections.abc import Collection, Iterable
from dataclasses import replace

from analysis.study import Study
from mm1_lab.config import Measure

Term = tuple[str, Measure]
"""An arm and a measure."""


def on_common_benchmarks(study: Study, terms: Collection[Term]) -> tuple[Study, str]:
    """The study with only the benchmarks that all of `terms` have at all their seeds, and these in words: `over pope`.

    Nothing is left of a measure whose arms have none in common. Between measures without a common one, as those of text
    and of images, each keeps its own. The study itself and no words if nothing is left out.
    """
    each = {measure: _asked(study, [arm for arm, other in terms if other == measure], measure) for _, measure in terms}
    known = {measure: own for measure, own in each.items() if own}
    shared = [set.intersection(*own) for own in known.values()]
    if not shared:
        return study, ""
    kept = set.intersection(*shared) or set.union(*shared)
    if all(names <= kept for own in known.values() for names in own):
        return study, ""
    names = f"over {', '.join(sorted(kept))}" if kept else ""
    return replace(study, scores=study.scores[study.scores["benchmark"].isin(kept)]), names


def _asked(study: Study, arms: Iterable[str], measure: Measure) -> list[set[str]]:
    """The benchmarks of a measure that each trial of `arms` has; none for trials without any."""
    own = {study.representative(arm) for arm in arms}
    return [names for (arm, _), names in study.benchmarks_asked(measure).items() if arm in own]


def tasks_apart(study: Study) -> list[str]:
    """A note for each measure whose means are over other benchmarks in one arm than in another; empty without any."""
    notes = []
    for measure in study.measures:
        tasks: dict[str, list[str]] = {}
        for arm in study.scored:
            names = sorted(set().union(*_asked(study, [arm], measure)))
            if names and study.representative(arm) == arm:
                tasks.setdefault(", ".join(names), []).append(arm)
        if len(tasks) > 1:
            each = "; ".join(f"{', '.join(arms)}: {names}" for names, arms in tasks.items())
            notes.append(f"Not comparable, as arms have different benchmarks in the mean *{measure}*: {each}.")
    return notes
