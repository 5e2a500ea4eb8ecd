"""Verdicts on simulated results of known truth; holes, one seed and sweeps that were not run; the lessons' file."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.judging.claims import LAW, Claim, Lesson, claim_of, claims_of, load_lessons
from analysis.judging.difference import Difference
from analysis.judging.evidence import Evidence, of_lessons
from analysis.judging.looks import question_status
from analysis.judging.p_values import p_values
from analysis.judging.verdicts import judge_contrasts, judge_lessons, needed, needed_for, parts_frame
from analysis.law.fit import Fit, Law
from analysis.law.report import _last_targets
from analysis.law.runs import Objective
from analysis.seeds import seed_columns
from analysis.statistics import Interval, one_sample
from analysis.study import Study
from mm1_lab.config import AVERAGE, Contrast, Measure, Recipe, RequestError, Sweep, load_sweep
from mm1_lab.results.manifest import claim_keys
from tests.analysis.results_folder import ROOT, Lifts, claim_row, of_arms, of_own_data, study_of, with_manifest

LESSONS = load_lessons()
TYPES = ("average-pooling", "attention-pooling", "c-abstractor")
GRID = {
    f"{connector} {resolution} {tokens}": Recipe(connector=connector, resolution=resolution, image_tokens=tokens)  # type: ignore[arg-type]
    for connector, resolution, tokens in product(TYPES, (224, 336), (64, 144))
}


def sweep_of(name: str, arms: dict[str, Recipe]) -> Sweep:
    return Sweep(name=name, title=name, reproduces="Fig. 99", axis=name, base=Recipe(), arms=arms)


def lifts_of(arms: dict[str, Recipe], **effects: float) -> Lifts:
    """The same lift at every number of shots: the sum of the effects whose level an arm has (`_336=5`)."""
    lift = {arm: sum(size for level, size in effects.items() if level[1:] in arm.replace("-", "_")) for arm in arms}
    return {arm: (size, size, size) for arm, size in lift.items()}


def judged(study: Study, lessons: Sequence[Lesson] = LESSONS) -> dict[str, dict[str, Any]]:
    """The lessons' rows by name."""
    rows = judge_lessons(lessons, of_lessons(study, lessons), study.manifest).to_dict("records")
    return {str(row["lesson"]): dict(row) for row in rows}  # type: ignore[arg-type]


def verdicts(found: dict[str, dict[str, Any]], *names: str) -> dict[str, str]:
    return {name: found[name]["verdict"] for name in names}


def test_a_lesson_does_not_rest_on_a_claim_that_was_changed_after_its_scores(data_mix: Sweep) -> None:
    study = study_of(data_mix, range(3))
    (lesson,) = [one for one in LESSONS if [part.contrast for part in one.parts] == ["captions lift zero-shot"]]
    assert judged(study)[lesson.name]["verdict"] != "not judged"
    key = claim_keys(data_mix)["captions lift zero-shot"]
    changed = with_manifest(study, claims={key: (2,)})
    found = judged(changed)[lesson.name]
    reason = "its claim was written or changed after scores were seen"
    assert (found["verdict"], found["reason"]) == ("not judged", reason)
    assert question_status(changed, [lesson])[1] == [], "no further seed helps"
    assert found["seeds_are"] == "development, 1 seen before the claim"
    of_file = judge_contrasts(changed).set_index("claim").loc["captions lift zero-shot"]
    assert of_file["verdict"] != "not judged" and of_file["seeds_are"] == found["seeds_are"]
    all_seen = judge_contrasts(with_manifest(study, claims={key: (0, 1, 2)})).set_index("claim")
    assert all_seen["verdict"]["captions lift zero-shot"] == "not judged"
    assert "other seeds decide it" in all_seen["reason"]["captions lift zero-shot"]
    for seeds, kind in (((300, 301), ""), ((0, 300), "mixed, ")):
        assert seed_columns(seeds, True, seen=1)["seeds_are"] == f"{kind}1 seen before the claim"
    at_other_seeds = with_manifest(study, claims={key: (9,)})
    assert judged(at_other_seeds)[lesson.name]["verdict"] == judged(study)[lesson.name]["verdict"]


CONNECTOR = ("resolution before any connector", "image tokens", "connector type", "connector order")


def connector(seeds: int, **effects: float) -> dict[str, dict[str, Any]]:
    return judged(study_of(sweep_of("connector", GRID), range(seeds), lifts=lifts_of(GRID, **effects)))


def test_a_world_as_the_paper_says_supports_the_paper_and_another_contradicts_it() -> None:
    found = connector(5, _336=5, _144=4)
    assert verdicts(found, *CONNECTOR) == dict.fromkeys(CONNECTOR, "supported")
    tokens = found["image tokens"]
    assert tokens["low"] < 4 < tokens["high"] and "6 pairs" in tokens["detail"]
    assert (found["connector type"]["parts"], found["connector order"]["parts"]) == (3, 12)
    assert (tokens["seeds"], tokens["seeds_are"], tokens["interval"]) == (5, "development", "seeds")
    assert tokens["df"] == 4 + 5, "six pairs of five seeds are five pieces of evidence, beside those of the other axes"
    found = connector(5, _336=-5, _144=-4, _c_abstractor=9)
    assert verdicts(found, *CONNECTOR) == dict.fromkeys(CONNECTOR, "contradicted")
    assert abs(found["connector type"]["estimate"]) > 7


def test_an_arm_on_both_sides_of_a_contrast_cancels_out_and_the_same_trials_count_once(data_mix: Sweep) -> None:
    """Scores that have no weight need not be there, and what is left of two arms is judged as these two."""
    arms = {name: data_mix.arms[name] for name in ("base", "captions", "interleaved", "captions-50", "no-vecap")}
    arms["copy"] = arms["captions"]
    missing = {"base/1", *(f"copy/{seed}" for seed in range(4))}
    study = study_of(of_arms(data_mix, arms), range(4), missing=missing)

    def difference(first: str | tuple[str, ...], second: str | tuple[str, ...], seeds: Any = range(4)) -> Any:
        contrast = Contrast(claim="more", first=first, second=second, measure=AVERAGE, expect="greater")
        row = claim_row(study.at_seeds(seeds), claim_of(contrast))
        return [row[name] for name in ("estimate", "error", "df", "seeds")]

    for seeds in (range(4), [1]):
        plain = difference("captions", "interleaved", seeds)
        halved = pytest.approx([plain[0] / 2, plain[1] / 2, *plain[2:]])
        assert difference(("captions", "base"), ("interleaved", "base"), seeds) == halved
        assert difference(("captions", "base"), ("base", "interleaved"), seeds) == halved
        assert difference(("captions", "copy"), "interleaved", seeds) == pytest.approx(plain)
    both = Contrast(claim="more", first="captions", second="copy", measure=AVERAGE, expect="greater")
    assert claim_row(study, claim_of(both))["reason"] == "the same trials"
    alone = with_manifest(study, sweep=study.sweep.model_copy(update={"contrasts": (both,)}))
    assert question_status(alone, ()) == (["more: not judged: the same trials"], []), "at no seed"


def test_worked_solutions_are_floor_for_arms_that_solve_nothing_without_them() -> None:
    """From the majority answer to below it is no effect of demonstrations; from well above it, it is one."""
    sweep = load_sweep(ROOT / "sweeps" / "chain_of_thought.yaml")
    found = {}
    for alone in (22.0, 60.0):
        study = study_of(sweep, range(5), lifts=dict.fromkeys(sweep.arms, (alone - 40, -35, -38)))
        study.scores["family"] = study.scores["family"].replace("vqa", "solutions")
        records = {"any": {"majority": {"vqa": 20.0, "text-vqa": 22.0, "relation-vqa": 21.0}}}
        found[alone] = judged(replace(study, records=records))["chain of thought"]
        claims = judge_contrasts(replace(study, records=records))
        assert claims["reason"].str.startswith("floor: mixed").all() == (alone == 22)
    floor, seen = found[22.0], found[60.0]
    assert floor["verdict"] == "not judged" and floor["estimate"] < -10 and np.isnan(floor["p_holm"])
    reason = r"floor: five views scores .+ \[.+\] without solutions, needed: low ≥ 21\.0 \+ 5"
    assert re.fullmatch(reason, floor["reason"])
    assert seen["verdict"] == "contradicted"


def test_a_part_that_is_set_aside_is_shown_and_does_not_decide() -> None:
    """A lesson of nothing else is not judged, and no seeds are run for it."""
    study = study_of(sweep_of("connector", GRID), range(5), lifts=lifts_of(GRID, _144=4))
    tokens = next(lesson for lesson in LESSONS if lesson.name == "image tokens")
    (asked,) = tokens.parts
    part = asked.model_copy(update={"aside": "not to be told here"})
    alone, beside = (tokens.model_copy(update={"parts": parts}) for parts in ((part,), (part, asked)))
    found = judged(study, lessons=[alone])["image tokens"]
    assert (found["verdict"], found["reason"], found["parts"]) == ("not judged", "not to be told here", 0)
    assert np.isfinite(found["estimate"]) and not parts_frame(of_lessons(study, [alone]))["decides"].any()
    found = judged(study, lessons=[beside])["image tokens"]
    assert (found["verdict"], found["parts"]) == ("supported", 1)
    open_now = (" ".join(question_status(study, [lesson])[0]) for lesson in (alone, tokens))
    assert ["image tokens" in lines for lines in open_now] == [False, True]


def test_a_control_among_the_arms_of_a_claim_has_its_own_variance(mix_study: Study) -> None:
    weights = {("base", AVERAGE): 1.0, ("blind", AVERAGE): -0.5, ("text-14", AVERAGE): -0.5}
    values = mix_study.all_values(AVERAGE).loc[["base", "blind", "text-14"]].to_numpy()
    alone = one_sample(np.array(list(weights.values())) @ values)
    assert Difference(mix_study, weights).over_seeds.error == pytest.approx(alone.error)


def part(estimate: float, number: int = 1) -> Evidence:
    """A part of three seeds without a pool, for which or against which the estimate speaks."""
    found = Interval(estimate, 2.0, 2.0)
    claim, p = Claim("", "", {}, AVERAGE, "greater"), p_values("greater", 0.0, found)
    return Evidence("", number, claim, found=found, seeds=(0, 1, 2), p=p)


def test_seeds_needed_are_those_of_the_part_with_which_a_lesson_falls() -> None:
    """Two parts against the lesson decide it with the fewer seeds, each tested as one of two; without any it needs the
    most. A loss that rises needs those of a score that falls."""

    def kept(estimate: float, measure: Measure) -> Evidence:
        return replace(part(estimate), claim=Claim("", "", {}, measure, "keeps", 3.0))

    sure, unsure = part(-5.0), part(-1.0, 2)
    assert needed_for(sure) < needed_for(sure, 2) < needed_for(unsure)
    assert needed([sure, unsure], 1) == needed_for(sure, 2) and needed([sure, unsure], 3) == needed_for(sure, 6)
    assert needed([part(5.0), part(1.0, 2)], 1) == needed_for(part(1.0))
    loss = Measure("text", about="loss")
    for fallen in (-1.0, 1.0, -5.0, -9.0):
        assert needed_for(kept(-fallen, loss)) == needed_for(kept(fallen, AVERAGE))
    assert needed_for(kept(1.0, loss)) > needed_for(kept(-1.0, loss))


SEARCH = study_of(sweep_of(LAW, {"9M 0.001": Recipe()}), range(3))
"""Of a search, of which the fit alone is judged."""


def fit_of(objective: str, slope: float, half: float, seeds: int = 3) -> Fit:
    """A fit of four sizes with this slope and half its 95 % interval."""
    error = half / Interval(0, 1, 2).half_width
    law = Law(np.array([slope, 0.0]), np.diag([error**2, 0.0]), 0.1, np.zeros((2, 4)))
    return Fit(Objective(objective, False), (), law, "", {}, seeds)


def law_row(*fits: Fit, lesson: str = "learning-rate law") -> dict[str, Any]:
    frame = judge_lessons(LESSONS, of_lessons(SEARCH, LESSONS, fits), SEARCH.manifest)
    return dict(frame.set_index("lesson").loc[lesson])


@pytest.mark.parametrize(
    ("slope", "half", "verdict"),
    [(-0.45, 0.12, "supported"), (-0.45, 0.5, "undecided"), (0.2, 0.1, "contradicted"), (-0.9, 0.1, "contradicted")],
)
def test_the_law_is_judged_by_the_paper_s_objective_and_by_loss(slope: float, half: float, verdict: str) -> None:
    loss = Fit(Objective("held-out loss", True), (), None, "9M is not bracketed", {}, 3)
    by_loss, score = "learning-rate law by loss", fit_of("8-shot average", slope, half)
    found = law_row(loss, score)
    assert (found["verdict"], found["parts"], found["interval"]) == (verdict, 2, "sizes")
    assert found["detail"].startswith("slope by 8-shot average")
    assert law_row(loss, score, lesson=by_loss)["reason"] == "no law: 9M is not bracketed"
    alone = fit_of("held-out loss", slope, half)
    assert (law_row(alone, lesson=by_loss)["verdict"], law_row(alone)["verdict"]) == (verdict, "not judged")
    found = law_row(fit_of("8-shot average", slope, half, seeds=2))
    assert (found["verdict"], found["reason"]) == ("not judged", "2 of the 3 seeds that a verdict needs")
    assert law_row(fit_of("4-shot average", slope, half))["reason"] == "no law: no fit by 8-shot average"
    at_cliffs = replace(score.law, gaps=np.array([[0.5, 0, 0, 0], [0, 0, 0, 0]])) if score.law else None
    found = law_row(replace(score, law=at_cliffs))
    assert found["verdict"] != "supported", "optima that are anywhere up to a cliff leave the slope open"
    studies = (SEARCH, of_own_data(SEARCH))
    kinds = [set(parts_frame(of_lessons(study, LESSONS, [score]))["seeds_are"]) for study in studies]
    assert kinds == [{"development"}, {""}], "nothing was tuned on seeds of one's own data"


def test_a_broken_lesson_and_a_damaged_law_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "lessons.yaml"
    good = (ROOT / "analysis" / "lessons.yaml").read_text(encoding="utf-8")
    part = "{contrast: captions lift zero-shot}"
    for text, message in (
        ("- {name: a}\n", "lesson 1: the key 'claim' is missing"),
        ("lessons\n", "must hold a list"),
        ("- {name: 2020-99-99}\n", "this is not YAML"),
        (good.replace(part, "{measure: 0-shot}"), "a part needs exactly one of: contrast; axis"),
        (good.replace(part, "{first: captions, second: captions}"), "a part compares two arms"),
        (good.replace(part, "{axis: image tokens, more: '144'}"), "takes both `more` and `less`"),
    ):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(RequestError, match=message):
            load_lessons(path)
    for text in ("{", "[]", "[" * 100_000):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(RequestError, match=r"cannot be read \(.{1,200}\); delete it"):
            _last_targets(path)


def test_the_protocol_of_the_study_is_that_of_these_files() -> None:
    """The hash in docs/study.md is over the lessons and every sweep's contrasts: neither changes unnoticed."""
    sweeps = {path.stem: load_sweep(path) for path in sorted((ROOT / "sweeps").glob("*.yaml"))}
    assert not sweeps.pop("sft_replay").contrasts, "it came after the protocol, and claims nothing"
    contrasts = {name: [contrast.model_dump() for contrast in sweep.contrasts] for name, sweep in sweeps.items()}
    frozen = {"lessons": [lesson.model_dump() for lesson in LESSONS], "contrasts": contrasts}
    now = hashlib.sha256(json.dumps(frozen, sort_keys=True).encode()).hexdigest()
    text = (ROOT / "docs" / "study.md").read_text(encoding="utf-8")
    assert f"`{now}`" in text, (
        f"lessons or contrasts have changed: a draft takes the new hash {now}, a frozen study none"
    )
    assert "Status: draft" in text or "Status: frozen" in text
    for lesson in LESSONS:
        sweep = load_sweep(ROOT / "sweeps" / f"{lesson.sweep}.yaml")  # has the contrast or axis that it is about
        has_all = all(claims_of(part, lesson, sweep, sweep.arms) for part in lesson.parts)
        assert lesson.sweep == LAW or has_all, lesson.name
