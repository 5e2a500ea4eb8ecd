"""What is claimed: contrasts of a sweep's file, and the lessons of `lessons.yaml`, as weighted sums of scores."""

from collections import Counter, defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import combinations, permutations, product
from pathlib import Path
from typing import Literal, Self

import pandas as pd
import yaml
from pydantic import model_validator

from analysis.effects import groups, varying
from analysis.judging.difference import Weights
from mm1_lab.config import AVERAGE, Config, Contrast, Expectation, Measure, MeasureField, RequestError, Sweep, nearest
from mm1_lab.formatting import flat

PATH = Path(__file__).parents[1] / "lessons.yaml"
LAW = "lr_law"
SLOPE = Measure("slope")
"""The slope of the learning-rate law."""


@dataclass(frozen=True)
class Claim:
    """A weighted sum of scores, and the range in which it is claimed to lie. Words do not make claims differ."""

    text: str = field(compare=False)
    detail: str = field(compare=False)
    """The sum in words: `captions − interleaved, 0-shot`."""
    weights: Weights
    """Empty for SLOPE."""
    measure: Measure
    expect: Expectation
    margin: float = 0.0


def claim_of(contrast: Contrast) -> Claim:
    """The claim of a contrast; without `second` in the form of a lesson about an arm by two measures."""
    first, second = contrast.sides
    words, *others = (("mean of " if len(side) > 1 else "") + ", ".join(side) for side in (first, second) if side)
    measure = contrast.measure
    if second:
        detail = f"{words} − {others[0]}, {measure}"
        terms = [(first, measure, 1.0), (second, measure, -1.0)]
    else:
        measure, less = measure.parts
        detail = f"{words}: {measure} − {less}"
        terms = [(first, measure, 1.0), (first, less, -1.0)]
    weights = defaultdict[tuple[str, Measure], float](float)
    for side, one, sign in terms:
        for arm in side:
            weights[arm, one] += sign / len(side)
    left = {term: weight for term, weight in weights.items() if weight}  # an arm may stand on both sides
    return Claim(contrast.claim, detail, left, measure, contrast.expect, contrast.margin)


def is_interaction(contrast: Contrast, sweep: Sweep) -> bool:
    """Whether it claims that one change does more beside another, [both, neither] − [one, other]: of each field that
    varies, two pairs of arms have the same two values."""
    first, second = contrast.sides
    if len(first) != 2 or len(second) != 2 or not sweep.arms.keys() >= {*first, *second}:
        return False
    recipes = {arm: flat(sweep.arms[arm].model_dump(mode="json")) for arm in (*first, *second)}
    for name in {name for recipe in recipes.values() for name in recipe}:
        values = [{repr(recipes[arm].get(name)) for arm in side} for side in (first, second)]
        if values[0] != values[1]:
            return False
    return True


class Levels(Config):
    """Two levels of an axis, or all pairs of its levels if none are given; or two arms."""

    axis: str | None = None
    more: str | None = None
    less: str | None = None
    first: str | None = None
    second: str | None = None


class LessonPart(Levels):
    """One statement of a lesson; `lessons.yaml` explains its forms."""

    contrast: str | None = None
    beyond: Levels | None = None
    arm: str | None = None
    over: MeasureField | Literal[""] = ""
    law: str | None = None
    minus: Literal["slope"] | None = None
    measure: MeasureField = AVERAGE
    expect: Expectation = "greater"
    margin: float = 0.0
    aside: str = ""
    """Why the part is shown but does not decide."""

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        forms = (self.axis, self.first and self.second, self.contrast, self.arm and self.over, self.law)
        if sum(map(bool, forms)) != 1:
            raise ValueError("a part needs exactly one of: contrast; axis; first and second; arm and over; law")
        if bool(self.more) != bool(self.less):
            raise ValueError("an axis takes both `more` and `less`, or neither")
        if (self.first and self.first == self.second) or self.over == self.measure:
            raise ValueError("a part compares two arms, or an arm by two measures")
        return self


class Lesson(Config):
    """A claim of the paper, or one of this lab's own."""

    name: str
    claim: str
    by: Literal["MM1", "ours"] = "MM1"
    paper: str
    """What the paper says about it, in short."""
    section: str
    sweep: str
    margin: str
    """The reason for its margins."""
    parts: tuple[LessonPart, ...]


def load_lessons(path: Path = PATH) -> tuple[Lesson, ...]:
    """Reads the lessons. Raises RequestError for an invalid file."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:  # a ValueError: no UTF-8, or a date that does not exist
        raise RequestError(f"{path}: this is not YAML ({getattr(error, 'problem', error)})") from None
    if not isinstance(values, list):
        raise RequestError(f"{path}: must hold a list of lessons")
    return tuple(Lesson.parse(value, f"{path}: lesson {number}") for number, value in enumerate(values, 1))


_kept_lessons = cache(load_lessons)
"""A process draws several sweeps."""


def known_lessons(results: Path) -> tuple[Lesson, ...]:
    """The paper's lessons, then those of a `lessons.yaml` of the user's own in the results folder, of the same form.

    All of them are one family. Raises RequestError for an invalid file, or a name that occurs twice.
    """
    own = results / PATH.name
    lessons = _kept_lessons(PATH)
    if own.exists():
        lessons += load_lessons(own)
    name, count = Counter(lesson.name for lesson in lessons).most_common(1)[0]
    if count > 1:
        raise RequestError(f"{own}: {count} lessons are named {name!r}; give each a name of its own")
    return lessons


def lessons_for(folder: Path) -> tuple[Lesson, ...]:
    """`known_lessons` of the results that hold a sweep's folder."""
    return known_lessons(folder.absolute().parents[1])


def claims_of(part: LessonPart, lesson: Lesson, sweep: Sweep, scored: Collection[str]) -> list[Claim]:
    """The claims of a part of a lesson; empty if the sweep has no such arms with scores."""
    if part.contrast:
        return [claim_of(contrast) for contrast in sweep.contrasts if contrast.claim == part.contrast]
    claim = Claim(lesson.claim, "", {}, part.measure, part.expect, part.margin)
    if part.arm and part.over:
        if part.arm not in sweep.arms:
            return []
        terms = {(part.arm, part.measure): 1.0, (part.arm, part.over): -1.0}
        return [replace(claim, detail=f"{part.arm}: {part.measure} − {part.over}", weights=terms)]
    levels = varying(sweep, scored)
    differences = differences_of(part, levels, sweep)
    if part.beyond:
        exceeding: dict[str, dict[str, float]] = {}
        # either level of a pair may be the better one, so the first difference must exceed both directions
        others = differences_of(part.beyond, levels, sweep, both_ways=True)
        for (words, arms), (other_words, other) in product(differences.items(), others.items()):
            weights = defaultdict(float, arms)
            for arm, weight in other.items():
                weights[arm] -= weight
            exceeding[f"({words}) − ({other_words})"] = weights
        differences = exceeding
    claims = []
    for words, arms in differences.items():
        terms = {(arm, part.measure): weight for arm, weight in arms.items()}
        claims.append(replace(claim, detail=f"{words}, {part.measure}", weights=terms))
    return claims


def misnamed(part: LessonPart, sweep: Sweep) -> str:
    """What a part of a lesson names that the sweep does not have; empty if it has everything, scored or not."""
    if part.contrast:
        known = [contrast.claim for contrast in sweep.contrasts]
        return "" if part.contrast in known else f"no contrast in the sweep's file: {part.contrast!r}"
    axes = varying(sweep, sweep.arms)
    for named in (part, part.beyond or part):
        for arm in filter(None, (named.first, named.second, part.arm)):
            if arm not in sweep.arms:
                return f"the sweep has no arm {arm!r}{nearest(arm, sweep.arms)}"
        if named.axis and named.axis not in axes:
            return f"the sweep's arms do not differ in {named.axis!r}{nearest(named.axis, map(str, axes))}"
        for level in filter(None, (named.more, named.less)):
            levels = axes[str(named.axis)].unique()
            if level not in levels:
                return f"no arm has the {named.axis} {level!r}{nearest(level, levels)}"
    return ""


def differences_of(
    levels: Levels, known: pd.DataFrame, sweep: Sweep, both_ways: bool = False
) -> dict[str, dict[str, float]]:
    """The difference of two arms, or of two levels of an axis (the mean over all pairs of arms that differ only in it):
    by its words, the weight of each arm. `known` is of `varying`."""
    if levels.first and levels.second:
        if not {levels.first, levels.second} <= set(sweep.arms):
            return {}
        return {f"{levels.first} − {levels.second}": {levels.first: 1.0, levels.second: -1.0}}
    axis = str(levels.axis)
    if axis not in known:
        return {}
    alike = groups(known, axis)
    each_two = permutations if both_ways else combinations
    pairs = list(each_two(known[axis].unique(), 2))
    if levels.more and levels.less:
        pairs = [(levels.more, levels.less)]
    differences = {}
    for more, less in pairs:
        matched = [arms for arms in alike if more in arms and less in arms]
        weights = {}
        for arms in matched:
            weights[arms[more]] = 1 / len(matched)
            weights[arms[less]] = -1 / len(matched)
        count = f", {len(matched)} pairs" if len(matched) > 1 else ""
        if matched:
            differences[f"{axis} {more} − {less}{count}"] = weights
    return differences
