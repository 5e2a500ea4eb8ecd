"""A sweep's own claims and tables by the content of captions beside CIDEr, as lessons are judged."""

from dataclasses import replace

import numpy as np
import pytest

from analysis.judging.claims import claim_of, load_lessons
from analysis.judging.verdicts import judge_contrasts, with_lessons
from analysis.pages.claims_figure import draw_claims
from analysis.pages.compare import compare_table
from analysis.pages.frames import benchmarks, scores_by_benchmark
from analysis.pages.scores import content_table, means
from analysis.pages.verdicts import claims_notes, verdicts_table
from analysis.study import Study
from mm1_lab.config import Measure, Sweep
from tests.analysis.results_folder import claim_row, study_of


def with_content(study: Study, lift: float) -> Study:
    """The study with content scores of captions: 50 points, and `lift` more for the arm `captions`."""
    noise = np.random.default_rng(0).normal(0, 1, len(study.scores))
    content = 50 + noise + lift * (study.scores["arm"] == "captions")
    of_captions = study.scores["family"].isin(("captioning", "novel"))
    scores = study.scores.assign(content=content.where(of_captions))
    return replace(study, scores=scores.assign(score=scores["score"].where(scores["family"] != "vqa", 50 + noise)))


@pytest.mark.parametrize(("lift", "verdict"), [(0.0, "by wording only"), (10.0, "supported")])
def test_a_contrast_is_judged_by_wording_and_by_content(data_mix: Sweep, lift: float, verdict: str) -> None:
    study = with_content(study_of(data_mix, range(5)), lift)
    claims = judge_contrasts(study).set_index("claim")
    row = claims.loc["captions lift zero-shot"]
    assert row["verdict"] == verdict and row["p_supported"] < 0.05
    assert np.isnan(row["seeds_needed"]) == (verdict == "supported")
    against = judge_contrasts(with_content(study_of(data_mix, range(5)), -10.0)).set_index("claim")
    assert against.loc["captions lift zero-shot", "verdict"] == "by wording only"
    assert np.isinf(against.loc["captions lift zero-shot", "seeds_needed"]), "one score for it and one against it"
    said = claim_row(study, claim_of(data_mix.contrasts[0]).content)
    assert (row["content"], row["content_high"]) == (said["estimate"], said["high"])
    assert np.isnan(claims.loc["91/9 keeps text skill", "content"])


def test_scores_by_content_stand_beside_cider_in_every_table_and_the_figure(data_mix: Sweep) -> None:
    study = with_content(study_of(data_mix, range(3)), 10.0)
    claims = with_lessons(study, judge_contrasts(study), load_lessons())
    table = verdicts_table(claims, "claims", claims_notes(study, claims))
    shown = table.frame.set_index("claim")
    row = claims.set_index("claim").loc["captions lift zero-shot"]
    assert shown.loc["captions lift zero-shot", "by content"].startswith(f"{row['content']:+.1f} [")
    assert shown.loc["91/9 keeps text skill", "by content"] == "" and "a verdict needs both" in " ".join(table.notes)
    without = judge_contrasts(study_of(data_mix, range(3)))
    assert "by content" not in verdicts_table(without, "claims").head

    means_of = content_table(study).frame.set_index("arm")
    assert list(means_of.columns[:4]) == ["0-shot", "4-shot", "8-shot", "captioning 0-shot"]
    point = study.mean("captions", Measure("captioning", 0).content)
    assert point and abs(point.estimate - 60) < 1
    assert means_of.loc["captions", "captioning 0-shot"].startswith(f"{point.estimate:.1f} ±")
    compared = compare_table(study, "captions", "interleaved").frame.set_index("measure")
    assert compared.loc["content 0-shot", "difference"] == pytest.approx(row["content"])
    own = means(study).set_index(["arm", "measure"])["value"]
    assert own["captions", "content captioning 0-shot"].iloc[0] == point.estimate

    each = scores_by_benchmark(study)
    assert set(each[each["family"] == "vqa"]["metric"]) == {"vqa", "exact"}
    (said,) = each.query("arm == 'captions' and seed == 1 and benchmark == 'captions' and shots == 0 "
                         "and metric == 'content'").to_dict("records")  # fmt: skip
    rows = study.scores.query("arm == 'captions' and seed == 1 and benchmark == 'captions' and shots == 0")
    assert said["score"] == pytest.approx(rows["content"].mean()) and said["questions"] == len(rows)
    (over,) = benchmarks(study).query("arm == 'captions' and benchmark == 'captions' and shots == 0 "
                                      "and metric == 'content'").to_dict("records")  # fmt: skip
    assert over["seeds"] == 3 and over["score"] == pytest.approx(60, abs=1)

    axis = draw_claims(claims, "head").axes[0]
    squares = [line.get_xdata()[0] for line in axis.get_lines() if line.get_marker() == "s"]  # type: ignore[index]
    assert squares == pytest.approx(claims["content"].dropna().tolist())
    words = [text.get_text() for text in axis.texts]
    assert words.count("see lessons") == 12 and "not judged" in words
