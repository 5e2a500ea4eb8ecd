"""The notes below a sweep's tables and figures: what its intervals are, what is missing or adjusted, what was asked."""

import numpy as np

from analysis.study import Study

UNCERTAINTY = {
    "seeds": "95 % intervals from what is left over {seeds} training seeds once the seeds' common effect is removed, "
    "one variance for all arms (Loftus and Masson): for comparing arms by eye; a score at a new seed is less sure than "
    "that, and claims are tested within each seed",
    "questions": "95 % intervals over questions, conditional on these models",
}

ADJUSTED = (
    "Adjusted to seeds that they lack, by what these seeds do to the other arms (score = arm + seed), so that luck "
    "with seeds moves no arm: the means of {arms}. Each seed's own scores are in `scores.csv`."
)


def uncertainty_note(study: Study) -> str:
    """What ± and error bars are; `4 to 6 training seeds` where arms differ in their number."""
    counts = set()
    for arm in study.scored:
        if arm not in study.controls:
            counts.add(len(study.seed_values(arm, study.measures[0])))
    counts -= {0}
    fewest, most = min(counts, default=len(study.seeds)), max(counts, default=len(study.seeds))
    seeds = str(most) if fewest == most else f"{fewest} to {most}"
    return UNCERTAINTY[study.uncertainty].format(seeds=seeds)


def notes_of(study: Study) -> list[str]:
    """Below tables of means."""
    notes = [f"Points; ± {uncertainty_note(study)}."]
    if adjusted := [arm for arm in study.scored if _is_adjusted(study, arm)]:
        notes.append(ADJUSTED.format(arms=", ".join(adjusted)))
    unlike = [str(measure) for measure in study.measures if study.asked_unlike(frozenset(study.scored), measure)]
    if unlike:
        notes.append(f"Not comparable, as arms have different benchmarks in the mean: {', '.join(unlike)}.")
    return [*notes, *remarks(study)]


def remarks(study: Study) -> list[str]:
    """Below every table."""
    notes = [study.caution] if study.caution else []
    if missing := study.missing():
        notes.append(f"Without scores: {', '.join(missing)}.")
    return notes


def benchmark_notes(study: Study) -> list[str]:
    """A sentence for each published or user-defined benchmark on its questions, split and method."""
    for record in study.records.values():
        if record.get("benchmarks"):
            return [f"{name}: {note}." for name, note in record["benchmarks"].items()]
    return []


def _is_adjusted(study: Study, arm: str) -> bool:
    """Whether a mean of the arm is not that of its own scores, but adjusted to seeds that it lacks."""
    if study.uncertainty != "seeds":
        return False
    for measure in study.measures:
        mean, values = study.mean(arm, measure), study.seed_values(arm, measure)
        if mean and values and not np.isclose(mean.estimate, np.mean(values), atol=1e-9):
            return True
    return False
