"""Says before a run which measures the trials of a request cannot have, and why."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import get_args

from mm1_lab.config import TEXT_CORE, UNPARSED, Measure, nearest
from mm1_lab.orchestrate.planning.request import Request
from mm1_lab.rows import OF_OWN_DATA, OF_TUNED, Family

OF_FAMILIES: Mapping[str, tuple[tuple[Family, ...], str]] = {
    "": (("captioning", "vqa"), "images"),
    "captioning": (("captioning",), "captions"),
    "vqa": (("vqa",), "questions about images"),
    UNPARSED.of: (("vqa",), "questions about images"),
    "text": (("text",), "text alone"),
    TEXT_CORE.of: (("text",), "text alone"),
}
"""By the name of a measure, the families that it averages, and what these are of."""


def why_no_value(request: Request, measure: Measure) -> str:
    """Why no trial of the request can have a value of the measure; empty if some may."""
    for part in measure.parts:
        if reason := _why_none(request, part):
            return reason
    return ""


def _why_none(request: Request, measure: Measure) -> str:
    """As `why_no_value`, for a measure that is no difference."""
    shots = request.scale.evaluate.shots
    if measure.shots not in (None, *shots):
        there = ", ".join(f"{count}-shot" for count in shots)
        return f"{str(measure)!r}: there is only {there} (evaluate.shots)"
    if measure.about == "kind":
        return _why_no_kind(request, measure)
    if measure.about == "loss":
        return _unknown(measure, request.data.held_out)
    return _why_no_benchmark(request, measure)


def _why_no_kind(request: Request, measure: Measure) -> str:
    if request.scale.benchmarks:  # whose files alone say which kinds they have
        return ""
    from mm1_lab.evaluate.benchmarks import kinds_in_world

    return _unknown(measure, ["caption"] if request.data_path else kinds_in_world(), "kind ")


def _why_no_benchmark(request: Request, measure: Measure) -> str:
    if request.data_path and (reason := _why_not_asked(request, measure)):
        return reason
    families = OF_OWN_DATA if request.data_path else get_args(Family)
    if measure.of in ("", TEXT_CORE.of, UNPARSED.of, *families):  # without the imports below
        return ""
    from mm1_lab.evaluate.benchmarks import own_names
    from mm1_lab.evaluate.metrics import names_of

    known = [*families, *own_names(in_world=not request.data_path)]
    for benchmark in request.scale.benchmarks:
        known += names_of(benchmark.name, benchmark.metric)
    return _unknown(measure, known)


def _why_not_asked(request: Request, measure: Measure) -> str:
    """Why no benchmark of the user's data is of the measure's family, or is asked at its number of shots; empty if one
    is, and for other measures than those of families."""
    if measure.of not in OF_FAMILIES:
        return ""
    wanted, what = OF_FAMILIES[measure.of]
    usual = request.scale.evaluate.shots
    asked: list[tuple[Family, Sequence[int]]] = []
    if not {"captions", "synthetic"}.isdisjoint(request.data.held_out):
        asked.append(("captioning", usual))
    for benchmark in request.scale.benchmarks:
        from mm1_lab.evaluate.metrics import METRICS

        of_questions: Family = "vqa" if benchmark.images_digest else "text"
        asked.append(("captioning" if METRICS[benchmark.metric].free else of_questions, benchmark.shots or usual))
    if any(family in wanted and measure.shots in (None, *shots) for family, shots in asked):
        return ""
    at = "" if measure.shots is None else f", asked at {measure.shots}-shot"
    return f"{str(measure)!r}: the data have no benchmark of {what}{at}; list one under `benchmarks`"


def _unknown(measure: Measure, known: Iterable[str], what: str = "") -> str:
    """That trials lack what the measure names, with the nearest that they have; empty if it is `known`."""
    if measure.of in known:
        return ""
    return f"{str(measure)!r}: trials have no {what}{measure.of!r}{nearest(measure.of, known)}"


def why_untuned(request: Request, measure: Measure, arms: Collection[str]) -> str:
    """Why one of these arms has no value of a measure that only tuned models have; empty if all have, or are not asked
    for."""
    tuned = {trial.arm: trial.evaluation.model.tuned for trial in request.trials}
    lacking = [arm for arm in dict.fromkeys(arms) if not tuned.get(arm, True)]
    if not lacking or not _is_of_tuned(request, measure):
        return ""
    return f"{str(measure)!r}: only tuned models have it; give `sft` to {', '.join(lacking)}"


def _is_of_tuned(request: Request, measure: Measure) -> bool:
    if measure.about == "loss":
        return measure.of.startswith("instructions.")
    if measure.about == "kind" or measure.of in ("", TEXT_CORE.of, UNPARSED.of, *OF_OWN_DATA):
        return False
    if measure.of in OF_TUNED or request.data_path:
        return measure.of in OF_TUNED
    from mm1_lab.evaluate.benchmarks import names_of_tuned

    return measure.of in names_of_tuned()
