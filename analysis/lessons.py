"""The paper's lessons (`lessons.yaml`) and what the results of a scale say of each."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations, permutations
from pathlib import Path
from typing import Literal

import yaml
from pydantic import model_validator

from analysis.claims import Claim, Evidence, Judged, claim_of, gather, needed
from analysis.effects import groups, varying
from analysis.paper import read_paper
from analysis.statistics import Expectation, Interval, all_of, decide, quantile
from analysis.study import Study
from mm1_lab.config import Config, RequestError, Sweep

PATH = Path(__file__).with_name("lessons.yaml")
LAW = "lr_law"


class Levels(Config):
    """Two levels of an axis; without them, every two."""

    axis: str
    more: str | None = None
    less: str | None = None


class Part(Config):
    """One statement of a lesson; `lessons.yaml` explains its forms."""

    contrast: str | None = None
    axis: str | None = None
    more: str | None = None
    less: str | None = None
    beyond: Levels | None = None
    first: str | None = None
    second: str | None = None
    arm: str | None = None
    over: str = ""
    law: Literal["slope"] | None = None
    minus: Literal["slope"] | None = None
    measure: str = "average"
    expect: Expectation = "greater"
    margin: float = 0.0

    @model_validator(mode="after")
    def _one_form(self) -> Part:
        forms = [self.contrast, self.axis, self.first and self.second, self.arm and self.over, self.law]
        if sum(form is not None and form != "" for form in forms) != 1:
            raise ValueError("a part names a contrast, an axis, two arms, an arm with what it is over, or a law")
        return self


class Lesson(Config):
    """A claim of the paper."""

    name: str
    claim: str
    paper: str
    """What the paper says of it, in short."""
    section: str
    sweep: str
    margin: str
    """Why the margins are what they are."""
    parts: tuple[Part, ...]


def load_lessons(path: Path = PATH) -> tuple[Lesson, ...]:
    """Raises RequestError for a file that is not as it should be."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise RequestError(f"{path}: this is not YAML ({getattr(error, 'problem', error)})") from None
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise RequestError(f"{path}: must hold a list of lessons")
    return tuple(Lesson.parse(value, f"{path}: lesson {number}") for number, value in enumerate(values, 1))


def claims_of(part: Part, lesson: Lesson, sweep: Sweep, scored: Iterable[str]) -> list[Claim]:
    """The statements about a sweep's arms that a part comes to; none where the sweep has no such arms with scores."""
    if part.contrast:
        return [claim_of(contrast) for contrast in sweep.contrasts if contrast.claim == part.contrast]
    if part.arm:
        text = f"{part.arm}: {part.measure} − {part.over}"
        claim = Claim(lesson.claim, text, {part.arm: 1.0}, part.measure, part.expect, part.margin, part.over)
        return [claim] if part.arm in sweep.arms else []
    if part.first and part.second:
        pairs = [(f"{part.first} − {part.second}", {part.first: 1.0, part.second: -1.0})]
        pairs = [pair for pair in pairs if set(pair[1]) <= set(sweep.arms)]
    elif part.axis:
        pairs = _differences(Levels(axis=part.axis, more=part.more, less=part.less), sweep, scored, combinations)
    else:
        return []
    if part.beyond:
        beyond = _differences(part.beyond, sweep, scored, permutations)
        pairs = [(f"({one}) − ({two})", _less(a, b)) for one, a in pairs for two, b in beyond]
    return [
        Claim(lesson.claim, f"{text}, {part.measure}", weights, part.measure, part.expect, part.margin)
        for text, weights in pairs
    ]


def _differences(
    levels: Levels,
    sweep: Sweep,
    scored: Iterable[str],
    choose: type[combinations] | type[permutations],  # type: ignore[type-arg]
) -> list[tuple[str, dict[str, float]]]:
    """(in words, weights) of the mean difference over pairs of arms that differ in the axis alone."""
    known = {arm: found for arm, found in varying(sweep).items() if arm in set(scored)}
    pairs = [(levels.more, levels.less)]
    if not (levels.more and levels.less):
        every = dict.fromkeys(found[levels.axis] for found in known.values() if levels.axis in found)
        pairs = list(choose(every, 2))
    differences = []
    for more, less in pairs:
        matched = []
        for arms in groups(known, levels.axis) if all(levels.axis in found for found in known.values()) else []:
            by_level = {known[arm][levels.axis]: arm for arm in arms}
            if more in by_level and less in by_level:
                matched.append((by_level[more], by_level[less]))
        if matched:
            weights = {arm: sign / len(matched) for pair in matched for arm, sign in zip(pair, (1, -1), strict=True)}
            count = f", {len(matched)} pairs" if len(matched) > 1 else ""
            differences.append((f"{levels.axis} {more} − {less}{count}", weights))
    return differences


def _less(first: Mapping[str, float], second: Mapping[str, float]) -> dict[str, float]:
    arms = dict.fromkeys([*first, *second])
    return {arm: first.get(arm, 0.0) - second.get(arm, 0.0) for arm in arms}


@dataclass(frozen=True)
class SweepVerdicts:
    """What a sweep's results say of its own contrasts, in order, and of its lessons, by name."""

    seeds: int
    interval: str
    """What intervals are about: seeds or questions."""
    contrasts: tuple[Judged, ...]
    lessons: Mapping[str, Judged]


def judge_sweep(study: Study, lessons: Iterable[Lesson]) -> SweepVerdicts:
    """Contrasts of a sweep's file and lessons about it are one family, to which Holm's correction is applied."""
    own = [lesson for lesson in lessons if lesson.sweep == study.sweep.name]
    statements: list[tuple[Evidence, ...]] = [(gather(study, claim_of(c)),) for c in study.sweep.contrasts]
    findings = [evidence[0].finding for evidence in statements]
    for lesson in own:
        parts = [claims_of(part, lesson, study.sweep, study.scored) for part in lesson.parts]
        evidence = tuple(gather(study, claim) for claims in parts for claim in claims)
        statements.append(evidence)
        findings.append(all_of([one.finding for one in evidence]) if all(parts) else None)
    verdicts = decide(findings)
    undecided = sum(verdict == "undecided" for verdict, _ in verdicts)
    judged = [
        Judged(evidence, verdict, p, needed(study, evidence, undecided) if verdict == "undecided" else None)
        for evidence, (verdict, p) in zip(statements, verdicts, strict=True)
    ]
    count = len(study.sweep.contrasts)
    names = [lesson.name for lesson in own]
    lesson_verdicts = dict(zip(names, judged[count:], strict=True))
    return SweepVerdicts(len(study.seeds), study.uncertainty, tuple(judged[:count]), lesson_verdicts)


@dataclass(frozen=True)
class Taught:
    """A lesson with its verdict at one scale."""

    lesson: Lesson
    judged: Judged
    seeds: int
    interval: str
    """What the interval is about: seeds, questions or sizes."""
    note: str = ""
    """Why there is no verdict."""


def teach(lessons: Iterable[Lesson], sweeps: Mapping[str, SweepVerdicts], law: Path) -> list[Taught]:
    """Every lesson. `sweeps` is by the sweep's name; `law` is the learning-rate law's file, if there is one."""
    taught = []
    for lesson in lessons:
        if lesson.sweep == LAW:
            taught.append(_teach_law(lesson, law))
        elif lesson.sweep not in sweeps:
            taught.append(Taught(lesson, NOTHING, 0, "", f"not run: make sweep-{lesson.sweep.replace('_', '-')}"))
        else:
            found = sweeps[lesson.sweep]
            judged = found.lessons[lesson.name]
            note = "too few scores" if judged.verdict == "–" else ""
            taught.append(Taught(lesson, judged, found.seeds, found.interval, note))
    return taught


NOTHING = Judged((), "–", float("nan"))


def _teach_law(lesson: Lesson, path: Path) -> Taught:
    """The law's slope, as its fit wrote it."""
    if not path.exists():
        return Taught(lesson, NOTHING, 0, "", "not run: make lr-law")
    try:
        law = json.loads(path.read_text(encoding="utf-8"))
        if law["coefficients"] is None:
            return Taught(lesson, NOTHING, 0, "", f"no law: {law['why']}")
        value, high = float(law["coefficients"]["ln N"]), float(law["intervals"]["ln N"][1])
        sizes, degrees = int(law["n"]), float(law["fits"][0]["degrees_of_freedom"])
    except (OSError, ValueError, TypeError, KeyError, IndexError) as error:
        raise RequestError(f"{path}: cannot be read ({error}); fit the law again: mm1-lab fit-lr-law") from None
    slope = Interval(value, (high - value) / quantile(0.975, degrees), degrees)
    evidence = tuple(_slope_evidence(lesson, part, slope) for part in lesson.parts)
    ((verdict, p),) = decide([all_of([one.finding for one in evidence])])
    return Taught(lesson, Judged(evidence, verdict, p), 0, f"{sizes} sizes")


def _slope_evidence(lesson: Lesson, part: Part, slope: Interval) -> Evidence:
    value = read_paper("Equation 1").values["", "slope", "ln rate on ln parameters"]
    minus = value.value if part.minus else 0.0
    detail = "slope of ln rate on ln parameters" + (f" − ({minus})".replace("-", "−") if part.minus else "")
    claim = Claim(lesson.claim, detail, {}, "slope", part.expect, part.margin)
    moved = Interval(slope.estimate - minus, slope.error, slope.degrees_of_freedom)
    return Evidence(claim, moved, paper=None if part.minus else value)
