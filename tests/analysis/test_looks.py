"""A study that is judged while it grows: p over looks in the claims, arms that are still needed, arms shuffled."""

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

import pandas as pd
import pytest

from analysis.judging.claims import Lesson, claim_of
from analysis.judging.evidence import gather, of_lessons
from analysis.judging.looks import open_arms, question_status, reached_text
from analysis.judging.sequential import over_looks
from analysis.judging.verdicts import judge_contrasts
from analysis.redraw import draw
from analysis.study import Study, read_study
from mm1_lab.commands.common import parse_looks
from mm1_lab.config import Contrast, Recipe, RequestError, Sweep
from mm1_lab.orchestrate.sweeping import looks_of
from mm1_lab.results import Ledger
from mm1_lab.results.manifest import merge_manifest, read_manifest
from tests.analysis.results_folder import claim_row, study_of, with_manifest, write_results

LOOKS = (4, 6, 8)
ARMS = {name: Recipe(steps=1000 + number) for number, name in enumerate(("base", "much", "little", "none"))}
LIFT = Contrast(claim="", first="much", second="base", measure="average", expect="greater")
CLAIMS = tuple(LIFT.model_copy(update={"claim": f"{arm} lifts", "first": arm}) for arm in ("much", "little", "none"))
SWEEP = Sweep(name="own", title="own", axis="own", base=Recipe(), arms=ARMS, contrasts=CLAIMS)


LIFTS = {"base": (0, 0, 0), "much": (9, 9, 9), "little": (1, 1, 1), "none": (0, 0, 0)}
QUESTIONS = 8
"""Of each benchmark."""


@cache
def growing(seeds: int, missing: tuple[str, ...] = ()) -> Study:
    return with_manifest(study_of(SWEEP, range(seeds), missing=missing, lifts=LIFTS, questions=QUESTIONS), looks=LOOKS)


def lesson_of(*parts: Mapping[str, str], sweep: str = "own", name: str = "ours") -> Lesson:
    values = {"name": name, "claim": "c", "paper": "p", "section": "s", "sweep": sweep, "margin": "none"}
    return Lesson.parse(values | {"parts": list(parts)}, "here")


def test_p_is_over_the_looks_that_are_complete() -> None:
    claim = claim_of(CLAIMS[1])
    p = [claim_row(with_manifest(growing(look), looks=()), claim)["p_supported"] for look in LOOKS]
    for number, look in enumerate(LOOKS, 1):
        assert claim_row(growing(look), claim)["p_supported"] == pytest.approx(over_looks(p[:number], LOOKS))
    assert claim_row(growing(5), claim)["p_supported"] == claim_row(growing(4), claim)["p_supported"]
    assert gather(growing(5), claim, claim.text, seen=range(4)).reason == "before the first look"
    late = gather(growing(6), claim, claim.text, seen=range(4)).p["supported"]
    assert late == pytest.approx(over_looks([1.0, p[1]], LOOKS)), "a look at seeds that were all seen is no test"
    dropped = growing(8, missing=("little/6", "little/7"))
    assert claim_row(dropped, claim)["p_supported"] == pytest.approx(over_looks(p[:2], LOOKS)), "no look without seeds"
    before = claim_row(growing(3), claim)
    assert (before["says"], before["reason"]) == ("not judged", "before the first look")
    assert before["p_supported"] != before["p_supported"]


@pytest.mark.parametrize(("lift", "look"), [(2.5, 6), (2.0, 8)])
def test_seeds_needed_are_those_of_a_look_to_come(lift: float, look: int) -> None:
    """Judged once the claim would hold with four, but a first look of three spends little of the level."""
    study = study_of(SWEEP, range(4), lifts={**LIFTS, "little": (lift,) * 3}, questions=QUESTIONS)
    once, grows = (judge_contrasts(with_manifest(study, looks=looks)).iloc[1] for looks in ((), LOOKS))
    assert (once["verdict"], grows["verdict"], grows["seeds_needed"]) == ("supported", "undecided", look)


def test_equal_differences_are_not_judged_and_end_no_study() -> None:
    """As of a benchmark with few questions: what happens to be the same at every seed is no p of 0."""
    study = growing(6)
    luck = pd.Series([0.0, 25, 0, 25, 50, 75])
    wins = study.scores["arm"].map({"base": 0, "much": 25, "little": 0, "none": 0}).astype(float)
    scores = study.scores.assign(score=wins + study.scores["seed"].map(luck))
    claim = claim_of(CLAIMS[0])
    for looks in ((), LOOKS):
        row = claim_row(with_manifest(replace(study, scores=scores), looks=looks), claim)
        assert (row["says"], row["estimate"]) == ("not judged", 25.0) and "the same at every seed" in row["reason"]
        assert row["p_supported"] != row["p_supported"]
    later = scores["score"].mask((scores["arm"] == "much") & (scores["seed"] > 3), 0.0)
    row = claim_row(replace(study, scores=scores.assign(score=later)), claim)
    assert row["says"] == "undecided", "the first look, at four equal differences, decided nothing"


def test_lessons_about_other_sweeps_keep_no_arm() -> None:
    """Another sweep may have a contrast of the same name, and every sweep has a base."""
    study = growing(8)
    ours = lesson_of({"contrast": CLAIMS[0].claim})
    parts = ({"contrast": CLAIMS[1].claim}, {"arm": "base", "measure": "4-shot", "over": "0-shot"})
    theirs = lesson_of(*parts, sweep="another", name="theirs")
    assert question_status(study, [ours, theirs]) == (["ours: supported"], [])
    assert question_status(study, [theirs]) == question_status(study, ()), "the claims of its file"
    for part, told in (
        ({"contrast": "mch lifts"}, "no contrast in the sweep's file: 'mch lifts'"),
        ({"first": "mch", "second": "base"}, "the sweep has no arm 'mch'; did you mean 'much'?"),
        ({"axis": "steps", "more": "much", "less": "1000"}, "no arm has the steps 'much'; known: 1000, 1001"),
    ):
        (found,) = of_lessons(study, [lesson_of(part)])
        assert found.reason.startswith(told)
        (line,), arms = question_status(growing(4), [lesson_of({"contrast": CLAIMS[1].claim}, part)])
        assert line.startswith(f"ours: not judged: {told}") and not arms, "no seed adds what is misnamed"


def test_an_arm_that_failed_at_all_seeds_so_far_keeps_its_place() -> None:
    """It may have lost a node, and is run again by the command that adds seeds."""
    study = growing(4, missing=tuple(f"little/{seed}" for seed in range(4)))
    lesson = lesson_of({"axis": "steps", "measure": "average"})
    assert "little" not in str(of_lessons(study, [lesson]))
    (line,), arms = question_status(study, [lesson])
    assert line.startswith("ours: open") and "little" in arms
    lines, arms = question_status(study, [lesson_of({"contrast": CLAIMS[1].claim})])
    assert (lines, arms) == (["ours: not judged: no scores"], []), "not the claims of its file"


def test_a_lesson_that_one_part_may_contradict_is_not_given_up_for_another() -> None:
    falls = Contrast(claim="little falls", first="little", second="base", measure="average", expect="less")
    sweep = SWEEP.model_copy(update={"contrasts": (falls, CLAIMS[2])})
    lifts = {"base": (0, 0, 0), "little": (1, 1, 1), "none": (-0.5, -0.5, -0.5)}
    study = with_manifest(study_of(sweep, range(4), lifts=lifts, arms=lifts), looks=LOOKS)
    said = dict(line.split(": ", 1) for line in question_status(study, ())[0])
    assert said["none lifts"].startswith("given up") and said["little falls"].startswith("open")
    parts = [{"contrast": claim.claim} for claim in sweep.contrasts]
    (line,), arms = question_status(study, [lesson_of(*parts)])
    assert line.startswith("ours: open, a chance of") and arms == ["base", "little", "none"]


def write_growing(results: Path, seeds: int, missing: tuple[str, ...] = ()) -> Path:
    """Like `growing`, as files."""
    given = {"missing": missing, "lifts": LIFTS, "questions": QUESTIONS}
    folder = write_results(results, SWEEP, ARMS, range(seeds), **given)  # type: ignore[arg-type]
    manifest = read_manifest(folder).model_copy(update={"looks": LOOKS})
    merge_manifest(folder, manifest, (), lambda _: True, lambda _: False)
    return folder


def test_a_look_whose_trials_are_still_to_come_is_not_judged_yet(tmp_path: Path) -> None:
    """As while it runs, or after it was interrupted; once the others failed, it is."""
    folder = write_growing(tmp_path, 6, missing=("little/5", "none/5"))
    claims = [claim_of(contrast) for contrast in CLAIMS]

    def shown() -> tuple[str, list[float]]:
        study = read_study(folder)
        return reached_text(study), [claim_row(study, claim)["p_supported"] for claim in claims]

    at_first = pytest.approx([claim_row(growing(4), claim)["p_supported"] for claim in claims], rel=1e-3)
    assert shown() == ("look 1 of 3 (at 4 of at most 8 seeds), tested at 0.0026", at_first)
    ledger, trials = Ledger(tmp_path), read_study(folder).trials
    other = write_results(tmp_path, SWEEP.model_copy(update={"name": "other"}), ARMS, (99,), missing=("little/99",))
    (failed,) = read_study(other).trials.query("not done")["fingerprint"]
    ledger.record_failure(failed, "a trial of another sweep", 2, "failed", "bad luck")
    ledger.record_failure("another", "an encoder of another sweep", 2, "failed", "bad luck", blocks=[failed])
    one, other = trials["fingerprint"][~trials["done"]]
    assert shown()[0].startswith("look 1 of 3"), "none of two failed"
    ledger.record_failure(one, "a trial", 2, "failed", "bad luck")
    assert shown()[0].startswith("look 1 of 3"), "one of two failed"
    ledger.record_failure("encoder", "what the other waits for", 2, "failed", "bad luck", blocks=["decoder", other])
    text, p = shown()
    assert text.startswith("look 2 of 3 (at 6 of at most 8 seeds)") and p != at_first
    *_, summary = draw(tmp_path)
    again = "mm1-lab run own --scale mini --seeds 0,1,2,3,4,5,6,7 --until-decided --looks 4,6,8`"
    assert again in summary.read_text(encoding="utf-8")


def test_looks_are_fixed_by_the_first_run_and_must_make_sense(tmp_path: Path) -> None:
    manifest = growing(4).manifest
    folder = tmp_path / "mini" / "own"
    for looks in (LOOKS, (), LOOKS):
        merge_manifest(folder, manifest.model_copy(update={"looks": looks}), (), lambda _: True, lambda _: True)
        assert read_manifest(folder).looks == LOOKS
    with pytest.raises(RequestError, match="with --seeds 0,1,2,3,4,5,6,7 --until-decided --looks 4,6,8, or"):
        merge_manifest(folder, manifest.model_copy(update={"looks": (5, 10)}), (), lambda _: True, lambda _: True)
    assert looks_of(parse_looks(None), 10) == (4, 6, 8, 10)
    assert looks_of(parse_looks(None), 5) == (4, 5)
    assert looks_of(parse_looks(None), 3) == (3,)
    assert looks_of(parse_looks("2,5"), 5) == (2, 5)
    for text, seeds, message in (
        ("4,x", 10, "give increasing numbers of seeds"),
        ("6,4,10", 10, "give increasing numbers"),
        ("1,10", 10, "give increasing numbers"),
        (None, 1, "one seed decides nothing"),
        ("4,6", 10, "last look is after 6 seeds, but --seeds gives 10"),
    ):
        with pytest.raises(RequestError, match=message):
            looks_of(parse_looks(text), seeds)


def test_a_look_is_judged_on_its_own_seeds_whatever_the_folder_has(tmp_path: Path) -> None:
    folder = write_growing(tmp_path, 8)
    found = [open_arms(folder, range(look)) for look in LOOKS[:2]]
    assert found == [question_status(growing(look), ()) for look in LOOKS[:2]] and found[0] != found[1]
    study = read_study(folder).at_seeds((1, 6))
    assert study.seeds == [1, 6] and len(study.records) == 2 * len(ARMS)
    assert set(study.held_out["seed"]) == set(study.trials["seed"]) == {1, 6}


def test_a_loss_keeps_if_it_is_not_above_the_margin() -> None:
    rows = [("text", arm, seed, 2 + seed / 10 + 0.3 * (arm == "little") + seed**2 / 500 * (arm == "much"))
            for arm in ARMS for seed in range(6)]  # fmt: skip
    frame = pd.DataFrame(rows, columns=["source", "arm", "seed", "loss"]).assign(fingerprint="")
    study = replace(with_manifest(growing(6), looks=()), held_out=frame)
    said = {}
    for arm in ("much", "little"):
        contrast = Contrast(claim=arm, first=arm, second="base", measure="loss text", expect="keeps", margin=0.1)
        row = claim_row(study, claim_of(contrast))
        said[arm] = row["says"], row["expectation"]
    assert said == {"much": ("supported", "≤ 0.1"), "little": ("contradicted", "≤ 0.1")}
