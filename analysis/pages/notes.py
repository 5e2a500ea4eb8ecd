"""The notes below a sweep's tables and figures: what its intervals are, what is missing or adjusted, what was asked."""

from collections.abc import Iterable

from analysis.study import Study
from mm1_lab.results.summary import PLAIN

UNCERTAINTY = {
    "seeds": "95 % intervals from what is left over {seeds} training seeds once the seeds' common effect is removed, "
    "one variance for all arms (Loftus and Masson): for comparing arms by eye; a score at a new seed is less sure than "
    "that, and claims are tested within each seed",
    "questions": "95 % intervals over questions, conditional on these models",
}

ADJUSTED = (
    "Means of arms that lack seeds are adjusted by what these seeds do to the other arms (score = arm + seed), so that "
    "luck with seeds moves no arm. Each seed's own scores are in `scores.csv`."
)


def notes_of(study: Study) -> list[str]:
    """Below tables of means."""
    notes = [f"Points; ± {UNCERTAINTY[study.uncertainty].format(seeds=len(study.seeds))}."]
    if study.uncertainty == "seeds":
        adjusted = [arm for arm in study.scored if arm not in study.controls]  # controls keep the means of their seeds
        fewest = min(len(study.seed_values(arm, study.measures[0])) for arm in adjusted)
        if fewest < len(study.seeds):
            notes.append(ADJUSTED)
    return [*notes, *unlike_note(study, study.scored), *shots_note(study), *remarks(study)]


def unlike_note(study: Study, arms: Iterable[str]) -> list[str]:
    """Below what compares `arms`: the measures in which they cannot be."""
    unlike = [str(measure) for measure in study.measures if study.asked_unlike(frozenset(arms), measure)]
    return [f"Not comparable, as arms have different benchmarks in the mean: {', '.join(unlike)}."] if unlike else []


def shots_note(study: Study) -> list[str]:
    """The benchmarks that make means at different numbers of shots unlike, as they are asked at some of these only."""
    plain = study.asked[study.asked["family"].isin(PLAIN)]
    shots = plain.groupby("benchmark", observed=True, sort=False)["shots"].unique()
    fewer = [str(name) for name, own in shots.items() if len(own) < plain["shots"].nunique()]
    if not fewer:
        return []
    return [f"Means at different numbers of shots are not comparable, as only some of them ask {', '.join(fewer)}."]


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
