"""The notes below a sweep's tables and figures: what its intervals are, what is missing or adjusted, what was asked."""

from collections import defaultdict
from collections.abc import Collection, Sequence

from analysis.likeness import unlike
from analysis.runs import edited_note, mixes_machines
from analysis.study import Study
from mm1_lab.config import Measure
from mm1_lab.results.summary import PLAIN, taken_for_yes
from mm1_lab.results.trained import epochs_note, one_start_note, own_rows_note, repeats_note

UNCERTAINTY = {
    "seeds": "95 % intervals from what is left over {seeds} training seeds once the seeds' common effect is removed, "
    "one variance for all arms (Loftus and Masson): for comparing arms by eye; a score at a new seed is less sure than "
    "that, and claims are tested within each seed",
    "questions": "95 % intervals over questions, conditional on these models",
}

TOO_FEW = (
    "No ± and no bars below three seeds: two may agree by luck. Differences have intervals, as wide as two seeds leave "
    "them: `mm1-lab compare`"
)
MIXED = "At some seed the arms were scored on different machines or with different libraries."
OTHER_PROMPTS = (
    "Tuned arms ({arms}) read other prompts: the end token follows the answer of each example, as in their training."
)
FEW_SEEDS = (
    "The interval of an arm with one or two seeds is from the other arms' spread, wider as it has fewer seeds: whether "
    "it varies as they do, so few cannot tell."
)
ADJUSTED = (
    "Means of arms that lack seeds are adjusted by what these seeds do to the other arms (score = arm + seed), so that "
    "luck with seeds moves no arm. Each seed's own scores are in `scores.csv`."
)


def notes_of(study: Study) -> list[str]:
    """Below tables of means."""
    intervals = f"± {UNCERTAINTY[study.uncertainty].format(seeds=len(study.seeds))}"
    notes = [f"Points; {intervals}." if study.shows_intervals else f"Points. {TOO_FEW}."]
    if study.uncertainty == "seeds" and _fewest_seeds(study) < len(study.seeds):
        notes.append(ADJUSTED)
    notes += [few_seeds_note(study), *unlike_notes(study, study.scored), *remarks(study)]
    for arm in study.distinct:
        alike = [other for other in study.scored if study.representative(other) == arm]
        if len(alike) > 1:
            notes.append(f"{' = '.join(alike)} are the same trials.")
    return notes


def few_seeds_note(study: Study) -> str:
    """What the interval of an arm is that has too few seeds for one of its own; empty if there is none."""
    is_shown = study.uncertainty == "seeds" and study.shows_intervals
    return FEW_SEEDS if is_shown and _fewest_seeds(study) < 3 else ""


def _fewest_seeds(study: Study) -> int:
    """The fewest seeds of an arm, without controls, which keep the means of their seeds, and arms that were asked other
    benchmarks."""
    counts = [study.seed_count(arm) for arm in study.scored if arm not in study.controls]
    return min(filter(None, counts), default=len(study.seeds))


def unlike_notes(study: Study, arms: Collection[str], measures: Sequence[Measure] = ()) -> list[str]:
    """Below what compares `arms`, by some measures or all: means that cannot be compared, as arms or numbers of shots
    have other benchmarks; and what else makes arms unlike."""
    notes = []
    apart = defaultdict(list)
    for measure in measures or study.measures:
        if what := unlike(study, frozenset(arms), measure):
            apart[what].append(str(measure))
    for what, names in apart.items():
        notes.append(f"Not comparable, as arms have different {what} in the mean: {', '.join(names)}.")
    plain = study.asked[study.asked["family"].isin(PLAIN)]
    shots = plain.groupby("benchmark", observed=True, sort=False)["shots"].nunique()
    fewer = shots.index[shots < plain["shots"].nunique()]
    if len(fewer):
        some = ", ".join(fewer)
        notes.append(f"Means at different numbers of shots are not comparable, as only some of them ask {some}.")
    tuned = [arm for arm in arms if study.is_tuned(arm)]
    if any(study.shots) and 0 < len(tuned) < len(arms):
        notes.append(OTHER_PROMPTS.format(arms=", ".join(tuned)))
    if mixes_machines(study, arms):
        notes.append(MIXED)
    notes += edited_note(study, arms)
    notes += own_rows_note({arm: study.own_rows[arm] for arm in arms if arm in study.own_rows})
    notes += epochs_note({arm: study.epochs[arm] for arm in arms if arm in study.epochs})
    notes += repeats_note({arm: study.epochs_before_tuning.get(arm, {}) for arm in arms})
    notes += start_notes(study, arms)
    return [*notes, *_means_with_cider(study), *unparsed_notes(study, arms)]


def start_notes(study: Study, arms: Collection[str]) -> list[str]:
    """Which of these arms start from one exported model at every seed."""
    return one_start_note({arm: study.sweep.arms[arm] for arm in arms if arm in study.sweep.arms})


def unparsed_notes(study: Study, arms: Collection[str]) -> list[str]:
    """Which arms' answers to the user's yes-no questions are often neither."""
    return [] if study.manifest.in_world else taken_for_yes(study.scores[study.scores["arm"].isin(arms)])


def _means_with_cider(study: Study) -> list[str]:
    """Which benchmarks a mean of the user's data is of, if CIDEr, which may be 1000, is among percentages."""
    plain = study.scores[study.scores["family"].isin(PLAIN)]
    metrics: dict[str, str] = dict(plain[["benchmark", "metric"]].drop_duplicates().itertuples(index=False))
    if study.manifest.in_world or "cider" not in metrics.values() or set(metrics.values()) == {"cider"}:
        return []
    asked = ", ".join(f"{name} ({'CIDEr' if metric == 'cider' else metric})" for name, metric in metrics.items())
    return [f"Means over all image benchmarks are of {asked}: CIDEr is not bounded by 100 and may move them most."]


def remarks(study: Study) -> list[str]:
    """Below every table."""
    missing = study.missing()
    return [study.caution, f"Without scores: {', '.join(missing)}." if missing else ""]


def benchmark_notes(study: Study) -> list[str]:
    """A sentence for each published or user-defined benchmark on its questions, split and method."""
    for record in study.records.values():
        if record.get("benchmarks"):
            return [f"{name}: {note}." for name, note in record["benchmarks"].items()]
    return []
