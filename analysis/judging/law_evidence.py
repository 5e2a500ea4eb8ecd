"""The evidence on lessons about the learning-rate law: the slope that its fit found, over sizes."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from analysis.judging.claims import LAW, Claim, Lesson, Part
from analysis.judging.evidence import Evidence
from analysis.judging.p_values import p_values
from analysis.law.fit import VERDICT_SEEDS, Fit
from analysis.paper import read_paper
from analysis.study import Study


def of_law(study: Study, lessons: Iterable[Lesson], fits: Sequence[Fit]) -> list[Evidence]:
    """The evidence on the lessons about the law, from the fits of its search."""
    found = []
    for lesson in lessons:
        for number, part in enumerate(lesson.parts if lesson.sweep == study.sweep.name == LAW else (), 1):
            found.append(_of_part(study, lesson, number, part, fits))
    return found


def _of_part(study: Study, lesson: Lesson, number: int, part: Part, fits: Sequence[Fit]) -> Evidence:
    published = read_paper("Equation 1").values["", "slope", "ln rate on ln parameters"]
    detail, minus = f"slope by {part.law}", 0.0
    if part.minus:
        minus = published.value
        detail += f" − ({minus})".replace("-", "−")
        published = replace(published, value=np.nan)
    fit = next((fit for fit in fits if fit.objective.column == part.law), None)
    slope, p = None, None
    reason = "smoke scale: nothing is learnt" if study.manifest.scale == "smoke" else ""
    if fit is None or fit.law is None:
        reason = f"no law: {fit.why if fit else f'no fit by {part.law}'}"
    else:
        slope = replace(fit.law.slope, estimate=fit.law.slope.estimate - minus)
        if fit.seeds < VERDICT_SEEDS:
            reason = reason or f"{fit.seeds} of the {VERDICT_SEEDS} seeds that a verdict needs"
        if part.aside or not reason:  # of a part that does not decide, the p are shown whatever the seeds
            p = p_values(part.expect, part.margin, slope)
    return Evidence(
        question=lesson.name,
        part=number,
        claim=Claim(lesson.claim, detail, {}, "slope", part.expect, part.margin),
        sweep=LAW,
        found=slope,
        unit="sizes",
        seeds=study.seeds,
        in_world=study.manifest.in_world,
        p=p,
        reason=reason,
        aside=part.aside,
        paper=published,
    )
