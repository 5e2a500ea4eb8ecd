"""What demonstrations bring, on scores whose means are known."""

import pandas as pd
import pytest

from analysis.judging.validity import demonstration_checks
from mm1_lab.config import Check

MAJORITIES = {"vqa": {"colour": 15.0}, "text-vqa": {"letter": 18.0}}


def checks_of(base: pd.DataFrame, blind: float = 30.0) -> dict[str, Check]:
    return {check.what: check for check in demonstration_checks(base, base.assign(score=blind), MAJORITIES)}


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


def test_second_words_are_compared_with_first_ones_and_eight_shots_with_none() -> None:
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


def test_what_fails_is_said_and_data_without_second_words_have_no_rule() -> None:
    checks = checks_of(scores(second=30.0, eight=31.0))
    assert checks["second words, 4 shots, percent of first words"].verdict == "fail"
    assert checks["all, 8 shots − 0 shots"].verdict == "fail"
    assert not checks_of(scores(second=30.0, otherwise=""))
    base = scores(second=54.0)
    checks = checks_of(base[base["shots"] > 0])
    assert {check.check for check in checks.values()} == {"told by demonstrations", "sees"}, "no gain over none"


def test_each_benchmark_is_compared_with_blind_and_majority_in_words_that_the_base_knows() -> None:
    checks = checks_of(scores(second=54.0))
    seen = {what: (check.value, check.verdict) for what, check in checks.items() if check.check == "sees"}
    assert seen["vqa, 4 shots, − blind"] == (27.0, "pass")
    assert seen["vqa, 4 shots, − majority"] == (42.0, "pass")
    assert seen["vqa, 0 shots, first words, − blind"] == (30.0, "pass"), "0 in second words does not count"
    assert seen["text-vqa, 4 shots, − blind"] == (-20.0, "fail")
    assert seen["text-vqa, 0 shots, first words, − majority"] == (-8.0, "fail") and len(seen) == 8
    base = scores(second=54.0)
    base.loc[base["seed"] == 1, "score"] = 0.0
    blind = base[base["seed"] == 0].assign(score=30.0)
    values = {check.what: check.value for check in demonstration_checks(base, blind, MAJORITIES)}
    assert values["vqa, 4 shots, − majority"] == 57.0 / 2 - 15.0
    assert values["vqa, 4 shots, − blind"] == 27.0, "at the seeds that the blind control has"
