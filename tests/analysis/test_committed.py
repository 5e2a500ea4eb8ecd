"""What the committed study's pages say of its weak places, against counts by hand."""

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
from analysis.judging.validity import failed_gates, unseen_conversations, validity_checks
from analysis.judging.verdicts import judge_lessons
from analysis.law.runs import HELD_OUT, search_runs
from analysis.measures import measure_rows
from analysis.pages.axes import axes_table, level_rows
from analysis.pages.scores import parameters_table
from analysis.pages.verdicts import unseen_notes
from analysis.runs import made_with
from analysis.statistics import one_sample
from analysis.study import read_study
from analysis.table import to_markdown
from mm1_lab.cli import main
from mm1_lab.config import CHAT, Measure, parse_count
from mm1_lab.results.reading import read_records, read_scores, read_variant

STUDY = Path(__file__).parents[2] / "results" / "study" / "mini"


def test_a_sweep_says_with_what_it_was_made_and_how_arms_differ_in_parameters() -> None:
    study = read_study(STUDY / "moe")
    seconds = {}
    for record in map(study.records.__getitem__, study.done["fingerprint"]):
        for kind, summary in record["summaries"].items():
            seconds[kind, record["config"]["seed"], summary["fingerprint"]] = summary["seconds"]
        seconds[record["fingerprints"]["evaluation"]] = record["timings"]["evaluation"]["seconds"]
    versions = "torch 2.13.0+cpu, transformers 5.23.0, lightning 2.6.6, numpy 2.4.6, mm1-lab 0.3.0, commit 59c81256"
    hours, minutes = divmod(round(sum(seconds.values()) / 60), 60)
    told = f"Scored on Intel(R) Xeon(R) Processor, {versions}; all stages took {hours} h {minutes} min by their clocks."
    assert made_with(study) == told and told in (STUDY.parent / "summary.md").read_text(encoding="utf-8")
    unknown = {study.done["fingerprint"].iloc[0]: {"fingerprints": {"evaluation": "x"}, "summaries": {}}}
    assert made_with(replace(study, records=study.records | unknown)).startswith(
        "Scored on Intel(R) Xeon(R) Processor or an unknown processor, "
    )
    table = parameters_table(study)
    assert table
    frame = table.frame.set_index("arm")
    for _, row in frame.iterrows():
        *parts, total = map(parse_count, row)
        assert sum(parts) == pytest.approx(total, rel=0.005)
    assert frame.loc["experts"].tolist()[1:] == ["273K", "616K", "96.3K", "1.15M"]
    assert not parameters_table(read_study(STUDY / "sft_data_mix"))


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


def test_scores_that_are_all_alike_and_the_only_pair_of_a_level(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "chain_of_thought", "mixed", "five views"]) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("chat 0-shot"))
    assert line.split()[-3:] == ["0.0", "[all", "alike]"], "they differ in demonstrations alone"
    levels = axes_table(level_rows(read_study(STUDY / "chain_of_thought")), "", "")
    assert not levels.is_text[list(levels.frame).index("difference")], "a column of numbers, aligned to the right"
    committed = (STUDY / "axes.md").read_text(encoding="utf-8").splitlines()
    assert committed[3].split("|")[5] == " ---: " and to_markdown(levels).splitlines()[2] == committed[4]
    levels = level_rows(read_study(STUDY / "sft_resolution"))
    table = axes_table(levels, "", "").frame.set_index("axis")
    assert table["pairs"]["sft views"] == "five views of 336 − 672"


def test_a_size_that_answers_no_better_than_constant_answers_is_named() -> None:
    variant = read_variant(STUDY / "lr_law")
    runs = search_runs(variant)
    (told,) = (text for text in runs.cautions if "constant answers" in text)
    assert told.startswith("9M: ") and [*runs.points][-2:] == ["8-shot average", HELD_OUT]
    scores = read_scores(variant)
    asked = scores[(scores["family"] == "vqa") & (scores["shots"] == 8)]
    means = asked.groupby(["arm", "seed", "benchmark"], observed=True)["score"].mean().groupby("arm").mean()
    names = asked["benchmark"].unique()
    constant = np.mean([record["majority"][name] for record in read_records(variant).values() for name in names])
    best = means.groupby(means.index.str.split().str[0]).max()
    assert best["9M"] < constant and (best.drop("9M") > constant + 2).all()


def test_conversations_that_a_tuned_base_does_not_see_are_named_and_rule_nothing_out() -> None:
    study = read_study(STUDY / "sft_data_mix")
    checks = validity_checks(study)
    above = {check.what: check.needed for check in checks if check.check == "above majority"}
    kinds = {what: needed for what, needed in above.items() if what.startswith("chat-vqa: ")}
    least = {"size": "54.7", "place": "35.1", "colour": "23.1", "shape": "13.8"}  # recorded as size, the, color, thing
    assert kinds == {f"chat-vqa: {kind}, 0 shots": f"low ≥ {points} + 5" for kind, points in least.items()}
    weak = {one.what.partition(",")[0] for one in checks if one.check == "above blind" and one.verdict == "weak"}
    assert "chat-reading" in weak and "chat-charts" not in weak
    own = Measure.parse("chat-reading 0-shot")
    seen = study.all_values(own).loc[["base", "blind"]].diff().iloc[1].mean()
    assert abs(seen) < 0.1
    assert failed_gates(study, checks) == ()
    unseen = ["chat-reading", "pope-random", "pope-popular", "pope-adversarial"]
    assert unseen_conversations(study, checks) == unseen
    lessons = pd.read_csv(STUDY / "lessons.csv", keep_default_na=False, na_values={"family": ""})
    marked = lessons[lessons["unseen"] == ", ".join(unseen)]
    assert set(marked["sweep"]) == {name for name in lessons["sweep"] if name.startswith(("sft_", "chain_of"))}
    assert set(lessons["unseen"]) == {"", ", ".join(unseen)}, "none of the others"
    (note,) = unseen_notes(lessons)
    assert "(1 contradicted, 5 undecided)" in note
    for page in (STUDY / "lessons.md", STUDY.parent / "summary.md"):
        text = page.read_text(encoding="utf-8")
        assert note in text and "**contradicted** †" in text


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
