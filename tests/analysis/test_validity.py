"""The rules for a base, and what demonstrations bring it, on scores whose means are known, with intervals computed
independently."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.judging.demonstrations import demonstration_checks
from analysis.judging.evidence import study_not_judged
from analysis.judging.validity import failed_gates, order_checks, validity_checks
from analysis.pages.checks import validity_table
from analysis.study import read_study
from analysis.table import to_markdown
from mm1_lab.config import WORLD_DATA, Check, load_sweep
from mm1_lab.lab import contrasts
from mm1_lab.results import Ledger, ScoreRow
from mm1_lab.results.reading import read_scores, read_variant
from tests.analysis.results_folder import HELD_OUT, with_manifest, write_results

SWEEP = load_sweep(Path(__file__).parents[2] / "sweeps" / "validity.yaml")
ARMS = ("base", "blind", "half-steps", "double-steps")
LEVEL = {"base": 60.0, "blind": 35.0, "half-steps": 50.0, "double-steps": 68.0}
Change = Callable[[str, ScoreRow], ScoreRow]


def write(results: Path, seeds: int, change: Change = lambda arm, row: row) -> Path:
    """Scores about each arm's level, on a vqa benchmark of two kinds, one of letters, and captions."""
    folder = write_results(results, SWEEP, ARMS, range(seeds), questions=8)  # written over below
    ledger = Ledger(results, results / "store")
    by_kind = {"vqa": {"colour": 20.0, "count": 40.0}, "text-vqa": {"letter": 15.0}}
    majority = {"vqa": 30.0, "text-vqa": 15.0}
    facts: dict[str, Any] = {"majority": majority, "majority_by_kind": by_kind, "summaries": {}}
    for arm, seed, fingerprint, _ in read_variant(folder).trials.itertuples(index=False):
        noise = np.random.default_rng([seed, ARMS.index(arm)])
        luck = np.random.default_rng(seed).normal(0, 0.6)
        rows = []
        for benchmark, family, kinds in (("vqa", "vqa", ("colour", "count")), ("text-vqa", "vqa", ("letter",)),
                                         ("captions", "captioning", ("caption",))):  # fmt: skip
            for shots in (0, 4, 8):
                for question in range(48):
                    points = LEVEL[arm] + luck + noise.normal(0, 2)
                    kind = kinds[question % len(kinds)]
                    key = f"{benchmark}-{question}"
                    row = ScoreRow(benchmark, family, family, shots, question // 6, key, kind, points, "red", True)
                    rows.append(change(arm, row))
        apart = [replace(row, benchmark="novel", family="novel", score=row.score + 30 * seed) for row in rows[:48]]
        rows += apart  # in no average
        ledger.write_scores(fingerprint, rows, HELD_OUT, facts, {})
    return folder


def by_rule(rows: list[Check]) -> dict[tuple[str, str], Check]:
    return {(row.check, row.what): row for row in rows}


def test_a_base_that_sees_learns_and_is_steady_passes_and_is_written(tmp_path: Path) -> None:
    folder = write(tmp_path, seeds=3)
    rows = validity_checks(read_study(folder))
    assert {row.verdict for row in rows} == {"pass"}
    named = by_rule(rows)
    assert named["above majority", "vqa, 0 shots"].needed == "low ≥ 30.0 + 5"
    assert named["above majority", "vqa: count, 4 shots"].needed == "low ≥ 40.0 + 5"
    assert ("above blind", "text-vqa: letter, 0 shots") not in named, "a benchmark of one kind has no rows by kind"
    table = read_scores(read_variant(folder))
    asked = table[(table["benchmark"] == "vqa") & (table["shots"] == 4)]
    first, second = (asked[asked["arm"] == arm].groupby("seed")["score"].mean() for arm in ARMS[:2])
    row = named["above majority", "vqa, 4 shots"]
    assert (row.low, row.high) == pytest.approx(tuple(stats.ttest_1samp(first, 0).confidence_interval()))
    row = named["above blind", "vqa, 4 shots"]
    assert (row.low, row.high) == pytest.approx(tuple(stats.ttest_rel(first, second).confidence_interval()))
    without = table[(table["arm"] == "base") & (table["shots"] == 0) & (table["family"] != "novel")]
    averages = without.groupby(["seed", "benchmark"])["score"].mean().groupby("seed").mean()
    what = "standard deviation of the base's average over 3 seeds, 0 shots"
    assert named["steady over seeds", what].value == pytest.approx(averages.std())
    shown = validity_table(read_study(folder), rows)
    assert shown.notes[0].startswith(f"Of {len(named)} checks: ") and "over 3 seeds" in shown.notes[0]
    assert "| above blind | vqa, 4 shots |" in to_markdown(shown)


def test_what_the_order_of_the_data_alone_changes(tmp_path: Path) -> None:
    folder = Path(__file__).parents[2] / "results" / "controls" / "mini" / "controls"
    table = pd.read_csv(folder / "scores.csv")
    captions = table["benchmark"].isin(["captions", "text-captions"])
    in_cider = table["benchmark"].isin(["captions cider", "text-captions cider"])
    study = read_study(folder)
    found = order_checks(study)
    for check, chosen in zip(found, (captions, in_cider), strict=True):
        means = table[chosen | (table["family"] == "vqa")].groupby(["seed", "arm"])["score"].mean().unstack()
        of_two = means[["base", "other-order"]].var(axis=1, ddof=1)  # of each seed's two orders
        assert check.value == pytest.approx(np.sqrt(of_two.mean()), rel=1e-4) and check.verdict == "pass"
    of_captions = study.scores["family"] == "captioning"
    by_cider = study.scores["metric"].astype(str).mask(of_captions, "cider")  # as of one's own data
    (only,) = order_checks(replace(study, scores=study.scores.assign(metric=by_cider)))
    assert only.value == found[0].value and only.what == found[1].what
    assert {check.verdict for check in order_checks(study.at_seeds([300, 301]))} == {"needs more seeds"}
    twins = study.sweep.arms | {"other-order": study.sweep.base}
    assert order_checks(with_manifest(study, sweep=study.sweep.model_copy(update={"arms": twins}))) == []
    assert order_checks(study.at_seeds([7])) == [] == order_checks(read_study(write(tmp_path, seeds=2)))


def test_with_one_seed_intervals_are_over_blocks_of_questions(tmp_path: Path) -> None:
    folder = write(tmp_path, seeds=1)
    named = by_rule(validity_checks(read_study(folder)))
    table = read_scores(read_variant(folder))
    asked = table[(table["arm"] == "base") & (table["benchmark"] == "text-vqa") & (table["shots"] == 0)]
    row = named["above majority", "text-vqa, 0 shots"]
    expected = stats.ttest_1samp(asked.groupby("block")["score"].mean(), 0).confidence_interval()
    assert (row.low, row.high) == pytest.approx(tuple(expected))
    what = "standard deviation of the base's average over 1 seed, 0 shots"
    assert named["steady over seeds", what].verdict == "needs more seeds"


def test_each_rule_fails_where_it_is_broken(tmp_path: Path) -> None:
    def change(arm: str, row: ScoreRow) -> ScoreRow:
        if row.kind == "count":
            return replace(row, score=44 + row.score / 1000)
        if row.benchmark == "text-vqa":
            return replace(row, score=97.0, parsed=not row.question.endswith("1"))
        return replace(row, score=row.score + 150) if row.benchmark == "captions" else row

    rows = validity_checks(read_study(write(tmp_path, seeds=2, change=change)))
    broken = {(row.check, row.what): row.verdict for row in rows if row.verdict != "pass"}
    assert broken == {
        ("above majority", "vqa: count, 0 shots"): "weak",
        ("above blind", "vqa: count, 0 shots"): "weak",
        ("above majority", "vqa: count, 4 shots"): "weak",
        ("above blind", "vqa: count, 4 shots"): "weak",
        ("above blind", "text-vqa, 0 shots"): "fail",
        ("above blind", "text-vqa, 4 shots"): "fail",
        **{("no ceiling", f"text-vqa, {shots} shots"): "fail" for shots in (0, 4, 8)},
        **{("no ceiling", f"captions, {shots} shots"): "fail" for shots in (0, 4, 8)},
        **{("answers parsed", f"unparsed VQA answers of the base, {k} shots, percent"): "fail" for k in (0, 4, 8)},
    } | {key: verdict for key, verdict in broken.items() if key[0] == "steady over seeds"}


def test_what_fails_its_gate_forbids_verdicts(tmp_path: Path) -> None:
    def change(arm: str, row: ScoreRow) -> ScoreRow:
        if row.benchmark == "captions":
            return replace(row, metric="cider", score=row.score + 100)
        return replace(row, score=97.0) if row.benchmark == "text-vqa" else row

    folder = write(tmp_path, seeds=2, change=change)
    study = read_study(folder)
    rows = validity_checks(study)
    assert not any(row.what.startswith("captions") for row in rows if row.check == "no ceiling")
    assert failed_gates(study, rows) == ("text-vqa, 0 shots", "text-vqa, 4 shots")
    assert contrasts(folder)["reason"].str.startswith("the base fails its gates").all(), "from Python too"
    gates = folder.parent / "check_scale" / "gates.csv"
    gates.parent.mkdir()
    heading = "check,seed,what,value,low,high,needed,verdict\n"
    lines = [f"linear probe,{seed},colour at 336,50,,,≥ 90,fail\n" for seed in (1, 7)]
    gates.write_text("".join([heading, *lines, "words,1,relation,70,,,≥ 90,weak\n"]), encoding="utf-8")
    assert failed_gates(study, rows)[2:] == ("linear probe: colour at 336, seed 1",), "seed 7 is not of this study"

    shown = study_not_judged(replace(study, failed_gates=("a", "b", "c", "d")))
    assert shown == "the base fails its gates: a, b, c and 1 more (gates.md, validity.md)"

    manifest = folder / "sweep.json"
    values = json.loads(manifest.read_text(encoding="utf-8").replace(WORLD_DATA.digest, "world-1"))
    del values["digest"]
    manifest.write_text(json.dumps(values))
    assert len(failed_gates(read_study(folder), rows)) == 2, "gates of this world say nothing about another's results"


def checks_of(base: pd.DataFrame, blind: Any = 30.0) -> dict[str, Check]:
    majority = base["benchmark"].map({"vqa": 15.0, "text-vqa": 18.0})
    return {check.what: check for check in demonstration_checks(base.assign(blind=blind, majority=majority))}


def scores(second: float, eight: float = 70.0, captions: float = 60.0, otherwise: str = "-otherwise") -> pd.DataFrame:
    """Two seeds; questions in first words score 60, those in `second` words 0 without demonstrations."""
    rows = []
    for seed in (0, 1):
        for number in range(8):
            other = number % 2 == 1
            key = f"test-{number}{otherwise * other}"
            for shots, score in ((0, 0.0 if other else 60.0), (4, second if other else 60.0), (8, eight + seed)):
                rows.append((seed, "vqa", "vqa", "colour", shots, key, score))
                rows.append((seed, "text-vqa", "vqa", "letter", shots, f"test-{number}", 10.0))
            for shots in (0, 4, 8):
                rows.append((seed, "captions", "captioning", "caption", shots, key, captions - shots))
                rows.append((seed, "captions followed", "further", "caption", shots, key, 90.0 if shots else 50.0))
    columns = ["seed", "benchmark", "family", "kind", "shots", "question", "score"]
    return pd.DataFrame(rows, columns=columns).assign(block=0)


def test_what_demonstrations_tell_and_bring_and_that_the_base_sees() -> None:
    checks = checks_of(scores(second=54.0))
    told = checks["second words, 4 shots, percent of first words"]
    assert (told.value, told.verdict) == (90.0, "pass")
    kept = checks["captions' words in the convention shown, 8 shots, percent"]
    assert (kept.value, kept.verdict) == (90.0, "pass")
    # vqa gains 40.5, letters nothing; captions lose 8
    gain = {name: checks[f"{name}, 8 shots − 0 shots"] for name in ("all", "vqa", "captioning")}
    assert gain["vqa"].value == pytest.approx(40.5 / 2) and gain["vqa"].low < 40.5 / 2 < gain["vqa"].high
    assert gain["captioning"].value == pytest.approx(-8) and gain["captioning"].verdict == "fail"
    assert gain["all"].value == pytest.approx((40.5 + 0 - 8) / 3) and gain["all"].verdict == "pass"
    # each benchmark is compared with blind and majority in words that the base knows
    seen = {what: (check.value, check.verdict) for what, check in checks.items() if check.check == "sees"}
    assert seen["vqa, 4 shots, − blind"] == (27.0, "pass")
    assert seen["vqa, 4 shots, − majority"] == (42.0, "pass")
    assert seen["vqa, 0 shots, first words, − blind"] == (30.0, "pass"), "0 in second words does not count"
    assert seen["text-vqa, 4 shots, − blind"] == (-20.0, "fail")
    assert seen["text-vqa, 0 shots, first words, − majority"] == (-8.0, "fail") and len(seen) == 8
    base = scores(second=54.0)
    base.loc[base["seed"] == 1, "score"] = 0.0
    checks = checks_of(base, base["seed"].map({0: 30.0}))
    assert checks["vqa, 4 shots, − majority"].value == 57.0 / 2 - 15.0
    assert checks["vqa, 4 shots, − blind"].value == 27.0, "at the seeds that the blind control has"


def test_what_fails_is_said_and_data_without_second_words_have_no_rule() -> None:
    checks = checks_of(scores(second=30.0, eight=31.0))
    assert checks["second words, 4 shots, percent of first words"].verdict == "fail"
    assert checks["all, 8 shots − 0 shots"].verdict == "fail"
    assert not checks_of(scores(second=30.0, otherwise=""))
    base = scores(second=54.0)
    checks = checks_of(base[base["shots"] > 0])
    assert {check.check for check in checks.values()} == {"told by demonstrations", "sees"}, "no gain over none"
