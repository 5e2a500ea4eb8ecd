"""Verdicts on simulated results of known truth; holes, one seed and sweeps that were not run; the lessons' file."""

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.judging.claims import LAW, Claim, Lesson, claim_of, claims_of, load_lessons
from analysis.judging.evidence import Evidence, of_lessons
from analysis.judging.law_evidence import of_law
from analysis.judging.looks import question_status
from analysis.judging.p_values import p_values
from analysis.judging.verdicts import judge_contrasts, judge_lessons, needed, needed_for, parts_frame
from analysis.law.report import _last_targets
from analysis.statistics import Interval
from analysis.study import Study
from mm1_lab.config import (
    AVERAGE,
    Contrast,
    DataIdentity,
    EncoderRecipe,
    Recipe,
    RequestError,
    Sweep,
    load_sweep,
)
from tests.analysis.results_folder import LIFT, ROOT, Lifts, claim_row, study_of

LESSONS = load_lessons()
ASKED = [
    lesson.model_copy(update={"parts": tuple(part.model_copy(update={"aside_in_world": ""}) for part in lesson.parts)})
    for lesson in LESSONS
]
"""As if the world could ask them all; and so they are for data of one's own."""
TYPES = ("average-pooling", "attention-pooling", "c-abstractor")
GRID = {
    f"{connector} {resolution} {tokens}": Recipe(connector=connector, resolution=resolution, image_tokens=tokens)  # type: ignore[arg-type]
    for connector, resolution, tokens in product(TYPES, (224, 336), (64, 144))
}
ENCODERS = {
    f"{data} {size} {resolution}": Recipe(resolution=resolution, encoder=EncoderRecipe(size=size, data=data))
    for data, size, resolution in [
        ("dfn+vecap", "ViT-L", 224),
        ("dfn", "ViT-H", 224),
        ("dfn+vecap", "ViT-H", 224),
        ("dfn+vecap", "ViT-L", 336),
        ("dfn+vecap", "ViT-H", 336),
    ]  # type: ignore[list-item]
}


def sweep_of(name: str, arms: dict[str, Recipe]) -> Sweep:
    return Sweep(name=name, title=name, reproduces="Fig. 99", axis=name, base=Recipe(), arms=arms)


def lifts_of(arms: dict[str, Recipe], **effects: float) -> Lifts:
    """The same lift at every number of shots: the sum of the effects whose level an arm has (`_336=5`)."""
    lift = {arm: sum(size for level, size in effects.items() if level[1:] in arm.replace("-", "_")) for arm in arms}
    return {arm: (size, size, size) for arm, size in lift.items()}


def judged(study: Study, failed: tuple[str, ...] = (), lessons: Sequence[Lesson] = ASKED) -> dict[str, dict[str, Any]]:
    """The lessons' rows by name."""
    rows = judge_lessons(lessons, of_lessons(study, lessons, failed)).to_dict("records")
    return {str(row["lesson"]): dict(row) for row in rows}  # type: ignore[arg-type]


def verdicts(found: dict[str, dict[str, Any]], *names: str) -> dict[str, str]:
    return {name: found[name]["verdict"] for name in names}


CONNECTOR = ("image tokens", "connector type", "connector order")


def connector(
    seeds: int = 3, missing: tuple[str, ...] = (), scale: str = "mini", failed: tuple[str, ...] = (), **effects: float
) -> dict[str, dict[str, Any]]:
    sweep = sweep_of("connector", GRID)
    return judged(study_of(sweep, range(seeds), scale, missing, lifts_of(GRID, **effects)), failed)


def test_a_world_as_the_paper_says_supports_the_paper() -> None:
    found = connector(5, _336=5, _144=4)
    assert verdicts(found, *CONNECTOR) == dict.fromkeys(CONNECTOR, "supported")
    tokens = found["image tokens"]
    assert tokens["low"] < 4 < tokens["high"] and "6 pairs" in tokens["detail"]
    assert (found["connector type"]["parts"], found["connector order"]["parts"]) == (3, 12)
    assert (tokens["seeds"], tokens["seeds_are"], tokens["interval"]) == (5, "development", "seeds")
    assert tokens["df"] == 4 + 5, "six pairs of five seeds are five pieces of evidence, beside those of the other axes"


def test_a_world_that_is_otherwise_contradicts_it() -> None:
    found = connector(5, _144=-4, _c_abstractor=9)
    assert verdicts(found, *CONNECTOR) == dict.fromkeys(CONNECTOR, "contradicted")
    assert abs(found["connector type"]["estimate"]) > 7


def test_groups_of_arms_are_compared_by_their_means() -> None:
    """Three against three, with a variance moderated as an axis' is."""
    sweep = sweep_of("connector", GRID)
    study = study_of(sweep, range(3), lifts=lifts_of(GRID, _336=5))
    first, second = ([arm for arm in GRID if level in arm][:3] for level in ("336", "224"))
    contrast = Contrast(claim="more", first=tuple(first), second=tuple(second), measure=AVERAGE, expect="greater")
    row = claim_row(study, claim_of(contrast))
    values = study.trial_values(AVERAGE)
    means = [[np.mean([values[arm, seed] for arm in side]) for seed in range(3)] for side in (first, second)]
    assert row["estimate"] == pytest.approx(np.mean(means[0]) - np.mean(means[1])) and row["df"] == 2 + 5
    assert row["detail"] == f"mean of {', '.join(first)} − mean of {', '.join(second)}, average"


def test_one_seed_gives_numbers_and_no_verdict() -> None:
    found = connector(1, _144=40)["image tokens"]
    assert (found["verdict"], found["reason"], found["interval"]) == ("not judged", "one seed", "questions")
    assert found["estimate"] > 30 and found["low"] > 20 and np.isnan(found["seeds_needed"])


def test_smoke_scale_and_failed_gates_give_no_verdict() -> None:
    found = connector(5, scale="smoke", _144=40)["image tokens"]
    assert (found["verdict"], found["reason"]) == ("not judged", "smoke scale: nothing is learnt")
    found = connector(5, failed=("text-vqa, 0 shots",), _144=40)["image tokens"]
    assert (found["verdict"], found["reason"]) == ("not judged", "the base fails its gates: text-vqa, 0 shots")


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


@pytest.mark.parametrize(
    ("size", "verdict"),
    [(1.2, "supported, smaller"), (0.0, "refuted in size")],
)
def test_the_paper_s_size_is_a_second_bound(size: float, verdict: str) -> None:
    sweep = sweep_of("encoder", ENCODERS)
    lifts = lifts_of(ENCODERS, _336=size)
    found = judged(study_of(sweep, range(100, 116), lifts=lifts, questions=60))["resolution"]
    assert (found["verdict"], found["size"], found["seeds_are"]) == (verdict, 3, "confirmatory")


def test_the_data_mix_lessons_follow_the_truth(data_mix: Sweep) -> None:
    truth = dict(LIFT) | {"interleaved+text": (-9.0, 6.0, -4.0), "text-33": (3.0, 5.0, 6.0), "base": (3.0, 5.0, 16.0)}
    truth["captions-50"] = (5.0, 1.0, 1.0)
    found = judged(study_of(data_mix, range(5), lifts=truth, questions=24))
    expected = {
        "captions": "supported",  # 12 over −9, more than the paper's 13.5
        "text with interleaved": "contradicted",  # −4 where 7 stands without text, beyond the margin of 4
        "synthetic captions": "supported",  # 16 over −4
        "few-shot": "supported",
        "the mixture": "supported",  # much better keeps too: 16 over 1
    }
    assert verdicts(found, *expected) == expected
    assert found["interleaved documents"]["verdict"] == "supported, smaller"  # 7 and 10; the paper has 14.3 and 16
    assert found["few-shot"]["by"] == "ours" and found["captions"]["by"] == "MM1"


def with_data(study: Study, data: DataIdentity) -> Study:
    manifest = study.manifest.model_copy(update={"data": data})
    return replace(study, variant=replace(study.variant, manifest=manifest))


def test_a_part_that_the_study_s_world_cannot_ask_is_shown_and_does_not_decide(data_mix: Sweep) -> None:
    world_3 = DataIdentity(digest="world-3")
    found = judged(with_data(study_of(data_mix, range(5)), world_3), lessons=LESSONS)["interleaved and text"]
    assert found["verdict"] == "not judged" and "set aside by the study" in found["reason"]
    assert np.isfinite(found["estimate"]) and found["parts"] == 0
    study = study_of(sweep_of("connector", GRID), range(5), lifts=lifts_of(GRID, _144=4))
    there = with_data(study, world_3)
    assert judged(there, lessons=LESSONS)["image tokens"]["verdict"] == "not judged"
    asked, open_here = (" ".join(question_status(there, lessons)[0]) for lessons in (ASKED, LESSONS))
    assert "image tokens" in asked and "image tokens" not in open_here
    own = with_data(study, DataIdentity(kind="shards", digest="d", tokenizer="t"))
    for asking in (study, own):  # the present world, and data of one's own
        assert judged(asking, lessons=LESSONS)["image tokens"]["verdict"] == "supported"


@pytest.mark.parametrize(
    ("by_content", "verdict"), [(None, "supported, smaller"), (10.0, "supported, smaller"), (0.0, "refuted in size")]
)
def test_a_frozen_lesson_needs_wording_and_content(data_mix: Sweep, by_content: float | None, verdict: str) -> None:
    """Captions lift zero-shot by CIDEr alone, as VQA is alike; what they say differs between arms by `by_content`."""
    study = study_of(data_mix, range(5))
    scores, noise = study.scores, np.random.default_rng(0).normal(0, 1, len(study.scores))
    scores["score"] = scores["score"].where(scores["family"] != "vqa", 50 + noise)
    if by_content is not None:
        scores["content"] = 50 + noise + by_content * (scores["arm"] == "captions")
    found = judged(study)["captions"]
    assert found["verdict"] == verdict
    assert found["scored_by"] == ("wording" if by_content is None else "wording and content")
    fixed = [lesson.model_copy(update={"both_scores": False}) for lesson in LESSONS]
    found = judged(study, lessons=fixed)["captions"]
    assert (found["verdict"], found["scored_by"]) == ("supported, smaller", "wording"), "content stands beside"


def test_a_lesson_that_both_scores_speak_against_hangs_on_the_less_sure_one(data_mix: Sweep) -> None:
    """Else an interval far below 0 would stand beside "undecided"."""
    study = study_of(data_mix, range(5))
    scores, noise = study.scores, np.random.default_rng(0).normal(0, 1, len(study.scores))
    own = scores["arm"] == "captions+text"
    scores["score"] = np.where(scores["family"] == "text", scores["score"], 50 + noise - 0.2 * own)
    scores["content"] = 50 + noise - 10 * own
    lesson = next(one for one in ASKED if one.name == "text with captions")
    against = parts_frame(of_lessons(study, [lesson])).groupby("scored_by")["p_contradicted"].min()
    assert against["content"] < 0.001 and 0.05 < against["wording"] < 0.9
    found = judged(study, lessons=[lesson])[lesson.name]
    assert found["verdict"] == "undecided"
    assert found["detail"].startswith("captions+text − captions") and not found["detail"].endswith("content")


def test_lessons_are_one_family_and_contrasts_are_in_none(data_mix: Sweep) -> None:
    """Every p of the family is Holm's of the lessons alone, worked out here."""
    study = study_of(data_mix, range(3))
    evidence = of_lessons(study, LESSONS)
    frame, parts = judge_lessons(LESSONS, evidence), parts_frame(evidence)
    known = frame[frame["verdict"] != "not judged"]
    assert set(known["family"]) == {len(known)} == {9}
    smallest = {}
    for name, rows in parts[parts["decides"]].groupby("lesson"):
        against = min(1.0, len(rows) * rows["p_contradicted"].min())
        smallest[name] = np.nanmin([rows["p_supported"].max(), against, rows["p_smaller"].max()])
    order = sorted(known["lesson"], key=lambda name: smallest[name])
    adjusted = np.maximum.accumulate([min(1.0, (len(order) - k) * smallest[name]) for k, name in enumerate(order)])
    assert list(known.set_index("lesson").loc[order, "p_holm"]) == pytest.approx(list(adjusted))
    claims = judge_contrasts(study).set_index("claim")
    alone = claims.loc["captions lift zero-shot"]
    assert alone["p_supported"] == parts.set_index("lesson").loc["captions", "p_supported"] == alone["p"]
    assert alone["verdict"] == ("supported" if alone["p"] <= 0.05 else "undecided")


def test_controls_are_not_in_the_pool_and_pictures_lend_text_no_variance(data_mix: Sweep) -> None:
    claims = {}
    for name, arms in (("with", data_mix.arms), ("without", [arm for arm in data_mix.arms if arm != "blind"])):
        study = study_of(data_mix, range(3), arms=arms)
        claims[name] = judge_contrasts(study).set_index("claim")
        if name == "with":
            scores = study.scores.copy()
            pictures = (scores["family"] != "text") & (scores["arm"] == "text-14")
            scores.loc[pictures, "score"] += 90.0 * scores.loc[pictures, "seed"]
            wild = judge_contrasts(replace(study, scores=scores)).set_index("claim")
    lift, text = ("captions lift zero-shot", "error"), ("91/9 keeps text skill", "error")
    assert claims["with"].loc[lift] == claims["without"].loc[lift]
    assert wild.loc[lift] > 2 * claims["with"].loc[lift] and wild.loc[text] == claims["with"].loc[text]


def part(estimate: float, number: int = 1, content: Evidence | None = None) -> Evidence:
    """A part of three seeds without a pool, for which or against which the estimate speaks, by both scores if there is
    a `content`."""
    found = Interval(estimate, 2.0, 2.0)
    claim, p = Claim("", "", {}, AVERAGE, "greater"), p_values("greater", 0.0, found)
    return Evidence("", number, "wording", claim, found=found, seeds=(0, 1, 2), p=p, content=content, both_scores=True)


def test_seeds_needed_are_those_of_the_part_with_which_a_lesson_falls() -> None:
    """Two parts against the lesson decide it with the fewer seeds, each tested as one of two; without any it needs the
    most."""
    sure, unsure = part(-5.0), part(-1.0, 2)
    assert needed_for(sure) < needed_for(sure, 2) < needed_for(unsure)
    assert needed([sure, unsure], 1) == needed_for(sure, 2) and needed([sure, unsure], 3) == needed_for(sure, 6)
    assert needed([part(5.0), part(1.0, 2)], 1) == needed_for(part(1.0))


def test_no_seeds_decide_a_lesson_against_which_one_score_alone_is() -> None:
    both = part(-5.0, content=part(5.0))
    assert needed([both], 1) == np.inf
    text = part(-5.0, 2)  # without captions, so against it by both scores
    assert needed([both, text], 1) == needed_for(text, 2)


def test_what_was_not_run_says_how_to_run_it() -> None:
    found = connector(2)
    assert found["captions"]["reason"] == "not run: make sweep-data-mix"
    assert found["captions"]["verdict"] == "not judged"
    assert found["learning-rate law"]["reason"] == "not run: make lr-law"
    at_smoke = judge_lessons(LESSONS, [], "smoke")
    assert at_smoke["reason"].str.fullmatch(r"not run: make (lr-law|sweep-[a-z-]+) SCALE=smoke").all()


def write_law(folder: Path, slope: float, half: float, seeds: int = 3, objective: str = "8-shot average") -> Path:
    law = folder / "lr_law" / "law.json"
    law.parent.mkdir(parents=True, exist_ok=True)
    fit = {"objective": objective, "coefficients": {"ln N": slope}, "degrees_of_freedom": 2, "why": None}
    other = {"objective": "held-out loss", "coefficients": None, "why": "9M is not bracketed"}
    fits = [other, fit | {"intervals": {"ln N": [slope - half, slope + half]}, "seeds": seeds}]
    law.write_text(json.dumps({"fits": fits}), encoding="utf-8")
    rows = "".join(f"9M,{seed}\n" for seed in range(seeds))
    law.with_name("points.csv").write_text(f"size,seed\n{rows}", encoding="utf-8")
    return law


def law_row(law: Path) -> dict[str, Any]:
    frame = judge_lessons(LESSONS, of_law(LESSONS, law))
    return dict(frame.set_index("lesson").loc["learning-rate law"])


@pytest.mark.parametrize(
    ("slope", "half", "verdict"),
    [(-0.45, 0.12, "supported"), (-0.45, 0.5, "undecided"), (0.2, 0.1, "contradicted"), (-0.9, 0.1, "contradicted")],
)
def test_the_law_is_judged_by_the_paper_s_objective(tmp_path: Path, slope: float, half: float, verdict: str) -> None:
    found = law_row(write_law(tmp_path, slope, half))
    assert (found["verdict"], found["parts"], found["interval"]) == (verdict, 2, "sizes")
    assert found["detail"].startswith("slope by 8-shot average")
    found = law_row(write_law(tmp_path, slope, half, seeds=1))
    assert (found["verdict"], found["reason"]) == ("not judged", "1 of the 3 seeds that a verdict needs")
    law = write_law(tmp_path, slope, half)
    law.write_text(law.read_text(encoding="utf-8").replace('"seeds": 3', '"seeds": 2'), encoding="utf-8")
    assert law_row(law)["reason"] == "2 of the 3 seeds that a verdict needs", "one size lacks a seed that others have"
    found = law_row(write_law(tmp_path, slope, half, objective="4-shot average"))
    assert (found["verdict"], found["reason"]) == ("not judged", "no law: no fit by 8-shot average")
    law = write_law(tmp_path, slope, half)
    rows = [parts_frame(of_law(LESSONS, law, in_world))["seeds_are"] for in_world in (True, False)]
    assert [set(row) for row in rows] == [{"development"}, {""}], "nothing was tuned on seeds of one's own data"
    for text in ("{", "[]", "[" * 100_000):
        law.write_text(text, encoding="utf-8")
        with pytest.raises(RequestError, match=r"law\.json: cannot be read \(.{1,200}\); fit the law again"):
            law_row(law)
        with pytest.raises(RequestError, match=r"law\.json: cannot be read \(.{1,200}\); delete it"):
            _last_targets(law)


def test_every_lesson_is_about_a_contrast_or_an_axis_that_its_sweep_has() -> None:
    for lesson in LESSONS:
        sweep = load_sweep(ROOT / "sweeps" / f"{lesson.sweep}.yaml")
        assert lesson.sweep == LAW or all(claims_of(part, lesson, sweep, sweep.arms) for part in lesson.parts), (
            lesson.name
        )


def test_a_broken_lesson_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "lessons.yaml"
    path.write_text("- {name: a}\n", encoding="utf-8")
    with pytest.raises(RequestError, match="lesson 1: the key 'claim' is missing"):
        load_lessons(path)
    path.write_text("lessons\n", encoding="utf-8")
    with pytest.raises(RequestError, match="must hold a list"):
        load_lessons(path)
    good = (ROOT / "analysis" / "lessons.yaml").read_text(encoding="utf-8")
    path.write_text(
        good.replace("{contrast: captions lift zero-shot, paper_size: 13.5}", "{measure: 0-shot}"), encoding="utf-8"
    )
    with pytest.raises(RequestError, match="a part needs exactly one of: contrast; axis"):
        load_lessons(path)


LATER = ("final_chat", "search_mix")
"""Sweeps that were added after the protocol was frozen."""
AMENDED = "not testable in this world, whose pages contain none of the forms of text that text-core tests"
"""The reason for setting `interleaved and text` aside, as frozen; it was wrong, and docs/study.md says so."""


def as_frozen(lesson: Lesson) -> Lesson:
    """The lesson without what docs/study.md lists as amended: words, nothing that is judged."""
    if lesson.name != "interleaved and text":
        return lesson
    (part,) = lesson.parts
    return lesson.model_copy(update={"parts": (part.model_copy(update={"aside_in_world": AMENDED}),)})


def protocol_hash(lessons: Iterable[Lesson], sweeps: Iterable[Sweep]) -> str:
    """SHA-256 over what a confirmatory study freezes: the lessons and the contrasts of the sweeps."""
    contrasts = {sweep.name: [contrast.model_dump() for contrast in sweep.contrasts] for sweep in sweeps}
    frozen = {"lessons": [lesson.model_dump(exclude={"both_scores"}) for lesson in lessons], "contrasts": contrasts}
    return hashlib.sha256(json.dumps(frozen, sort_keys=True).encode()).hexdigest()


def test_the_protocol_of_the_study_is_that_of_these_files() -> None:
    """The hash in docs/study.md is over the lessons and every sweep's contrasts: neither changes unnoticed, but for a
    reason that the document quotes as amended."""
    sweeps = [load_sweep(path) for path in sorted((ROOT / "sweeps").glob("*.yaml")) if path.stem not in LATER]
    text = (ROOT / "docs" / "study.md").read_text(encoding="utf-8")
    assert AMENDED in " ".join(text.split())
    lessons = list(map(as_frozen, LESSONS))
    assert all(lesson.both_scores for lesson in lessons), "frozen before a lesson could rest on one score"
    now = protocol_hash(lessons, sweeps)
    assert f"`{now}`" in text, (
        f"lessons or contrasts have changed: a draft takes the new hash {now}, a frozen study none"
    )
    assert "Status: draft" in text or "Status: frozen" in text
    lesson = lessons[0].model_copy(update={"margin": "another"})
    assert protocol_hash([lesson, *lessons[1:]], sweeps) != now
    moved = [sweep.model_copy(update={"contrasts": sweep.contrasts[1:]}) for sweep in sweeps]
    assert protocol_hash(lessons, moved) != now
