"""The notes below a sweep's tables and figures: what its intervals are, what is missing or adjusted, what was asked."""

import numpy as np

from analysis.shared import tasks_apart
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
    arms = [arm for arm in study.scored if arm not in study.controls]
    counts = sorted({len(study.seed_values(arm, study.measures[0])) for arm in arms} - {0}) or [len(study.seeds)]
    return UNCERTAINTY[study.uncertainty].format(seeds=" to ".join(map(str, dict.fromkeys((counts[0], counts[-1])))))


def notes_of(study: Study) -> list[str]:
    """Below tables of means."""
    adjusted = _adjusted(study)
    about = [ADJUSTED.format(arms=", ".join(adjusted))] if adjusted else []
    return [f"Points; ± {uncertainty_note(study)}.", *about, *tasks_apart(study), *remarks(study)]


def remarks(study: Study) -> list[str]:
    """Below every table."""
    missing = study.missing()
    without = f"Without scores: {', '.join(missing)}." if missing else ""
    return [note for note in (study.caution, without) if note]


def benchmark_notes(study: Study) -> list[str]:
    """A sentence for each published or user-defined benchmark on its questions, split and method."""
    known = (record["benchmarks"] for record in study.records.values() if record.get("benchmarks"))
    return [f"{name}: {note}." for name, note in next(known, {}).items()]


def _adjusted(study: Study) -> list[str]:
    """The arms whose means are not those of their own scores, but adjusted to seeds that they lack."""
    if study.uncertainty != "seeds":
        return []

    def is_adjusted(arm: str, measure: str) -> bool:
        mean, values = study.mean(arm, measure), study.seed_values(arm, measure)
        return mean is not None and len(values) > 0 and not np.isclose(mean.estimate, np.mean(values), atol=1e-9)

    return [arm for arm in study.scored if any(is_adjusted(arm, measure) for measure in study.measures)]
