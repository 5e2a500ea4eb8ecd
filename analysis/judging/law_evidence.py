"""The evidence on lessons about the learning-rate law: the slope that its fit found, over sizes."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.judging.claims import LAW, Claim, Lesson, Part
from analysis.judging.evidence import Evidence
from analysis.judging.p_values import p_values
from analysis.law.fit import VERDICT_SEEDS
from analysis.paper import read_paper
from analysis.statistics import Interval, quantile
from mm1_lab.config import RequestError


def of_law(lessons: Iterable[Lesson], path: Path, in_world: bool = True) -> list[Evidence]:
    """The evidence on the lessons about the law, from the fit in `path`; none if there is no law."""
    if not path.exists():
        return []
    found = []
    try:
        fits = {fit["objective"]: fit for fit in json.loads(path.read_text(encoding="utf-8"))["fits"]}
        seeds = sorted(set(pd.read_csv(path.with_name("points.csv"))["seed"].tolist()))
        for lesson in lessons:
            for number, part in enumerate(lesson.parts if lesson.sweep == LAW else (), 1):
                evidence = _of_part(lesson, part, fits, is_smoke=path.parents[1].name == "smoke")
                found.append(replace(evidence, part=number, seeds=seeds, in_world=in_world))
    except (OSError, ValueError, TypeError, KeyError, IndexError, RecursionError) as error:
        raise RequestError(f"{path}: cannot be read ({error}); fit the law again: mm1-lab fit-lr-law") from None
    return found


def _of_part(lesson: Lesson, part: Part, fits: Mapping[str, Any], is_smoke: bool) -> Evidence:
    published = read_paper("Equation 1").values["", "slope", "ln rate on ln parameters"]
    detail, minus = f"slope by {part.law}", 0.0
    if part.minus:
        minus = published.value
        detail += f" − ({minus})".replace("-", "−")
        published = replace(published, value=np.nan)
    fit = fits.get(str(part.law), {"coefficients": None, "why": f"no fit by {part.law}"})
    slope, p = None, None
    reason = "smoke scale: nothing is learnt" if is_smoke else ""
    if fit["coefficients"] is None:
        reason = f"no law: {fit['why']}"
    else:
        estimate, high = float(fit["coefficients"]["ln N"]), float(fit["intervals"]["ln N"][1])
        degrees = float(fit["degrees_of_freedom"])
        slope = Interval(estimate - minus, (high - estimate) / quantile(0.975, degrees), degrees)
        if fit["seeds"] < VERDICT_SEEDS:
            reason = reason or f"{fit['seeds']} of the {VERDICT_SEEDS} seeds that a verdict needs"
        if part.aside or not reason:  # of a part that does not decide, the p are shown whatever the seeds
            p = p_values(part.expect, part.margin, slope)
    return Evidence(
        question=lesson.name,
        part=1,
        claim=Claim(lesson.claim, detail, {}, "slope", part.expect, part.margin),
        sweep=LAW,
        found=slope,
        unit="sizes",
        p=p,
        reason=reason,
        aside=part.aside,
        paper=published,
    )
