"""The committed results: drawn again, and what their pages say of weak places, against counts by hand."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.judging import difference
from analysis.judging.claims import load_lessons
from analysis.judging.difference import Difference
from analysis.judging.evidence import of_lessons
from analysis.judging.verdicts import judge_lessons
from analysis.measures import measure_rows
from analysis.pages.axes import level_rows
from analysis.runs import made_with
from analysis.statistics import one_sample
from analysis.study import read_study
from mm1_lab.cli import main
from mm1_lab.config import CHAT, Measure
from mm1_lab.results.reading import DRAWN
from tests.conftest import REPOSITORY

STUDY = Path(__file__).parents[2] / "results" / "study" / "mini"


def test_a_trial_of_an_unknown_processor_is_told() -> None:
    study = read_study(STUDY / "moe")
    unknown = {study.done["fingerprint"].iloc[0]: {"fingerprints": {"evaluation": "x"}, "summaries": {}}}
    told = "Scored on Intel(R) Xeon(R) Processor or an unknown processor, "
    assert made_with(replace(study, records=study.records | unknown)).startswith(told)


def test_arms_of_one_trained_model_are_no_repeats() -> None:
    """`mixed` shows the model of `five views` other demonstrations, so that without any their scores are the same."""
    study = read_study(STUDY / "chain_of_thought")
    values = study.all_values(CHAT)
    assert (values.loc["mixed"] == values.loc["five views"]).all()
    apart = values.loc["336"] - values.loc["five views"]  # one seed's luck of two arms
    error = apart.std(ddof=1) / np.sqrt(2 * len(apart))
    means = study.arm_means(CHAT)
    assert means["336"].error == pytest.approx(error) and means["mixed"] == means["five views"]
    assert study.mean("mixed", CHAT).half_width == pytest.approx(stats.t.ppf(0.975, 2) * error)
    rows = measure_rows(study, 1.0, 0.5).set_index("measure")["arms"]
    assert rows["chat 0-shot"] == 2 and rows["4-shot"] == 3, "with demonstrations they differ"
    (row,) = level_rows(study).query("axis == 'sft sharp demonstrations'").to_dict("records")
    assert (row["estimate"], row["low"], row["high"]) == (0, 0, 0), "another arm in name alone"

    done = study.trials["done"] & ~((study.trials["arm"] == "mixed") & (study.trials["seed"] == 302))
    scored = study.scores[(study.scores["arm"] != "mixed") | (study.scores["seed"] != 302)]
    fewer = replace(study, trials=study.trials.assign(done=done), scores=scored)
    assert fewer.arm_means(CHAT)["336"] == means["336"], "nor are they with a trial less"
    few = Measure.parse("4-shot")
    theirs = study.all_values(few)
    asked = ["benchmark", "shots", "question", "seed"]
    of_mixed = study.scores.query("arm == 'mixed' and seed == 302").set_index(asked)["score"].rename("score of mixed")
    same = study.scores.join(of_mixed, on=asked)  # five views at one seed alone, there with mixed's scores by chance
    is_five = same["arm"] == "five views"
    same["score"] = same["score of mixed"].where(is_five & (same["seed"] == 302), same["score"])
    by_chance = replace(study, scores=same[~is_five | (same["seed"] == 302)])
    assert by_chance.first_alike(few)["mixed"] == "five views"
    assert replace(study, scores=same).first_alike(few)["mixed"] == "mixed", "at other seeds they differ"
    apart = by_chance.mean("mixed", few).estimate - by_chance.mean("336", few).estimate
    assert apart == pytest.approx((theirs.loc["mixed"] - theirs.loc["336"]).mean()), "a mean is of the arm's own values"
    half = {("336", CHAT): 1.0, ("five views", CHAT): -0.5, ("mixed", CHAT): -0.5}
    pair = {("336", CHAT): 1.0, ("five views", CHAT): -1.0}
    assert Difference(study, half).over_seeds.estimate == pytest.approx(Difference(study, pair).over_seeds.estimate)
    assert Difference(study, half).over_seeds.half_width == pytest.approx(Difference(study, pair).over_seeds.half_width)


@pytest.mark.usefixtures("unrendered")
@pytest.mark.parametrize("name", ["study", "controls"])
def test_the_committed_pages_are_what_the_command_draws_from_the_committed_scores(name: str, tmp_path: Path) -> None:
    """All tables and data to the byte; without pictures, of which the tests draw none."""
    committed = REPOSITORY / "results" / name
    assert main(["figures", "--results", str(committed), "--into", str(tmp_path)]) == 0
    drawn = [path for path in tmp_path.rglob("*") if path.suffix in (".md", ".csv", ".json")]
    differ = [path for path in drawn if path.read_bytes() != (committed / path.relative_to(tmp_path)).read_bytes()]
    kept = [path for path in committed.glob("mini/**/*.md") if path.parent.name != "check_scale"]
    assert not differ, f"if they should differ: mm1-lab figures --results results/{name}"
    assert len(kept) + 1 == sum(path.suffix == ".md" for path in drawn)
    unlisted = {path.stem for path in tmp_path.glob("mini/*/*")} - {*DRAWN}
    assert not unlisted, "not in DRAWN of results/reading.py: what is not drawn any more would stay"


@pytest.mark.soak
def test_readme_says_which_verdicts_hold_by_the_arms_own_variance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(difference, "moderated", lambda values, *_: one_sample(values))
    lessons, evidence = load_lessons(), []
    for folder in sorted(path.parent for path in STUDY.glob("*/sweep.json")):
        study = read_study(folder)
        evidence += of_lessons(study, lessons)
    # without the two about the learning-rate law, which is not over seeds
    judged = judge_lessons(lessons, evidence, study.manifest).set_index("lesson")["verdict"]
    published = pd.read_csv(STUDY / "lessons.csv").set_index("lesson")["verdict"]
    decided = published[published.isin(["supported", "contradicted"])]
    assert len(decided) == 5 and (judged[decided.index] == decided).sum() == 3
    assert set(judged[["resolution", "resolution after tuning"]]) == {"undecided"}
