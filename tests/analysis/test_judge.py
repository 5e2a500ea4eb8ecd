"""`mm1-lab judge`: verdicts on scores that were made elsewhere."""

import json
import math
import re
import shutil
import warnings
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.external.judge import ONCE
from analysis.external.shown import draw_judgement, judgement_text
from analysis.external.tables import make_scores
from analysis.seeds import seeds_needed
from mm1_lab import judge
from mm1_lab.cli import main
from mm1_lab.config import RequestError
from tests.conftest import REPOSITORY, Refused, Told

LOGS = Path(__file__).parent / "harness_logs"
"""Written by lmms-eval 0.7.3 and lm-evaluation-harness 0.4.13 for ten made-up questions, without what they say of the
machine."""


def table(arms: dict[str, Any], **columns: Any) -> pd.DataFrame:
    """A row per arm and seed."""
    rows = [{"arm": arm, "seed": seed, "score": float(s)} for arm, own in arms.items() for seed, s in enumerate(own)]
    return pd.DataFrame(rows).assign(**columns)


@pytest.mark.parametrize(
    ("new", "one_variance"), [([47.0, 53.0, 51.5], False), ([51.5, 53.5, 52.2], False), ([51.4, 51.5], True)]
)
def test_independent_runs_are_judged_by_the_larger_p_of_student_and_welch(new: list[float], one_variance: bool) -> None:
    """Whether few runs lie far apart, a little, or by luck close together."""
    base = np.array([50.0, 50.9, 49.1, 50.3, 50.6, 49.4, 50.8, 49.2])
    (claim,) = judge(table({"base": base, "new": new}).drop(columns="seed")).claims
    known = [stats.ttest_ind(new, base, equal_var=equal) for equal in (True, False)]
    larger = max(known, key=lambda test: test.pvalue)
    assert (larger is known[0]) == one_variance
    assert claim["p"] == pytest.approx(larger.pvalue) and claim["interval_over"] == "runs"
    assert (claim["low"], claim["high"]) == pytest.approx(tuple(larger.confidence_interval()))


def test_both_tests_of_independent_runs_must_say_that_margins_hold() -> None:
    base, new = np.array([50.0, 50.9, 49.1, 50.3, 50.6, 49.4, 50.8, 49.2]), np.array([49.9, 50.9, 50.2])
    frame = table({"base": base, "new": new}).drop(columns="seed")
    claims = [{"first": "new", "second": "base", "expect": "equivalent", "margin": 1.2}]
    (claim,) = judge(frame, claims).claims
    assert judge(frame, {"contrasts": claims}).claims == [claim], "as a file has them"
    p = []
    for equal in (True, False):
        for end, side in ((-1.2, "greater"), (1.2, "less")):
            p.append(stats.ttest_ind(new - end, base, equal_var=equal, alternative=side).pvalue)
    assert claim["p"] == pytest.approx(max(p)) and claim["p"] < 1


def test_variances_of_independent_runs_are_moderated_towards_the_other_arms() -> None:
    """By hand: the arms' one variance and the larger of their own are far above the others' and stay as they are."""
    arms = {"base": [50.0, 50.4], "new": [54.0, 59.0], "other": [40.0, 41.5, 40.5], "another": [60.0, 60.5, 59.0]}
    claim = judge(table(arms).drop(columns="seed")).claims[0]
    pool = (np.var(arms["other"]) + np.var(arms["another"])) * 3 / 4
    calm, wild = (np.var(arms[arm], ddof=1) for arm in ("base", "new"))
    parts = np.array([wild, calm / 5, 4 * pool / 5]) / 2  # of 1, 1, and 4 degrees of freedom
    freedom = parts.sum() ** 2 / (parts**2 / [1, 1, 4]).sum()
    ends = [np.sqrt((calm + wild) / 2) * stats.t.ppf(0.975, 2), np.sqrt(parts.sum()) * stats.t.ppf(0.975, freedom)]
    assert claim["high"] - claim["difference"] == pytest.approx(max(ends))


@pytest.mark.parametrize("column", ["run", "Run ID", "remark"])
def test_scores_of_a_run_belong_together_if_a_column_names_it(column: str) -> None:
    """Otherwise, behind a missing score, those of a benchmark were another run's than those of the next."""
    rows = [("a", 0, "x", 10), ("a", 0, "y", 20), ("a", 1, "x", 50), ("a", 2, "x", 12), ("a", 2, "y", 22)]
    rows += [("b", run, name, 30 + run) for name in "xy" for run in (2, 0, 1)]
    frame = pd.DataFrame(rows, columns=["arm", column, "benchmark", "score"])
    judged, is_named = judge(frame), column != "remark"
    assert judged.claims[0]["difference"] == pytest.approx(31 - (16 if is_named else (15 + 36) / 2))
    for values in ("all", range(len(frame))):  # which tell no runs apart
        unnamed = judge(frame.drop(columns=column).assign(run=values)).claims[0]["difference"]
        assert unnamed == pytest.approx(31 - (15 + 36) / 2)
    if is_named:
        apart = frame.assign(**{column: frame["arm"] + frame[column].astype(str)})
        assert judge(apart, looks=(2, 4)).claims == judge(frame, looks=(2, 4)).claims, "numbered within arms"
    (told,) = [note for note in judged.notes if "score" in note and "left out" not in note] or [""]
    assert told.startswith("Which scores of a are of one run is not told, and some are missing") == (not is_named)


def test_a_pair_that_varies_more_than_the_others_keeps_its_own_variance_sooner_than_in_the_lab() -> None:
    """The lab draws it towards the other arms', F being 1.05 with 2 and 4 degrees of freedom."""
    others = {"c": [50.0, 51, 49], "d": [50.0, 49, 51], "e": [50.0, 50, 50]}  # vary by 1 in a run
    arms = {"base": [50.0, 50, 50], "wide": [53.0, 54.45, 51.55]}
    claim = judge(table(arms | others)).claims[0]
    known = stats.ttest_rel(arms["wide"], arms["base"])
    assert (claim["low"], claim["high"]) == pytest.approx(tuple(known.confidence_interval()))


def test_an_average_is_over_benchmarks_not_over_questions() -> None:
    long = {"a": [10, 10, 10], "b": [20, 21, 22]}
    frames = [table(long, benchmark="long", question=question) for question in range(10)]
    frame = pd.concat([*frames, table({"a": [40] * 3, "b": [30] * 3}, benchmark="short", question=0)])
    frame = frame.reset_index(drop=True)
    claims = [{"first": "b", "second": "a", "measure": name} for name in ("average", "long", "short")]
    assert [claim["difference"] for claim in judge(frame, claims).claims] == pytest.approx([0.5, 11, -10])
    lacking = frame.drop(index=frame[(frame["arm"] == "b") & (frame["benchmark"] == "short")].index[:1])
    judgement = judge(lacking, claims[:1])
    assert judgement.claims[0]["difference"] == pytest.approx((11.5 - 10) / 2), "not seed 0"
    assert any("21 of 65 scores are left out" in note and ": b at seed 0." in note for note in judgement.notes)
    runs = judge(lacking.drop(columns="seed"), claims[:1])
    assert runs.claims[0]["difference"] == pytest.approx((20.5 - 10 - 10) / 2), "two runs of b, three of a"
    assert any(": a run of b." in note for note in runs.notes)
    seldom = frame.drop(index=frame[(frame["arm"] == "b") & (frame["benchmark"] == "short")].index[:2])
    assert judge(seldom, claims[:1]).claims[0]["difference"] == pytest.approx(11), "b has it in one run of three"
    rare = pd.concat([frame, table({"a": [90], "b": [10]}, benchmark="rare", question=0)])
    judgement = judge(rare, claims[:1])
    assert judgement.claims[0]["difference"] == pytest.approx(0.5), "of one seed in three"
    assert any("2 of 68 scores are left out" in note and ": rare." in note for note in judgement.notes)
    at_shots = rare.drop(columns="benchmark").assign(shots=rare["benchmark"].map({"long": 0, "short": 4, "rare": 8}))
    assert any(": 8-shot." in note for note in judge(at_shots).notes)


def test_columns_are_of_questions_or_of_runs_by_their_names_and_values() -> None:
    """Rows that all arms tell apart alike are no independent runs: of one model as many as it was asked questions."""
    frame = table({"a": range(20), "b": range(1, 21)}).rename(columns={"seed": "doc_id"})
    for name in ("doc_id", "subject", "Step", "metric", "train_seed"):
        with pytest.raises(RequestError, match=f"an arm's rows differ in '{name}', .* --columns seed={name} "):
            judge(frame.rename(columns={"doc_id": name}))
    for name in ("question", "Question", "Shots"):
        (claim,) = judge(frame.rename(columns={"doc_id": name})).claims
        assert claim["verdict"] == "not judged" and claim["reason"].startswith("one run of an arm")
    with pytest.raises(RequestError, match="differ in 'doc_id' and 'fold', by the same values"):
        judge(frame.assign(doc_id=frame["doc_id"] // 5, fold=frame["doc_id"] % 5))
    third = frame[frame["arm"] == "a"].assign(arm="c")
    few = frame[frame["doc_id"] < 3]
    for same in (frame.drop(index=frame.index[26:]), few, pd.concat([few, third[:1]])):
        with pytest.raises(RequestError, match="by the same values in every arm"):
            judge(same)
    for other in (pd.concat([frame, third.assign(doc_id=range(50, 70))]), frame.drop(index=frame.index[21:])):
        assert judge(other).claims[0]["seeds"], "not by the same values, or in no other arm"
    for name in ("run", "Run #", "trial_id", "repetition", "Unnamed: 0"):
        assert len(judge(frame.rename(columns={"doc_id": name})).notes) == 2, name
    assert judge(frame.assign(doc_id=[*range(20), *range(10, 30)])).claims[0]["seeds"] == 20, "half are shared"
    told = judge(frame.rename(columns={"doc_id": "gpu"}).assign(comment=None))
    assert told.claims[0]["seeds"] == 20 and "rows differ in 'gpu'" in told.notes[0]
    twice = judge(frame[frame["doc_id"] < 2].rename(columns={"doc_id": "memory_gb"}))
    assert twice.claims[0]["seeds"] == 2 and len(twice.notes) == 2


def test_looks_say_whether_to_go_on_and_how_many_seeds_a_look_to_come_needs() -> None:
    judgement = judge(table({"a": [0, 0], "b": [1, 1.1]}), looks=(3, 5))
    assert judgement.claims[0]["reason"] == "before the first look, at 3 seeds" and judgement.go_on
    frame = table({"a": [50, 52, 51, 53], "b": [55, 58, 54, 59]})
    alone, looked = (judge(frame, looks=looks).claims[0]["p"] for looks in ((4,), (4, 8)))
    assert alone < looked, "some of the error is left for later"
    assert not judge(table({"a": [0, 1, 0, 1], "b": [1, 0, 0, 1]}), looks=(3, 20)).go_on, "there is nothing to see"
    four = np.array([-1.5, -0.5, 0.5, 1.5]) / np.std([-1.5, -0.5, 0.5, 1.5], ddof=1) + 1.8
    judgement = judge(table({"a": np.zeros(4), "b": four}), looks=(4, 6, 8, 10))
    assert seeds_needed("greater", 0.0, 1.8, 1.0) <= 6, "at the whole level"
    assert judgement.claims[0]["seeds_needed"] == 8, "at that of a look"


@pytest.mark.soak
def test_whoever_goes_on_as_he_is_told_seldom_errs() -> None:
    """Of two equal arms, judged after each further seed; without looks a fifth of such loops end in a verdict."""
    chance = np.random.default_rng(0)
    wrong = 0
    for _ in range(1000):
        frame = table({arm: chance.normal(0, 1, 8) for arm in "ab"})
        for seeds in range(2, 9):
            judgement = judge(frame[frame["seed"] < seeds], looks=(4, 6, 8))
            if not judgement.go_on:
                break
        wrong += judgement.decided
    assert wrong / 1000 <= 0.055 + 2 * np.sqrt(0.05 * 0.95 / 1000)


def test_a_look_takes_seeds_in_ascending_order_however_the_table_is_sorted(tmp_path: Path) -> None:
    """Scores that rise with the seed, so that sorting by them, or by names, would choose other seeds for the look."""
    gains = [0.96, 0.83, 1.22, 0.95, 0.63]
    rising = {"a": [10.0 * seed for seed in range(5)], "b": [10.0 * seed + gain for seed, gain in enumerate(gains)]}
    frame = table(rising).assign(seed=lambda told: told["seed"] + 8)  # 8, 9, 10, 11, 12
    claims = [{"first": "b", "second": "a"}]
    known = judge(frame, claims, looks=[4, 6, 8])
    assert known.claims[0]["verdict"] == "supported"
    for sorted_by in (frame[::-1], frame.sort_values("seed", key=lambda seed: seed.astype(str))):
        assert judge(sorted_by, claims, looks=[4, 6, 8]).claims == known.claims
    named = frame.assign(seed="run " + frame["seed"].astype(str))
    for unnumbered in (named, frame.drop(columns="seed")):
        assert [note for note in judge(unnumbered, claims, looks=[4, 6, 8]).notes if "order of the rows" in note]
    assert not any("order of the rows" in note for note in known.notes)


def test_rows_that_were_pasted_twice_and_runs_that_are_left_out_are_told() -> None:
    once = table({"a": [50, 51], "b": [52, 53.5]}).drop(columns="seed")
    told = judge(pd.concat([once] * 3)).notes[0]
    assert told.startswith("All scores of a, b are there again in the same order: if rows were pasted twice, remove")
    lacking = pd.concat([once.assign(benchmark="x"), once[2:].assign(benchmark="y")])
    assert judge(pd.concat([lacking] * 3)).notes[0] == told, "though an arm lacks a benchmark"
    asked = pd.concat([once.assign(question=number, score=number % 2) for number in range(9)])
    asked.loc[asked["arm"] == "a", "score"] = np.arange(18) % 4 // 3  # runs of single questions, right or wrong
    assert not any("again" in note for note in judge(once).notes + judge(pd.concat([asked, asked])).notes)
    chance = np.random.default_rng(0)
    many = table({f"arm {arm}": chance.integers(2, size=4) for arm in range(60)}).drop(columns="seed")
    assert not any("there again" in note for note in make_scores(many, None).notes), "of many arms a few do by luck"
    assert any("there again" in note for note in make_scores(pd.concat([many, many]), None).notes)
    frame = table({"base": np.arange(12) % 5, "wide": [3, 5, 4], "deep": [2, 4, 5]})
    assert "Runs left out, as another arm has none at their seed: wide − base: 9, deep − base: 9." in judge(frame).notes
    claims = [{"first": "wide", "second": "deep"}]
    assert not any("left out" in note for note in judge(frame, claims).notes)


@pytest.mark.soak
@pytest.mark.parametrize(("runs", "values"), [(4, 2), (6, 10)])
def test_scores_of_few_values_are_hardly_ever_taken_for_copies(runs: int, values: int) -> None:
    chance = np.random.default_rng(0)
    told = 0
    for _ in range(5000):
        frame = table({arm: chance.integers(values, size=runs) for arm in "ab"}).drop(columns="seed")
        told += any("there again" in note for note in make_scores(frame, None).notes)
    assert told <= 0.002 * 5000


@pytest.mark.parametrize("paired", [True, False])
def test_later_seeds_change_no_look_before_them_which_is_told(paired: bool) -> None:
    rng = np.random.default_rng(3)
    arms = {arm: rng.normal(gain, 1, 6) for arm, gain in (("a", 0.0), ("b", 6.0), ("c", 0.0), ("d", 0.0))}
    frame = table(arms)
    first = frame["seed"] < 4
    tables = (frame[first], frame[first | frame["arm"].isin(["a", "b"])])
    judgements = [judge(one if paired else one.drop(columns="seed"), looks=(4, 8)) for one in tables]
    before, after = (judgement.claims[0] for judgement in judgements)
    assert all(before[name] == after[name] for name in ("p", "verdict", "open")) and before["p"] < 1
    told = ["p and verdict are of the look at 4 seeds" in judgement_text(judgement) for judgement in judgements]
    assert told == [False, True]


def test_groups_of_arms_are_judged_by_their_means() -> None:
    arms = {"base": [50.0, 52, 51], "wide": [56.0, 58, 56, 90], "deep": [54.0, 55, 56], "other": [50.0, 50, 51]}
    claims = [{"first": ["wide", "deep"], "second": "base"}]
    (groups,) = judge(table(arms), claims).claims
    means = (np.array(arms["wide"][:3]) + arms["deep"]) / 2
    known = stats.ttest_rel(means, arms["base"])
    assert groups["claim"] == "mean of wide, deep − base" and groups["seeds"] == 3
    assert (groups["low"], groups["high"]) == pytest.approx(tuple(known.confidence_interval()))

    independent = {"base": [50.0, 52, 51, 49], "wide": [56.0, 59], "deep": [54.0, 55, 56]}
    (claim,) = judge(table(independent).drop(columns="seed"), claims).claims
    counts, degrees = np.array([4, 2, 3]), np.array([3, 1, 2])
    own = np.array([1, 0.25, 0.25]) * [np.var(scores, ddof=1) for scores in independent.values()] / counts
    freedom = own.sum() ** 2 / (own**2 / degrees).sum()
    half_width = stats.t.ppf(0.975, freedom) * np.sqrt(own.sum())  # by one variance the interval is narrower
    assert claim["difference"] == pytest.approx((57.5 + 55) / 2 - 50.5) and claim["interval_over"] == "runs"
    assert claim["high"] - claim["difference"] == pytest.approx(half_width)


@pytest.mark.parametrize("gain", [0.7, 1.5, 2.0])
def test_so_many_independent_runs_as_are_said_to_be_needed_are_enough_and_not_too_many(gain: float) -> None:
    """Both tests must find it, in 80 % of 20,000 tables; of three runs an arm that vary by 1."""
    runs = np.array([-1.0, 0.0, 1.0])
    frame = table({"a": runs, "b": runs + gain}).drop(columns="seed")
    needed = int(judge(frame).claims[0]["seeds_needed"])
    chance = np.random.default_rng(0)

    def power(count: int) -> float:
        first, second = chance.normal(gain, 1, (20_000, count)), chance.normal(0, 1, (20_000, count))
        p = [stats.ttest_ind(first, second, axis=1, equal_var=equal).pvalue for equal in (True, False)]
        return float((np.maximum(*p) <= 0.05).mean())

    assert power(needed) > 0.78
    assert power(needed - 1) < 0.82


@pytest.mark.parametrize("scores", [{"a": [0, 2], "b": [4.5, 8.5]}, {"a": [0, 6, 12], "b": [17, 17.2, 17.4]}])
def test_an_undecided_claim_needs_more_independent_runs_than_it_has(scores: dict[str, list[float]]) -> None:
    """Though Welch's test has fewer degrees of freedom than the arms bring: of so many runs it decides 80 % of
    tables whose arms differ, and vary, as these do."""
    (claim,) = judge(table(scores).drop(columns="seed")).claims
    needed = int(claim["seeds_needed"])
    assert claim["verdict"] == "undecided" and needed > claim["seeds"]
    chance = np.random.default_rng(0)
    first, second = (chance.normal(np.mean(own), np.std(own, ddof=1), (5000, needed)) for own in scores.values())
    p = [stats.ttest_ind(first, second, axis=1, equal_var=equal).pvalue for equal in (True, False)]
    assert (np.maximum(*p) <= 0.05).mean() > 0.77


@pytest.mark.parametrize(("letter", "lines"), [("⌒", 0), ("\u0378", 1)])  # one that another font has, one that none has
def test_letters_that_the_font_lacks_are_another_s_or_told_in_a_line(
    letter: str, lines: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table({letter: [50, 51, 52], letter * 2: [60, 61, 62.5]}).to_csv(tmp_path / "scores.csv", index=False)
    with warnings.catch_warnings(action="error", category=UserWarning):
        assert main(["judge", str(tmp_path / "scores.csv"), "--figure", str(tmp_path / "plot.png")]) == 0
    told = capsys.readouterr().err
    assert told.count("\n") == told.count("/fontlist-*.json, so that it is listed") == lines


def test_scores_that_no_seed_changes_show_no_luck() -> None:
    one_model = {"base": [50.1] * 3, "wide": [50.2] * 3}
    rounded = {"base": [50, 52, 51], "wide": [60, 62, 61]}
    for arms, reason in (
        (one_model, "the seeds change nothing, as if one model had been scored several times"),
        (rounded, "the difference is the same at every seed, so nothing tells how far seeds lie apart"),
    ):
        judgement = judge(table(arms))
        (claim,) = judgement.claims
        assert (claim["verdict"], claim["seeds_needed"], claim["reason"]) == ("not judged", None, reason)
        assert claim["low"] is claim["high"] is None and not claim["interval_over"]
        assert "may be luck" not in judgement_text(judgement)
    small = {"base": [3e-9, 3.5e-9, 4e-9], "wide": [9e-9, 9.6e-9, 9.9e-9]}
    assert judge(table(small)).claims[0]["verdict"] == "supported", "small scores differ as large ones do"


@pytest.mark.parametrize("paired", [True, False])
def test_a_look_at_equal_differences_decides_nothing(paired: bool) -> None:
    """Three seeds by chance alike, as with few questions, are no p of 0."""
    frame = table({"base": [50, 50, 50, 53, 50, 51], "wide": [51, 51, 51, 40, 45, 44]})
    frame = frame if paired else frame.drop(columns="seed")
    (claim,) = judge(frame[frame["seed"] < 4] if paired else frame.groupby("arm").head(4), looks=(3, 6)).claims
    assert claim["verdict"] == "not judged" and "up to the look change nothing" in claim["reason"] and claim["open"]
    (claim,) = judge(frame, looks=(3, 6)).claims
    assert claim["verdict"] == "undecided" and claim["difference"] < 0


def test_luck_is_told_where_each_run_lacks_a_question() -> None:
    """By those that all runs of a seed have."""
    rows = [{"arm": arm, "seed": seed, "benchmark": "vqa", "question": question, "score": (7 * question + number) % 11}
            for number, (arm, seed) in enumerate(product("abc", range(3))) for question in range(10)]  # fmt: skip
    full = pd.DataFrame(rows)
    lost = 3 * full["arm"].map("abc".index) + 2 * full["seed"]
    shared = full[~full.groupby("seed")["question"].transform(lambda own: own.isin(lost[own.index]))]
    told = judge(full[full["question"] != lost]).spread
    assert told == judge(shared).spread != judge(full).spread and told is not None


def test_seeds_needed_are_by_the_spread_of_what_is_claimed() -> None:
    scores = {"calm": {"a": [50, 50.1, 49.9], "b": [51]}, "wild": {"a": [50, 60, 40], "b": [56]}}
    frame = pd.concat([table(arms, benchmark=name) for name, arms in scores.items()]).drop(columns="seed")
    claims = [{"first": "b", "second": "a", "measure": name} for name in scores]
    calm, wild = (claim["seeds_needed"] for claim in judge(frame, claims).claims)
    assert calm < 5 and wild > 30


def test_one_run_of_each_arm_is_compared_over_questions_each_of_which_counts_once() -> None:
    """With or without a seed; three times the same answers, at several numbers of shots, say no more than once, and a
    further run that lacks questions takes none from the others."""
    frame = table({arm: np.random.default_rng(place).normal(50, 10, 40) for place, arm in enumerate("ab")})
    frame = frame.rename(columns={"seed": "question"})
    thrice = pd.concat([frame.assign(benchmark="vqa", seed=0, shots=shots) for shots in (0, 4, 8)])
    once, *others = (judge(one).claims[0] for one in (frame, frame.assign(seed=0), thrice))
    assert once["interval_over"] == "questions" and once["verdict"] == "not judged"
    for other, name in product(others, ("difference", "low", "high", "interval_over")):
        assert other[name] == (once[name] if name == "interval_over" else pytest.approx(once[name])), name
    two = pd.concat([frame.assign(benchmark=name) for name in ("vqa", "gqa")])
    further = judge(pd.concat([two, frame.tail(1).assign(benchmark="gqa")]))
    assert further.claims == judge(two).claims


def test_a_difference_of_measures_of_a_table_is_a_measure(tmp_path: Path) -> None:
    """Of benchmarks, averages and shots; one that is called so comes first."""
    generator = np.random.default_rng(4)
    cells = list(product(("vqa", "gqa"), ("0", "4")))
    scores = {cell: generator.normal(50, 5, (2, 5)) for cell in cells}
    frame = pd.concat(table({"a": own[0], "b": own[1]}, benchmark=b, shots=shots) for (b, shots), own in scores.items())

    def found(frame: pd.DataFrame, *measures: str) -> list[dict[str, Any]]:
        return judge(frame, [{"first": "b", "second": "a", "measure": measure} for measure in measures]).claims

    gain = {name: scores[name, "4"] - scores[name, "0"] for name in ("vqa", "gqa")}
    average = np.mean(list(scores.values()), axis=0)
    expected = {
        "vqa 4-shot - vqa 0-shot": gain["vqa"],
        "4-shot − 0-shot": (gain["vqa"] + gain["gqa"]) / 2,
        "vqa - gqa 4-shot": (scores["vqa", "0"] + scores["vqa", "4"]) / 2 - scores["gqa", "4"],
        "average - vqa 0-shot": average - scores["vqa", "0"],
    }
    for claim, (measure, (of_a, of_b)) in zip(found(frame, *expected), expected.items(), strict=True):
        known = stats.ttest_rel(of_b, of_a)
        assert claim["measure"] == measure and (claim["seeds"], claim["interval_over"]) == (5, "seeds")
        assert (claim["low"], claim["high"]) == pytest.approx(tuple(known.confidence_interval()))
    (unpaired,) = found(frame.drop(columns="seed"), "vqa 4-shot - vqa 0-shot")
    assert unpaired["difference"] == pytest.approx(np.subtract(*gain["vqa"][::-1].mean(axis=1)))
    lacking = frame[(frame["seed"] < 4) | (frame["arm"] == "a") | (frame["benchmark"] == "vqa")]
    (four,) = found(lacking, "vqa 4-shot - average")
    assert four["seeds"] == 4, "a run that lacks a benchmark does not count"
    nothing = frame[(frame["arm"] == "a") | (frame["benchmark"] == "vqa")]
    assert found(nothing, "vqa 4-shot - gqa 4-shot")[0]["reason"] == "no question in common"
    uneven = frame[(frame["arm"] == "a") | (frame["benchmark"] == "vqa") | (frame["shots"] == "0")]
    for lost, measure in ((uneven, "4-shot - 0-shot"), (nothing, "vqa - average")):
        assert "leaves other benchmarks on one side" in found(lost, measure)[0]["reason"], "arms may differ by these"
    kept = found(nothing, "4-shot - 0-shot")[0]["difference"]
    assert kept == found(frame, "vqa 4-shot - vqa 0-shot")[0]["difference"]

    first, second = (generator.normal(50, 10, (2, 40)) for _ in range(2))
    questions = []
    for name, own in (("vqa", first), ("gqa", second)):
        own_rows = table(dict(zip("ab", own, strict=True)), benchmark=name).rename(columns={"seed": "question"})
        questions.append(own_rows.assign(seed=0))
    (one,) = found(pd.concat(questions), "vqa - gqa")
    of_b, of_a = (np.array([first[arm], second[arm]]) for arm in (1, 0))
    errors = (of_b - of_a).std(axis=1, ddof=1) / math.sqrt(40)
    assert one["interval_over"] == "questions"
    assert one["difference"] == pytest.approx(np.subtract(*(of_b - of_a).mean(axis=1)))
    assert (one["high"] - one["low"]) / 2 == pytest.approx(1.99 * math.hypot(*errors), rel=0.01)

    named = pd.concat([frame, frame[frame["benchmark"] == "vqa"].assign(benchmark="vqa - gqa", score=1.0)])
    assert found(named, "vqa - gqa")[0]["difference"] == 0
    for measure, said in {
        "vqa - gqaa": r"the table has no 'gqaa'; did you mean 'gqa'\?",
        "- vqa": "the table has no '- vqa'",
        "vqa 4-shot - vqa 4-shot": "subtracts the same scores; name another measure",
    }.items():
        with pytest.raises(RequestError, match=said):
            found(frame, measure)


def test_without_a_seed_or_a_question_in_common_nothing_is_judged(tmp_path: Path) -> None:
    seeds = pd.concat([table({"a": [1, 2]}), table({"b": [3, 4]}).assign(seed=[7, 8])])
    benchmarks = pd.concat([table({"a": [1, 2]}, benchmark="x"), table({"b": [3, 4]}, benchmark="y")])
    for frame, reason in ((seeds, "no seed in common"), (benchmarks, "no question in common")):
        (claim,) = (judgement := judge(frame)).claims
        assert claim["verdict"] == "not judged" and claim["reason"].startswith(reason)
        assert not re.search("Judged once|Runs left out", " ".join(judgement.notes)), "the reason says it"
        with pytest.raises(RequestError, match="--figure: no claim has a difference to draw"):
            draw_judgement(judgement, tmp_path / "plot.png")


def test_a_seed_that_one_arm_alone_has_takes_nothing_from_the_others() -> None:
    """It may lack one of their benchmarks, or have one that no other seed has."""
    scores = {"a": [50, 50.5, 49.8], "b": [55, 55.9, 54.9]}
    shared = [table(scores, benchmark=name) for name in ("vqa", "gqa")]
    for arm, benchmarks in (("a", ["vqa"]), ("b", ["vqa", "gqa", "coco"]), ("c", ["vqa", "gqa", "coco"])):
        later = [table({arm: [90]}, benchmark=name).assign(seed=5) for name in benchmarks]
        (claim,) = judge(pd.concat([*shared, *later]), [{"first": "b", "second": "a"}]).claims
        assert (claim["seeds"], claim["verdict"]) == (3, "supported"), arm
        assert claim["difference"] == pytest.approx(np.mean(scores["b"]) - np.mean(scores["a"])), arm


def test_logs_of_harnesses() -> None:
    """Two models, asked the same questions: one seed, so the interval is over questions."""
    judgement = judge(LOGS, [{"first": "large", "second": "small", "measure": "ten_choices"}])
    (claim,) = judgement.claims
    assert "stderr" not in str(judgement.notes), "which is no score"
    assert claim["difference"] == pytest.approx(-40) and claim["interval_over"] == "questions"
    assert claim["verdict"] == "not judged" and claim["low"] < -40 < claim["high"] and claim["seeds"] == 1


@pytest.fixture
def told() -> dict[str, Any]:
    """What lm-evaluation-harness writes of a run."""
    (path,) = (LOGS / "large" / "dummy").glob("results_*.json")
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return values


def write_results(folder: Path, told: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results_2026-01-01.json").write_text(json.dumps(told))


def test_logs_without_questions_are_judged_by_their_metric_at_all_shots(tmp_path: Path, told: dict[str, Any]) -> None:
    for (arm, score), shots, seed in product((("base", 0.3), ("better", 0.6)), (0, 5), (3, 4)):
        told["n-shot"]["ten_choices"] = shots
        told["results"]["ten_choices"]["acc,none"] = score + shots / 100 * (arm == "better")
        write_results(tmp_path / arm / f"seed-{seed}" / f"shots {shots}", told)
    measures = ("average", "5-shot", "ten_choices 0-shot")
    claims = [{"first": "better", "second": "base", "measure": measure} for measure in measures]
    found = judge(tmp_path, claims).claims
    assert [(claim["difference"], claim["seeds"]) for claim in found] == [(pytest.approx(x), 2) for x in (32.5, 35, 30)]
    write_results(tmp_path / "another", told)
    with pytest.raises(RequestError, match="another: logs without a folder of their seed"):
        judge(tmp_path, claims)


def test_the_tasks_of_a_group_with_a_mean_are_one_benchmark(tmp_path: Path, told: dict[str, Any]) -> None:
    """As MMLU's 57 subjects, which would decide the average; a list of benchmarks is none. A file may have any name."""
    subjects = [f"mmlu_{number}" for number in range(6)]
    told["group_subtasks"] = {"all": ["mmlu", "arc"], "mmlu": ["mmlu_stem"], "mmlu_stem": subjects, "arc": []}
    for arm, subject, arc in (("base", 0.50, 0.30), ("better", 0.48, 0.60)):
        told["groups"] = {name: {"acc,none": subject + 0.2} for name in ("mmlu", "mmlu_stem")}
        scored = {name: {"acc,none": subject} for name in subjects} | {"arc": {"acc,none": arc}} | told["groups"]
        (tmp_path / arm).mkdir()
        (tmp_path / arm / f"{arm}_2026-01-01.json").write_text(json.dumps(told | {"results": scored}))
        (tmp_path / arm / "other.json").write_text("[1]")
    (tmp_path / "unfinished").mkdir()
    claims = [{"first": "better", "second": "base", "measure": measure} for measure in ("average", "mmlu", "arc")]
    judgement = judge(tmp_path, claims)
    assert [claim["difference"] for claim in judgement.claims] == pytest.approx([14, -2, 30])
    assert "Metrics: acc (arc, mmlu)." in judgement.notes
    assert "Without results of a harness: unfinished." in judgement.notes


@pytest.mark.parametrize("by_size", [True, False])
def test_a_group_has_the_mean_that_its_harness_reports(by_size: bool, tmp_path: Path, told: dict[str, Any]) -> None:
    """Over questions, as MMLU's, or over tasks, as BLiMP's; with and without the questions' log."""
    told["group_subtasks"] = {"both": ["long", "short"]}
    right = {"base": {"long": 45, "short": 8}, "better": {"long": 54, "short": 4}}
    sizes = {"long": 90, "short": 10}
    expected = {}
    for arm, of_arm in right.items():
        means = {task: of_arm[task] / size for task, size in sizes.items()}
        expected[arm] = sum(of_arm.values()) / 100 if by_size else sum(means.values()) / 2
        groups = {"both": {"acc,none": expected[arm], "acc_stderr,none": 0.05}}
        scored = {task: {"acc,none": mean} for task, mean in means.items()} | groups
        for folder in (tmp_path / "with" / arm, tmp_path / "without" / arm):
            write_results(folder, told | {"results": scored, "groups": groups})
        for task, size in sizes.items():
            lines = [json.dumps({"doc_id": number, "acc": float(number < of_arm[task])}) for number in range(size)]
            (tmp_path / "with" / arm / f"samples_{task}_2026-01-01.jsonl").write_text("\n".join(lines))
    for folder in ("with", "without"):
        (claim,) = judge(tmp_path / folder, [{"first": "better", "second": "base", "measure": "both"}]).claims
        assert claim["difference"] == pytest.approx(100 * (expected["better"] - expected["base"])), folder
        assert (claim["low"] is None) == (folder == "without" or not by_size), "over the questions of both"


def test_a_group_with_tasks_without_questions_is_the_mean_of_its_tasks(tmp_path: Path, told: dict[str, Any]) -> None:
    told["group_subtasks"] = {"both": ["ten_choices", "other"]}
    for arm, first in (("base", 0.5), ("better", 0.6)):
        # one file names the group
        groups = {"both": {"acc,none": 0.5}} if arm == "base" else {}
        scored = {"ten_choices": {"acc,none": first}, "other": {"acc,none": 0.3}} | groups
        write_results(tmp_path / arm, told | {"results": scored, "groups": groups})
        correct = [{"doc_id": number, "acc": float(number < 10 * first)} for number in range(10)]
        lines = "\n".join(map(json.dumps, correct))
        (tmp_path / arm / "samples_ten_choices_2026-01-01.jsonl").write_text(lines, encoding="utf-8")
    claims = [{"first": "better", "second": "base", "measure": "both"}]
    assert judge(tmp_path, claims).claims[0]["difference"] == pytest.approx(5)


def test_a_cider_is_in_percent_and_an_average_over_unlike_sizes_is_told(tmp_path: Path, told: dict[str, Any]) -> None:
    for best in (0.99, 1.02):
        for arm, cider, size in (("base", 0.95, 1500), ("better", best, 1600)):
            scored = {"coco": {"coco_CIDEr,none": cider}, "mme": {"score,none": size}}
            write_results(tmp_path / str(best) / arm, told | {"results": scored})
        claims = [{"first": "better", "second": "base", "measure": measure} for measure in ("coco", "average")]
        judgement = judge(tmp_path / str(best), claims)
        assert judgement.claims[0]["difference"] == pytest.approx(100 * best - 95)
        assert "Fractions are shown in percent, but for mme." in judgement.notes
    assert not any("unlike sizes" in note for note in judgement.notes), "1,550 is 16 times 98"
    frame = pd.concat([table({"a": [80, 81], "b": [70, 69]}, benchmark="mmb"),
                       table({"a": [2.3, 2.2], "b": [2.5, 2.6]}, benchmark="loss")])  # fmt: skip
    assert any("unlike sizes (mmb 75, loss 2.4)" in note for note in judge(frame).notes)
    assert not judge(frame, [{"first": "a", "second": "b", "measure": "mmb"}], looks=[2]).notes


@pytest.mark.parametrize("is_told", [True, False])
def test_logs_in_which_less_is_better(is_told: bool, tmp_path: Path, told: dict[str, Any]) -> None:
    """lm-evaluation-harness says of each metric whether more is better, or it is known by name; one of which it is not
    tells no gain."""
    del told["higher_is_better"]
    if is_told:
        told["higher_is_better"] = {"lambada": {"difficulty": False}, "wikitext": {"word_difficulty": False}}
    what = "difficulty" if is_told else "perplexity"
    told["groups"] = {"all_text": {"acc,none": 0.5}}
    for arm, perplexity, accuracy in (("base", 9.0, 0.3), ("better", 4.0, 0.6)):
        wikitext = {"wikitext": {f"word_{what},none": perplexity, "bits_per_byte,none": perplexity / 10}}
        lambada = {"lambada": {f"{what},none": perplexity, "acc,none": accuracy}}
        write_results(tmp_path / "logs" / arm, told | {"results": lambada | wikitext | told["groups"]})
        write_results(tmp_path / "without" / arm, told | {"results": wikitext})
    judgement = judge(tmp_path / "logs", [{"first": "better", "second": "base"}])
    assert judgement.claims[0]["difference"] == pytest.approx(30), "neither a perplexity nor a group is in the average"
    assert "Left out, without a score in all runs of which more is better: wikitext." in judgement.notes
    with pytest.raises(RequestError, match="no task has a score in its results of which more is better, under"):
        judge(tmp_path / "without")


def test_a_task_has_one_metric_in_all_logs(tmp_path: Path, told: dict[str, Any]) -> None:
    """Which one is listed first, rounded or not a number in one of the runs alone decides nothing."""
    metrics = {"acc,none": (0.5, 0.4), "acc_norm,none": (0.2, 0.6)}
    for arm, place in (("base", 0), ("better", 1)):
        listed = metrics if arm == "base" else dict(reversed(metrics.items()))
        task = {name: values[place] for name, values in listed.items()}
        results = {"order": task, "nan": task | {"acc,none": (float("nan"), 0.4)[place]}, "alone": {f"{arm},none": 0.5}}
        write_results(tmp_path / arm, told | {"results": results})
    claims = [{"first": "better", "second": "base", "measure": measure} for measure in ("order", "nan")]
    judgement = judge(tmp_path, claims)
    assert [claim["difference"] for claim in judgement.claims] == pytest.approx([-10, 40])
    assert judgement.notes[0] == "Metrics: acc (order); acc_norm (nan)."
    assert judgement.notes[1] == "Also reported, not counted: acc_norm (order); to judge by one, give a table of it."
    assert "Left out, without a score in all runs of which more is better: alone." in judgement.notes


def test_logs_of_which_one_run_has_broken_questions_or_lacks_them(tmp_path: Path) -> None:
    """A broken line is told by its file and number; runs without questions are compared by what they report."""
    shutil.copytree(LOGS, tmp_path / "logs")
    (samples,) = (tmp_path / "logs" / "large").rglob("samples_*.jsonl")
    lines = samples.read_text(encoding="utf-8").splitlines()
    for line, told in (("{", "line 3 cannot be read"), ("[1]", "line 3 is no question with")):
        samples.write_text("\n".join([*lines[:2], line, *lines[3:]]), encoding="utf-8")
        with pytest.raises(RequestError, match=f"{re.escape(samples.name)}: {told}"):
            judge(tmp_path / "logs")
    samples.unlink()
    (claim,) = (judgement := judge(tmp_path / "logs")).claims
    assert claim["difference"] is not None and "question" not in claim["interval_over"]
    assert any(note.startswith("Without scores by question in all runs: ten_choices") for note in judgement.notes)


def test_rows_of_a_figure_name_their_measures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = [table({"a": [50, 51, 52], "b": [54, 54, 56]}, benchmark=name) for name in ("vqa", "gqa")]
    drawn = []
    monkeypatch.setattr("analysis.style.png", lambda figure: drawn.append(figure) or b"")
    claims = [{"first": "b", "second": "a", "measure": measure} for measure in ("vqa", "average")]
    for chosen in (claims, claims[1:]):
        draw_judgement(judge(pd.concat(frames), chosen), tmp_path / "plot.png")
    labels = [[label.get_text() for label in figure.axes[0].get_yticklabels()] for figure in drawn]
    assert labels == [["b − a, vqa", "b − a, average"], ["b − a"]]


WRONG = [
    ("missing.csv", None, "there is no such file"),
    ("scores.xlsx", b"PK", "is no table"),
    ("bytes.csv", bytes(range(128, 256)), "is not in UTF-8; save it as such"),
    ("scores.json", b"{", "cannot be read as a table"),
    ("scores.jsonl", b'{"arm": "a", "score": 1}\n[1]\n', "cannot be read as a table (must be an object, {…}: line 2"),
    ("deep.json", b"[" * 100_000, "cannot be read as a table ("),
    ("number.json", b"3", "cannot be read as a table (must be a list of objects, a row each)"),
    ("logs/a_results.json", b"{", "a_results.json: cannot be read (Expecting property name"),
    ("Lines.JSONL", b'{"arm": "a", "score": 1}\n\n{"arm": "b", "score": "x"}\n', "the score of row 3 is 'x'"),
    ("cut.jsonl", b'{"arm": "a", "score": 1}\n{"arm', "as a table (Unterminated string starting at: line 2 column 2)"),
    ("scores.parquet", b"no parquet", "cannot be read as a table"),
    ("empty.csv", b"", "cannot be read as a table"),
    ("arm.csv", b"score\n1\n", "has no column 'arm'"),
    ("score.csv", b"arm,points\na,1\nb,2\n", "has no column 'score' (it has arm, points); name it with --columns"),
    ("text.csv", b"arm,score\na,1\nb,50.1 %\n", "row 3 is '50.1 %', not a number such as 50.1 (with a point, no perce"),
    ("blank.csv", b"\n,\narm,score\n\na,1\n,\nb,\n", "the score of row 7 is '', not a number"),
    ("infinity.csv", b"arm,score\na,inf\nb,1\n", "the score of row 2 is 'inf'"),
    ("overflow.csv", b"arm,score\na,1\nb,-1e308\n", "the score of row 3 is '-1e308'"),
    ("one.csv", b"arm,score\na,1\na,2\n", "has one arm, 'a'"),
    ("unnamed.csv", b"arm,score\na,1\n,2\n", "row 3 has no arm"),
    ("spelt.csv", b"arm,seed,score\na,0,1\na,0.0,2\nb,0,1\n", "row 3 is a second score of arm a, seed 0; leave one"),
    ("noseed.csv", b"arm,seed,score\na,0,1\nb,,2\n", "row 3 has no seed"),
    ("shots.csv", b"arm,shots,score\na,few,1\nb,0,2\n", "the shots of row 2 are 'few'"),
    ("crashed.csv", b"arm,score,status\na,1,crash\nb,2,failed\n", "by its column of status none of a finished run"),
    ("twice.csv", b"arm,score,score \na,1,2\nb,2,3\n", "the column 'score' is there twice"),
    ("wide.csv", b"dataset,small,large\nvqa,1,2\n", "of a column per benchmark, name each: --columns score=FIRST,scor"),
    ("shifted.csv", b"arm,seed,score\na,0,1,9\nb,0,2,9\n", "a row has more cells than the header"),
]


@pytest.mark.parametrize(("name", "content", "told"), WRONG, ids=[name for name, *_ in WRONG])
def test_a_wrong_table(name: str, content: bytes | None, told: str, tmp_path: Path, refused: Refused) -> None:
    path = tmp_path / name
    if content is not None:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    assert told in refused("judge", str(path if path.parent == tmp_path else path.parent))


def test_a_wrong_frame_and_wrong_looks_of_a_call() -> None:
    nullable = pd.DataFrame({"arm": ["a", "b"], "seed": pd.array([0, None], dtype="Int64"), "score": [1.0, 2.0]})
    with pytest.raises(RequestError, match="row 2 has no seed"):
        judge(nullable)
    twice = pd.DataFrame([["a", 1, 2], ["b", 3, 4]], columns=["arm", "score", "score"])
    with pytest.raises(RequestError, match="has the column 'score' twice"):
        judge(twice)
    plain = table({"a": [1, 2], "b": [2, 4]})
    with pytest.raises(RequestError, match="its columns have 2 levels"):
        judge(pd.concat({"one": plain}, axis=1))
    with pytest.raises(RequestError, match=r"columns: must be a mapping such as .* \(it is 'arm=arm'\)"):
        judge(plain, columns="arm=arm")  # type: ignore[arg-type]
    for scores in (pd.date_range("2020", periods=4), pd.to_timedelta(range(4), "s")):
        with pytest.raises(RequestError, match=r"the score of row 1 is '.*', not a number"):
            judge(plain.assign(score=scores))
    wrong: list[Any] = [[2.5, 3], ["2", "3"], [3, 2], [1, 2], 3]
    for looks in wrong:
        with pytest.raises(RequestError, match=r"give .* of seeds"):
            judge(plain, looks=looks)


ONE = "contrasts: [{first: a, second: b}]"


def test_a_claim_and_the_same_the_other_way_round_are_tested_once() -> None:
    scores = table({"base": [50, 52, 51, 53], "wide": [55, 58, 54, 59], "deep": [51, 51, 52, 54]})
    same = {"first": "deep", "second": "base", "expect": "equivalent", "margin": 3}
    claims = [{"first": "wide", "second": "base"}, same]
    turned = [{"first": "base", "second": "wide", "expect": "less"}, same | {"first": "base", "second": "deep"}]
    once = [claim["p"] for claim in judge(scores, claims).claims]
    for again in (turned, claims):
        assert [claim["p"] for claim in judge(scores, [*claims, *again]).claims] == pytest.approx(2 * once)
    other = {"first": "base", "second": "wide"}
    assert judge(scores, [*claims, other]).claims[0]["p"] == pytest.approx(1.5 * once[0]), "another claim"


@pytest.mark.parametrize(
    ("claims", "words", "told"),
    [
        ("contrasts: []", [], "must hold a list of `contrasts`"),
        ("contrasts: [a]", [], "contrast 1: must hold keys and values"),
        ("contrasts: [{first: a, second: c}]", [], "the table has no arm 'c'"),
        ("contrasts: [{first: a, second: 0.5}]", [], "the table has no arm '0.5'"),
        ("contrasts: [{first: no, second: b}]", [], "put dates, yes and no in quotes (it is False)"),
        ("contrasts: [{first: [a], second: b}]", [], "first: must be the name of an arm, or a list of two or more"),
        ("contrasts: [{first: [a, b], second: [b, a]}]", [], "both sides are the same"),
        ("contrasts: [{first: [a, a], second: b}]", [], "contrast 1: first: names an arm twice"),
        ("contrasts: [{first: a, second: b, measure: 4-shot}]", [], "the table has no '4-shot'"),
        (ONE, ["--lower-is-better"], "say `expect: less`"),
        (ONE, ["--columns", "arm"], "--columns"),
        (ONE, ["--columns", "arms=x"], "--columns: there is no 'arms'; did you mean 'arm'?"),
        (ONE, ["--columns", "seed=x"], "has no column 'x'"),
        (ONE, ["--columns", "arm=arm,seed=arm"], "--columns: 'arm' cannot be both arm and seed"),
        (ONE, ["--columns", "arm=arm,arm=x"], "--columns: 'arm' is named twice"),
        (ONE, ["--columns", "score=score,score=score"], "'score' and 'score' are the same benchmark and shots"),
        (ONE, ["--columns", "score=score,score=arm,arm=arm"], "--columns: 'arm' is named twice"),
        (ONE, ["--columns", "score=score,score=scor"], "has no column 'scor'; did you mean 'score'?"),
        (ONE, ["--columns", "score=x, in %,arm=arm"], "has no column 'x, in %'"),
        (ONE, ["--looks", "4,x"], "--looks"),
        (ONE, ["--figure", "plot.doc"], "--figure"),
    ],
)
def test_a_wrong_claim_or_option(claims: str, words: list[str], told: str, tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "scores.csv").write_text("arm,score\na,1\nb,2\n")
    (tmp_path / "claims.yaml").write_text(claims, encoding="utf-8")
    assert told in refused("judge", str(tmp_path / "scores.csv"), str(tmp_path / "claims.yaml"), *words)


def test_a_table_and_its_claims_are_not_taken_for_another(here: Path, refused: Refused) -> None:
    table({"a": [1], "b": [2]}).to_csv("scores.csv", index=False)
    assert "name the table in it: scores.csv" in refused("judge", ".")
    assert "scores.csv: is a table or logs, where a YAML file" in refused("judge", "scores.csv", "scores.csv")


def test_empty_rows_are_skipped_and_lines_of_json_may_hold_separators_of_unicode(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    path.write_text("arm,seed,score\na,0,50\n\na,1,51\n,,\nb,0,53\nb,1,55\n,,\n , ,\n")
    assert judge(path).claims[0]["difference"] == 3.5
    path = tmp_path / "scores.jsonl"
    rows = [{"arm": arm, "question": "one\u2028two\x85", "score": 1.0} for arm in "ab"]
    path.write_text("\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8", newline="")
    assert judge(path).claims[0]["difference"] == 0


def test_rows_are_left_out_by_the_first_word_of_their_status_and_others_are_told(tmp_path: Path) -> None:
    lines = ["commit\tval_bpb\tStatus\tdescription", *(f"base\t0.99{run}\tkeep\t-" for run in range(3))]
    words = ("crash: OOM", "NaN loss", "OOMKilled", "CANCELLED by 12", "failed after 3 min")
    lines += [f"wide\t0.000000\t{word}\t-" for word in words]
    lines += ['wide\t0.95\tdiscard\t"tanh', 'deep\t0.94\tkeep\tas before"', "last\t0.97\tkeep\t-"]
    (tmp_path / "results.tsv").write_text("\n".join(lines), encoding="utf-8")
    judgement = judge(tmp_path / "results.tsv", columns={"arm": "commit", "score": "val_bpb"}, lower_is_better=True)
    found = {claim["first"]: claim["difference"] for claim in judgement.claims}
    assert found == pytest.approx({"wide": -0.041, "deep": -0.051, "last": -0.021}), "a quote swallows no rows"
    assert judgement.notes[0].startswith("Left out 5 of 11 rows by their status (")
    assert judgement.notes[1] == "Rows that count have the status discard, keep."
    (tmp_path / "open.tsv").write_text("\n".join([*lines, 'far\t0.9\tkeep\t"so']), encoding="utf-8")
    opened = judge(tmp_path / "open.tsv", columns={"arm": "commit", "score": "val_bpb"}, lower_is_better=True)
    assert len(opened.claims) == 4, "nor one that is never closed"
    quoted = ""
    for arm, score in (("a", 1), ("b", 3)):
        quoted += "".join(f'"{arm}"\t"{seed}"\t{score + seed}\t"a\ttab"\n' for seed in (0, 1))
    (tmp_path / "r.tsv").write_text('"arm"\t"seed"\t"score"\t"remark"\n' + quoted, encoding="utf-8")
    assert judge(tmp_path / "r.tsv").claims[0]["seeds"] == 2, "as R writes it"
    (tmp_path / "r.tsv").write_text('"arm"\t"score"\t"remark"\n"a"\t1\ton a 5" disk\n"b"\t2\t""\n', encoding="utf-8")
    assert judge(tmp_path / "r.tsv").claims[0]["second"] == "a", "with a sign for inches in a remark"
    (tmp_path / "x.tsv").write_text('arm\tscore\n"a, b"\t1\nc\t2\n', encoding="utf-8")
    assert judge(tmp_path / "x.tsv").claims[0]["second"] == "a, b", "as spreadsheets write commas"


@pytest.mark.parametrize(
    ("status", "counts"),
    [("0 failed", True), ("1 failed, 12 passed", True), ("", True), (None, True), ("keep: failed before", True),
     ("Failure of a node", False), ("out of memory: killed", False),
     ("Timed out after 3h", False), ("node_fail", False), ("PRUNED", False)],
)  # fmt: skip
def test_which_statuses_count(status: str | None, counts: bool) -> None:
    """Of a row without one too, as tables have where only crashed runs say something."""
    frame = table({"a": [1.0, 2.0, 3.0], "b": [2.0, 3.0, 5.0]}).astype({"score": float})
    frame["status"] = [None, status, None, "crashed", None, None]
    assert judge(frame).claims[0]["seeds"] == (2 if counts else 1), "a seed less, beside that of the crash"


def test_columns_are_found_by_their_names(tmp_path: Path) -> None:
    """In capitals, with commas; those of other tools that would change what is compared are named."""
    path = tmp_path / "scores.csv"
    rows = [f"{arm};{seed};{score + seed};vqa\n" for arm, score in (("a", 1), ("b", 3)) for seed in range(3)]
    path.write_text('Arm;Seed;"score, in %";task\n' + "".join(rows), encoding="utf-8")
    judgement = judge(path, columns={"score": "score, in %"})
    assert (judgement.claims[0]["seeds"], judgement.claims[0]["difference"]) == (3, pytest.approx(2))
    assert "The column 'task' is not read; --columns benchmark=task would." in judgement.notes
    swapped = judge(path, columns={"arm": "Seed", "seed": "Arm", "score": "score, in %"})
    assert [claim["first"] for claim in swapped.claims] == ["1", "2"]


@pytest.mark.parametrize("has_seeds", [True, False])
def test_a_column_per_benchmark_is_as_good_as_a_row_per_score(
    has_seeds: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where a run lacks a benchmark: its later runs keep their numbers."""
    rows = pd.DataFrame({"Name": list("aaabbb"), "Seed": [0, 1, 2, 0, 1, 2]})
    rows["VQA, in %"] = [71.2, 71.9, 71.1, 70.1, None, 69.9]
    rows["gqa"] = [61.0, 61.5, 60.7, 60.0, 60.5, 58.7]
    long = rows.melt(["Name", "Seed"], var_name="benchmark", value_name="score").dropna()
    if not has_seeds:
        rows = rows.drop(columns="Seed")
        long = long.rename(columns={"Seed": "run"})
        long = long[(long["Name"] != "b") | (long["run"] != 1)]  # that run counts for no average
    rows.to_csv(tmp_path / "wide.csv", index=False)
    long.to_csv(tmp_path / "long.csv", index=False)
    claims = []
    for name, columns in (("wide", "arm=Name,score=VQA, in %,score=gqa"), ("long", "arm=Name")):
        main(["judge", str(tmp_path / f"{name}.csv"), "--columns", columns, "--json"])
        claims.append(json.loads(capsys.readouterr().out)["claims"])
    assert claims[0] == claims[1]
    assert claims[0][0]["difference"] == pytest.approx(-1.325 if has_seeds else 64.675 - (71.4 + 61.066667) / 2)


def test_columns_of_scores_beside_a_column_of_benchmarks() -> None:
    """Both tell what is scored, so that one run of a model stays one."""
    rows = [(model, f"task {n}", n + (model == "b"), 2 * n) for model in "ab" for n in range(1, 9)]
    frame = pd.DataFrame(rows, columns=["model", "Benchmark", "acc", "acc_norm"])
    columns = {"arm": "model", "score": ["acc", "acc_norm"]}
    (claim,) = judge(frame, columns=columns).claims
    assert (claim["verdict"], claim["seeds"]) == ("not judged", 1)
    (one,) = judge(frame, [{"first": "b", "second": "a", "measure": "task 3 acc"}], columns).claims
    assert one["difference"] == 1


def test_shots_may_stand_in_the_names_of_columns() -> None:
    rows = [("a", 0, 1.0, 2.0), ("a", 1, 2.0, 2.5), ("b", 0, 3.0, None), ("b", 1, 3.0, 9.0)]
    frame = pd.DataFrame(rows, columns=["arm", "seed", "vqa 4-shot", "gqa 0-shot"]).assign(status=["done"] * 3 + [""])
    claims = [{"first": "b", "second": "a", "measure": measure} for measure in ("vqa 4-shot", "gqa 0-shot")]
    both = {"score": ["vqa 4-shot", "gqa 0-shot"]}
    judgement = judge(frame, claims, both)
    assert [(claim["difference"], claim["seeds"]) for claim in judgement.claims] == [(1.5, 2), (6.5, 1)]
    failed = judge(frame.assign(status=["done", "done", "done", "failed"]), claims[:1], both)
    assert "Left out 1 of 4 rows by their status (failed)." in failed.notes
    frame["vqa_4shot"] = 1.0
    with pytest.raises(RequestError, match="'vqa 4-shot' and 'vqa_4shot' are the same benchmark and shots"):
        judge(frame, columns={"score": ["vqa 4-shot", "vqa_4shot"]})
    without = frame.assign(arm=["a", "a", "b", "c"], **{"vqa 4-shot": [1, 2, 3, None], "gqa 0-shot": [1, 2, 3, " "]})
    assert "Left out 1 of 4 rows, which have none of the scores (c)." in judge(without, columns=both).notes
    empty = pd.DataFrame({"arm": ["a", "b"], "seed": 0, "x": "", "y": None})
    for wrong, told in ({"score": ["x", "y"]}, "the columns x, y are empty"), ({"arm": ["arm"]}, "'arm' is one column"):
        with pytest.raises(RequestError, match=told):
            judge(empty, columns=wrong)


def test_a_family_of_ones_own_is_not_the_lab_s_and_text_core_is_over_benchmarks_without_images() -> None:
    scores = {"text": {"a": [70, 70.1], "b": [50, 50.1]}, "vqa": {"a": [50, 50.1], "b": [53, 53.1]}}
    frame = pd.concat([table(arms, benchmark=name, family=name) for name, arms in scores.items()])
    assert judge(frame).claims[0]["difference"] == pytest.approx(-8.5)
    of_json_lines = frame.assign(family=[[name] for name in frame["family"]], metric="accuracy")
    assert judge(of_json_lines).claims[0]["difference"] == pytest.approx(-8.5)
    of_text = {"sums": {"a": [50, 51], "b": [52, 53.5]}, "facts": {"a": [50, 51], "b": [60, 61]}}
    frames = [table(arms, benchmark=name, family="text") for name, arms in of_text.items()]
    frame = pd.concat([*frames, table({"a": [1, 2], "b": [1, 2]}, benchmark="vqa", family="vqa")])
    claims = [{"first": "b", "second": "a", "measure": "text-core"}]
    of_text_alone = frame[frame["family"] == "text"].assign(metric="accuracy")
    assert judge(of_text_alone, claims).claims[0]["difference"] == pytest.approx((2.25 + 10) / 2)
    with pytest.raises(RequestError, match="no benchmark of the average; name a measure"):
        judge(of_text_alone)
    (claim,) = judge(frame.assign(metric="accuracy"), claims).claims
    assert claim["difference"] == pytest.approx((2.25 + 10) / 2)


def test_the_examples_of_the_page(tmp_path: Path, printed: Told) -> None:
    """What docs/judge.md says of its tables is what is printed about them, drawn or written as JSON; exit codes."""
    page = (Path(__file__).parents[2] / "docs" / "judge.md").read_text(encoding="utf-8")
    blocks = [part.split("\n```")[0].lstrip("\n") for part in page.split("```")[1::2]]
    (night,), (typed,) = ([one for one in blocks if one.startswith(head)] for head in ("commit\t", "arm,"))
    (tmp_path / "results.tsv").write_text(night + "\n", encoding="utf-8")
    (tmp_path / "scores.csv").write_text(typed + "\n", encoding="utf-8")
    words = ["--columns", "arm=commit,score=val_bpb", "--lower-is-better", "--looks", "3,6"]
    assert f"mm1-lab judge results.tsv {' '.join(words)}\n" in page
    told = printed("judge", str(tmp_path / "results.tsv"), *words, code=3)
    assert "below 0.00399 may be luck" in told and "Left out 1 of 6 rows" in told
    told = printed("judge", str(tmp_path / "scores.csv"), "--figure", str(tmp_path / "plot.png"))
    assert "supported" in told and "one run over another at the same seed below" in told
    assert (tmp_path / "plot.png").stat().st_size > 5000
    table({"base": [50, 51, 52], "wide": [50, 52, 51]}).to_csv(tmp_path / "open.csv", index=False)
    judged = json.loads(printed("judge", str(tmp_path / "open.csv"), "--json", code=3))
    (claim,) = judged["claims"]
    assert (claim["verdict"], claim["open"], judged["decided"], judged["go_on"]) == ("undecided", None, False, None)
    assert judged["notes"] == [ONCE], "who adds runs until they decide would err in a quarter of cases"
    judged = json.loads(printed("judge", str(tmp_path / "open.csv"), "--json", "--looks", "3,6", code=3))
    assert judged["claims"][0]["verdict"] == "undecided" and judged["go_on"] is False, "no chance left"
    keys = set(judge(LOGS).claims[0])
    assert all(f"`{key}`" in page for key in keys)


def test_a_table_of_the_lab_has_the_lab_s_averages() -> None:
    folder = REPOSITORY / "results" / "study" / "mini" / "data_mix"
    claims = judge(folder / "scores.csv", REPOSITORY / "sweeps" / "data_mix.yaml").claims
    committed = pd.read_csv(folder / "contrasts.csv").set_index("claim")["estimate"]
    assert len(claims) == len(committed) > 10
    for claim in claims:
        assert claim["difference"] == pytest.approx(committed[claim["claim"]], abs=1e-4), claim["claim"]


def test_questions_may_differ_between_seeds() -> None:
    """As those of the lab's own data do, of which each seed has others: a pair is compared on those of its seed."""
    chance = np.random.default_rng(0)
    rows: list[tuple[str, int, str, float]] = []
    for seed in range(4):
        hardness = chance.normal(50, 20, 8)
        for number in range(6):
            rows.append(("a", seed, f"{seed}-{number}", hardness[number] + 3 + seed))
            rows.append(("b", seed, f"{seed}-{number + 1}", hardness[number + 1]))
            rows.append(("c", seed, f"{seed}-{number}", hardness[number]))
    claims = [{"first": "a", "second": "b"}]
    judgement = judge(pd.DataFrame(rows, columns=["arm", "seed", "question", "score"]), claims)
    (claim,) = judgement.claims
    assert claim["seeds"] == 4 and claim["difference"] == pytest.approx(4.5), "of what both were asked"
    assert "8 of 48 scores are left out" in judgement.notes[0]
    rows += [(arm, 4, f"{arm}'s own", 50.0) for arm in "ab"]
    (claim,) = judge(pd.DataFrame(rows, columns=["arm", "seed", "question", "score"]), claims).claims
    assert claim["seeds"] == 4 and claim["difference"] == pytest.approx(4.5), "the others still count"
