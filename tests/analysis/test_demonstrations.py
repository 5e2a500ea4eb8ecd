"""What demonstrations bring, on scores whose means are known."""

import pandas as pd
import pytest

from analysis.judging.demonstrations import demonstration_checks


def scores(second: float, eight: float = 70.0, captions: float = 60.0, otherwise: str = "-otherwise") -> pd.DataFrame:
    """Two seeds; questions in first words score 60, those in `second` words 0 without demonstrations."""
    rows = []
    for seed in (0, 1):
        for number in range(8):
            other = number % 2 == 1
            key = f"test-{number}{otherwise * other}"
            for shots, score in ((0, 0.0 if other else 60.0), (4, second if other else 60.0), (8, eight + seed)):
                rows.append((seed, "vqa", "vqa", "colour", shots, key, score, None))
                rows.append((seed, "text-vqa", "vqa", "letter", shots, f"test-{number}", 10.0, None))
            for shots in (0, 4, 8):
                rows.append((seed, "captions", "captioning", "caption", shots, key, 5.0, captions - shots))
                rows.append(
                    (seed, "captions followed", "further", "caption", shots, key, 90.0 if shots else 50.0, None)
                )
    columns = ["seed", "benchmark", "family", "kind", "shots", "question", "score", "content"]
    return pd.DataFrame(rows, columns=columns)


def test_second_words_are_compared_with_first_ones_and_eight_shots_with_none() -> None:
    checks = {check.what: check for check in demonstration_checks(scores(second=54.0))}
    told = checks["second words, 4 shots, percent of first words"]
    assert (told.value, told.verdict) == (90.0, "pass")
    kept = checks["captions' words in the convention shown, 8 shots, percent"]
    assert (kept.value, kept.verdict) == (90.0, "pass")
    # vqa gains 40.5, letters nothing; captions lose 8 by content
    gain = {name: checks[f"{name}, 8 shots − 0 shots, captions by content"] for name in ("all", "vqa", "captioning")}
    assert gain["vqa"].value == pytest.approx(40.5 / 2) and gain["vqa"].low < 40.5 / 2 < gain["vqa"].high
    assert gain["captioning"].value == pytest.approx(-8) and gain["captioning"].verdict == "fail"
    assert gain["all"].value == pytest.approx((40.5 + 0 - 8) / 3) and gain["all"].verdict == "pass"


def test_what_fails_is_said_and_data_without_second_words_have_no_rule() -> None:
    checks = {check.what: check.verdict for check in demonstration_checks(scores(second=30.0, eight=31.0))}
    assert checks["second words, 4 shots, percent of first words"] == "fail"
    assert checks["all, 8 shots − 0 shots, captions by content"] == "fail"
    assert not list(demonstration_checks(scores(second=30.0, otherwise="")))
