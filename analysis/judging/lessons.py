"""Loads the paper's lessons (`lessons.yaml`) and turns each into claims about a sweep's arms."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import combinations, permutations, product
from pathlib import Path
from typing import Literal, Self

import yaml
from pydantic import model_validator

from analysis.effects import groups, varying
from analysis.judging.claims import Claim, claim_of
from mm1_lab.config import Config, Expectation, RequestError, Sweep
from mm1_lab.results import Manifest

PATH = Path(__file__).parents[1] / "lessons.yaml"
LAW = "lr_law"

Signed = dict[str, float]
"""A weighted sum of arms."""


class Levels(Config):
    """Two levels of an axis, or all pairs of its levels if none are given; or two arms."""

    axis: str | None = None
    more: str | None = None
    less: str | None = None
    first: str | None = None
    second: str | None = None


class Part(Levels):
    """One statement of a lesson; `lessons.yaml` explains its forms."""

    contrast: str | None = None
    beyond: Levels | None = None
    arm: str | None = None
    over: str = ""
    law: str | None = None
    minus: Literal["slope"] | None = None
    measure: str = "average"
    expect: Expectation = "greater"
    margin: float = 0.0
    paper_size: float | None = None
    """The paper's difference in points, a second bound."""
    aside: str = ""
    """Why the part is shown but does not decide."""
    aside_in_world: str = ""
    """The same for results of the miniature world, for what this world cannot test."""

    def why_aside(self, manifest: Manifest) -> str:
        """Why it does not decide in these results; empty if it does."""
        withdrawn = manifest.withdrawn.get(self.contrast or "", "")
        return self.aside or withdrawn or (self.aside_in_world if manifest.in_world else "")

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        forms = (self.axis, self.first and self.second, self.contrast, self.arm and self.over, self.law)
        if sum(map(bool, forms)) != 1:
            raise ValueError("a part needs exactly one of: contrast; axis; first and second; arm and over; law")
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
    parts: tuple[Part, ...]


def load_lessons(path: Path = PATH) -> tuple[Lesson, ...]:
    """Reads the lessons. Raises RequestError for an invalid file."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise RequestError(f"{path}: this is not YAML ({getattr(error, 'problem', error)})") from None
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise RequestError(f"{path}: must hold a list of lessons")
    return tuple(Lesson.parse(value, f"{path}: lesson {number}") for number, value in enumerate(values, 1))


def known_lessons(results: Path) -> tuple[Lesson, ...]:
    """The paper's lessons, then those of a `lessons.yaml` of the user's own in the results folder, of the same form.

    All of them are one family. Raises RequestError for an invalid file, or a name that occurs twice.
    """
    own = results / PATH.name
    lessons = (*load_lessons(), *(load_lessons(own) if own.exists() else ()))
    for name, count in Counter(lesson.name for lesson in lessons).items():
        if count > 1:
            raise RequestError(f"{own}: {count} lessons are named {name!r}; give each a name of its own")
    return lessons


def claims_of(part: Part, lesson: Lesson, sweep: Sweep, scored: Iterable[str]) -> list[Claim]:
    """The claims of a part of a lesson; empty if the sweep has no such arms with scores."""
    if part.contrast:
        found = [claim_of(contrast) for contrast in sweep.contrasts if contrast.claim == part.contrast]
        return [replace(claim, size=part.paper_size) for claim in found]
    claim = Claim(lesson.claim, "", {}, part.measure, part.expect, part.margin, part.paper_size)
    if part.arm:
        weights = {(part.arm, part.measure): 1.0, (part.arm, part.over): -1.0}
        detail = f"{part.arm}: {part.measure} − {part.over}"
        return [replace(claim, detail=detail, weights=weights)] if part.arm in sweep.arms else []
    known = {arm: levels for arm, levels in varying(sweep).items() if arm in set(scored)}
    sums = _differences(part, known, sweep)
    if part.beyond:
        # either level of a pair may be the better one, so the first difference must exceed both directions
        beyond = _differences(part.beyond, known, sweep, either_way=True)
        sums = [
            (f"({a}) − ({b})", {arm: one.get(arm, 0.0) - two.get(arm, 0.0) for arm in one | two})
            for (a, one), (b, two) in product(sums, beyond)
        ]
    return [
        replace(claim, detail=f"{words}, {part.measure}", weights={(arm, part.measure): w for arm, w in arms.items()})
        for words, arms in sums
    ]


def _differences(
    levels: Levels, known: Mapping[str, Mapping[str, str]], sweep: Sweep, either_way: bool = False
) -> list[tuple[str, Signed]]:
    """(words, weights) of the difference of two arms, or its mean over all pairs that differ only in an axis."""
    if levels.first and levels.second:
        known_arms = {levels.first, levels.second} <= set(sweep.arms)
        return [(f"{levels.first} − {levels.second}", {levels.first: 1.0, levels.second: -1.0})] if known_arms else []
    axis = str(levels.axis)
    known = {arm: found for arm, found in known.items() if axis in found}
    pairs: list[tuple[str | None, str | None]] = [(levels.more, levels.less)]
    if not (levels.more and levels.less):
        every = dict.fromkeys(found[axis] for found in known.values())
        pairs = list((permutations if either_way else combinations)(every, 2))
    differences = []
    for more, less in pairs:
        by_level = [{known[arm][axis]: arm for arm in arms} for arms in groups(known, axis)]  # type: ignore[arg-type]
        matched = [(arms[more], arms[less]) for arms in by_level if more in arms and less in arms]
        if matched:
            weights = {arm: sign / len(matched) for pair in matched for arm, sign in zip(pair, (1, -1), strict=True)}
            count = f", {len(matched)} pairs" if len(matched) > 1 else ""
            differences.append((f"{axis} {more} − {less}{count}", weights))
    return differences
