"""From a results folder to files: what they say, holes included, the same bytes each time, clear errors."""

import gc
import re
import shutil
import weakref
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.effects import varying
from analysis.judging.claims import load_lessons
from analysis.judging.difference import Difference
from analysis.judging.evidence import of_lessons
from analysis.judging.p_values import p_values
from analysis.judging.verdicts import judge_contrasts
from analysis.output import Output
from analysis.pages.axes import draw_axes, drawn_levels, level_rows, what_mattered
from analysis.pages.claims_figure import LETTERS, draw_claims, is_drawn
from analysis.pages.compare import compare_arms, compare_table
from analysis.pages.figures import draw_scores
from analysis.pages.groups import Drawn
from analysis.pages.notes import FEW_SEEDS, MIXED
from analysis.pages.overview import _question
from analysis.pages.scores import (
    losses_table,
    means_table,
    short_table,
)
from analysis.pages.verdicts import claims_notes, verdicts_table
from analysis.redraw import _draw, _write_scores, draw, draw_sweep, sweep_in_short
from analysis.runs import edited_note, mixes_machines
from analysis.study import Study, read_study
from analysis.style import annotate_head, row_name, styled
from mm1_lab.cli import main
from mm1_lab.config import AVERAGE, TEXT_CORE, UNPARSED, Contrast, Measure, Panel, Recipe, SftRecipe, Sweep
from mm1_lab.files import lease, take, write_text
from mm1_lab.lab import contrasts
from mm1_lab.results.manifest import read_trials
from tests.analysis.results_folder import of_arms, of_own_data, score_rows, study_of, write_results
from tests.conftest import Told, run_python

NAMES = ["contrasts.csv", "contrasts.md", "contrasts.png", "figure.png", "scores.csv"]
NAMES += ["table.csv", "table.md", "validity.csv", "validity.md"]
OVERALL = [f"{name}.{ending}" for name in ("axes", "lessons") for ending in ("csv", "md")]
OVERALL += ["lesson_parts.csv", "lessons.png", "summary.md"]


MISSING = ("captions-50/0", "captions-50/1", "captions-50/2", "base/1")


@pytest.fixture(scope="module")
def three_seeds(tmp_path_factory: pytest.TempPathFactory, small_mix: Sweep) -> Path:
    """The folder of a sweep with its scores and claims, but no figures."""
    results = tmp_path_factory.mktemp("three")
    folder = write_results(results, small_mix, small_mix.arms, (0, 1, 2), missing=MISSING, questions=16)
    study = read_study(folder)
    output = Output(folder)
    _write_scores(study, output)
    claims = judge_contrasts(study)
    output.csv("contrasts", claims)
    output.tables("contrasts", verdicts_table(claims, "claims", claims_notes(study, claims)))
    return folder


@pytest.fixture(scope="module")
def one_seed(tmp_path_factory: pytest.TempPathFactory, small_mix: Sweep) -> Path:
    """A results folder with everything that is drawn."""
    results = tmp_path_factory.mktemp("one")
    write_results(results, small_mix, small_mix.arms, (0,), missing=MISSING, questions=16)
    assert sorted(path.name for path in draw(results, report=True)) == sorted([*NAMES, *OVERALL, "report.html"])
    return results


def test_an_arm_that_lacks_seeds_says_so(three_seeds: Path) -> None:
    table = (three_seeds / "table.md").read_text(encoding="utf-8").split("## Held-out")[0]
    assert "3 training seeds" in table and "Loftus and Masson" in table
    (blind,) = (line for line in table.splitlines() if line.startswith("| blind |"))
    base = next(line for line in table.splitlines() if line.startswith("| with VeCap (2 of 3 seeds) |"))
    for line in sweep_in_short(three_seeds).splitlines()[2:9]:  # also where arms are a table of their own
        assert line.startswith("base ") is ("(2 of 3 seeds)" in line)
    assert "interval of an arm with one or two seeds is from the other arms' spread" in table
    assert "±" not in blind and "±" not in base.split(" | ")[-1] and base.count("±") > 5


def test_a_run_ends_with_scores_and_verdicts(three_seeds: Path, one_seed: Path) -> None:
    lines = sweep_in_short(three_seeds).splitlines()
    assert lines[2].split() == ["arm", "0-shot", "4-shot", "8-shot", "text-core"]
    below = lines[[line.startswith("Claims:") for line in lines].index(True) :]
    study = read_study(three_seeds)
    told = judge_contrasts(study, of_lessons(study, load_lessons())).set_index("claim")
    shown = told[told["estimate"].notna()]
    assert set(told["of_lesson"]) > {""} and len(told) > len(shown)
    for claim, verdict, lesson in zip(shown.index, shown["verdict"], shown["of_lesson"], strict=True):
        (line,) = (line for line in below if line.startswith(f"{claim} "))
        assert (f"lesson {lesson}" if lesson else verdict) in line
    assert "captions-50 " not in "".join(below)
    assert "not judged: one seed" in sweep_in_short(one_seed / "mini" / "data_mix")

    (lesson,) = (one for one in load_lessons() if one.name == "captions")
    lesson = lesson.model_copy(update={"parts": (lesson.parts[0].model_copy(update={"aside": "for a reason"}),)})
    claims = judge_contrasts(study, of_lessons(study, [lesson]))
    verdicts = verdicts_table(claims, "claims").frame.set_index("claim")["verdict"]
    assert verdicts["captions lift zero-shot"] == "**not judged**: for a reason"
    assert verdicts.str.startswith("**not judged**: for").sum() == 1


@pytest.mark.usefixtures("unrendered")
def test_a_claim_of_a_lesson_has_its_verdict_beside_it(three_seeds: Path, tmp_path: Path) -> None:
    """As `figures` judged it, also after one sweep is drawn alone and from Python; of another claim or scores it tells
    nothing."""
    shutil.copytree(three_seeds.parents[1], tmp_path / "results")
    folder = tmp_path / "results" / "mini" / three_seeds.name
    own = contrasts(folder).set_index("claim")
    assert own.loc[own["of_lesson"] != "", "lesson_verdict"].eq("by mm1-lab figures").all()
    assert own.loc["the base sees its pictures", ["of_lesson", "lesson_verdict"]].eq("").all()

    draw(tmp_path / "results")
    lessons = pd.read_csv(folder.with_name("lessons.csv")).set_index("lesson")["verdict"]
    expected = own["of_lesson"].map(lessons).fillna("").tolist()
    assert {"supported", "undecided", ""} <= set(expected)
    draw_sweep(folder)
    written = pd.read_csv(folder / "contrasts.csv", keep_default_na=False)
    assert written["lesson_verdict"].tolist() == contrasts(folder)["lesson_verdict"].tolist() == expected
    path = folder / "contrasts.csv"
    for column, other in (("seed_list", "0 1"), ("estimate", -1)):
        written.assign(**{column: other}).to_csv(path, index=False)
        assert set(contrasts(folder)["lesson_verdict"]) == {"by mm1-lab figures", ""}
    path.write_text("")  # as after a full disk
    assert set(contrasts(folder)["lesson_verdict"]) == {"by mm1-lab figures", ""}


def test_arms_are_compared_by_what_was_measured_at_the_seeds_of_both(small_mix: Sweep) -> None:
    """Each arm has a seed of its own; at one that both have, an arm was not evaluated on a newer benchmark."""
    arms = ("captions", "interleaved")
    study = study_of(small_mix, range(4), missing=("interleaved/0", "captions/3"), arms=arms)
    scores = study.scores
    lacks = (scores["arm"] == "captions") & (scores["seed"] == 1) & (scores["family"] == "novel")
    table = compare_table(replace(study, scores=scores[~lacks]), *arms)
    assert table.notes[0].startswith("Points, development seeds 1 and 2;")
    rows = table.frame.set_index("measure")
    known = [row for seed in (1, 2) for row in score_rows("interleaved", seed, 16) if row.shots == 0]
    mean = np.mean([row.score for row in known if row.family in ("captioning", "vqa")])
    assert rows.loc["0-shot", "interleaved"] == pytest.approx(mean)
    for measure in ("0-shot", "novel 0-shot"):
        row = rows.loc[measure]
        assert row["captions"] - row["interleaved"] == pytest.approx(row["difference"])
    assert compare_table(study, *arms, (2,)).notes[0].startswith("Points, development seed 2;")


def test_two_seeds_give_arms_no_interval_and_differences_one(data_mix: Sweep) -> None:
    for seeds in ((0, 1), (0, 1, 2)):
        study = study_of(of_arms(data_mix, ("base", "captions")), seeds)
        table = means_table(study)
        with styled():
            figure = draw_scores(study)
        bars = [line for axis in figure.axes for line in axis.get_lines() if line.get_linestyle() == "-"]
        said = "No ± and no bars below three seeds" in table.notes[0]
        below = " ".join(figure.get_supxlabel().split())
        assert ("No intervals below three seeds (`table.md` says why)." in below) == said
        assert ("Lines: 95 % intervals over seeds" in below) != said
        has_bars = table.frame.map(lambda cell: "±" in cell).any(axis=None)
        assert has_bars == (len(bars) > 0) == (not said) == (len(seeds) > 2)
        assert re.search(r"\[−?\d", str(compare_table(study, "captions", "base").frame["95 %"][0]))
        held_out = study.trials[["arm", "seed", "fingerprint"]].assign(source="text", loss=study.trials["seed"] / 4)
        losses = losses_table(replace(study, held_out=held_out))
        assert list(losses.frame["text"]) == 2 * ["0.125" if said else "0.250 ± 0.621"]
        assert ("±" in losses.title) != said


def test_arms_that_are_the_same_trials_share_their_seeds(small_mix: Sweep) -> None:
    """Asked for at different seeds: a trial stands for both, and the table has its seeds."""
    arms = {name: small_mix.arms[name] for name in ("captions", "interleaved")}
    sweep = small_mix.model_copy(update={"arms": arms | {"again": arms["captions"]}, "panels": {}})
    study = study_of(sweep, (0, 1, 2), missing=("captions/2", "again/0", "again/1"))
    values = study.all_values(Measure(shots=0))
    assert values.loc["captions"].notna().all() and values.loc["captions"].equals(values.loc["again"])
    assert study.missing() == []
    assert compare_table(study, "again", "interleaved").notes[0].startswith("Points, development seeds 0–2;")
    labels = [text.get_text() for text in draw_scores(study).axes[0].get_yticklabels()]
    assert labels[:2] == ["captions = again", "interleaved"]
    # an arm that was not asked the first benchmark does not lack seeds
    study = study_of(small_mix, range(3), arms=("base", "captions", "interleaved"), questions=8)
    lacks = (study.scores["arm"] == "captions") & (study.scores["benchmark"] == "text-core")
    assert lacks.any() and FEW_SEEDS not in means_table(replace(study, scores=study.scores[~lacks])).notes


def test_a_figure_of_tuned_arms_has_the_benchmarks_of_pre_training_if_any_arm_has(small_mix: Sweep) -> None:
    tuned = small_mix.arms["base"].model_copy(update={"sft": SftRecipe()})
    study = study_of(small_mix.model_copy(update={"arms": dict(small_mix.arms) | {"tuned": tuned}}), (0, 1))
    own = study.scores[(study.scores["arm"] == "tuned") & (study.scores["family"] == "vqa")]
    study = replace(study, scores=pd.concat([study.scores, own.assign(family="chat", benchmark="chat")]))
    assert study.families.keys() >= {"", "chat"} and not study.are_tuned
    told = "Tuned arms (tuned) read other prompts"
    assert told in str(compare_table(study, "tuned", "base").notes) and told in str(means_table(study).notes)
    assert told not in str(compare_table(study, "captions", "base").notes)
    assert "all image benchmarks" in {axis.get_title().replace("\n", " ") for axis in draw_scores(study).axes}

    def titles(sft: SftRecipe) -> set[str]:
        arms = {name: arm.model_copy(update={"sft": SftRecipe()}) for name, arm in small_mix.arms.items()}
        arms["base"] = arms["base"].model_copy(update={"sft": sft})
        study = study_of(small_mix.model_copy(update={"arms": arms}), (0, 1))
        own = study.scores[study.scores["family"] == "vqa"].assign(family="chat", benchmark="chat")
        study = replace(study, scores=pd.concat([study.scores, own]))
        return {axis.get_title().replace("\n", " ") for axis in draw_scores(study).axes}

    assert titles(SftRecipe(replay={"text": 0.1})) - titles(SftRecipe()) == {"all image benchmarks"}


@pytest.fixture(scope="module")
def own_data(data_mix: Sweep) -> Study:
    """Two seeds of data of one's own: captions alone to be judged by, and no synthetic ones, so that `no-vecap` is the
    base's trials again."""
    arms = {name: data_mix.arms[name] for name in ("base", "captions", "no-vecap")}
    panels = {key: data_mix.panels[key] for key in ("a", "d")}
    panels["a"] = Panel(title=panels["a"].title, arms={"both": "base", "captions": "captions"})
    plain = study_of(data_mix.model_copy(update={"arms": arms, "panels": panels, "contrasts": ()}), (0, 1))
    study = of_own_data(plain, data_name="books")
    trials = study.trials
    trials = trials.assign(fingerprint=trials["fingerprint"].str.replace("no-vecap", "base"))
    losses = pd.DataFrame({"source": ["captions", "text"], "loss": [0.75, 1.5]})
    held_out = trials[["arm", "seed", "fingerprint"]].merge(losses, how="cross")
    scores = study.scores[study.scores["family"] == "captioning"]
    return replace(study, trials=trials, scores=scores, held_out=held_out)


def marks(axis: Axes) -> list[float]:
    """The values of the marks on an axis, without intervals."""
    lines = (line for line in axis.get_lines() if line.get_linestyle() == "None")
    return [float(value) for line in lines for value in np.asarray(line.get_xdata())]


def test_own_data_show_what_there_is(own_data: Study) -> None:
    study = own_data
    assert list(map(str, study.measures)) == ["0-shot", "4-shot", "8-shot"]
    assert study.families == {"": "captioning (CIDEr)"}
    assert study.representative("no-vecap") == "base" and study.others == []
    assert not study.paper.values and "tuned on" not in study.caution
    losses, more, *rest = draw_scores(study).axes
    assert [axis.get_title().split(",")[0] for axis in (losses, more)] == ["captions", "text"]
    assert 0.75 in marks(losses) and 1.5 in marks(more)
    assert [axis.get_title() for axis in rest] == ["captioning\n(CIDEr)", "captions", "text-captions"]
    tuned = replace(study, held_out=study.held_out.replace("text", "instructions.llava-mix-665k"))
    assert "instructions.\nllava-\nmix-665k,\nheld-out loss" in draw_scores(tuned).axes[1].get_title(), "none overlaps"


def test_own_benchmarks_have_columns_of_their_own(own_data: Study) -> None:
    """Of one's own data, in each table and the figure; MM1's numbers are of other benchmarks and stand beside none."""
    asked = study_of(own_data.sweep, (0, 1)).scores
    own = {"vqa": "signs", "captions": "held-out-captions"}
    scores = asked[asked["benchmark"].isin(list(own))].assign(benchmark=lambda rows: rows["benchmark"].map(own))
    study = replace(own_data, scores=scores, records={})
    names = [f"{name} {shots}-shot" for shots in (0, 4, 8) for name in sorted(own.values())]
    full, short = means_table(study).frame, short_table(study).frame
    assert {"0-shot", *names} <= set(full) and "vqa 0-shot" not in full, "which is the same as signs"
    assert set(names) <= set(short) and not any("MM1" in label for label in full[study.sweep.reproduces])
    signs = scores[(scores["benchmark"] == "signs") & (scores["shots"] == 4) & (scores["arm"] == "captions")]
    cell = short.set_index("arm").loc["captions", "signs 4-shot"]
    assert cell == f"{signs['score'].mean():.1f}"
    titles = {axis.get_title().replace("\n", "") for axis in draw_scores(study).axes}
    assert {"signs", "held-out-captions"} <= titles


def test_notes_tell_of_means_with_cider_of_rows_of_an_arm_s_own_of_repeated_data_and_edits(own_data: Study) -> None:
    """Below tables and comparisons; not of percentages, nor where all arms read the same rows."""
    own = study_of(own_data.sweep, (0, 1)).scores
    read = {"connector": {"image_tokens": 36}, "drop_overlong": True, "training": {"steps": 9}}
    epochs = {"multimodal": {"epochs": {"captions": 54.5, "text": 0.7}}}
    record = {"config": {"model": {"model": read}}, "summaries": epochs}  # of a tuned model
    usual = {"config": {"model": {"model": {**read, "drop_overlong": False}}}, "summaries": epochs}
    records = {"captions/0": record, "base/0": usual}
    study = replace(own_data, scores=own[own["benchmark"].isin(["captions", "vqa"])], records=records)
    for notes in (short_table(study).notes, compare_arms(study, "captions", "base", ()).notes):
        told = "\n".join(notes)
        assert "epochs in as many steps: captions (36 image tokens), more than the scale's largest." in told
        assert "are of captions (CIDEr), vqa (vqa): CIDEr is not bounded by 100" in told
        assert re.search(r"Read more than once in pre-training \(epochs\): [a-z]+, [^()]+ \(captions 54\)", told)
    edited = {fingerprint: {"environment": {"commit": "a"}} for fingerprint in study.done["fingerprint"]}
    edited["captions/0"] = {"environment": {"commit": "a-dirty"}}
    told = "\n".join(compare_arms(replace(study, records=edited), "captions", "base", ()).notes)
    assert "Not all ran the same code; with uncommitted changes of the lab's ran captions / seed 0." in told
    alike = dict.fromkeys(study.done["fingerprint"], record | edited["captions/0"])
    told = "".join(short_table(replace(study, scores=own[own["benchmark"] == "vqa"], records=alike)).notes)
    assert "Rows of" not in told and "CIDEr" not in told and "Not all" not in told


def test_of_many_trials_with_edited_code_five_are_named(mix_study: Study) -> None:
    commits = dict.fromkeys(mix_study.done["fingerprint"], "a-dirty") | {"base/0": "a"}
    records = {fingerprint: {"environment": {"commit": commit}} for fingerprint, commit in commits.items()}
    study = replace(mix_study, records=records)
    assert not edited_note(study, ["captions"]), "all ran the same"
    (told,) = edited_note(study, mix_study.sweep.arms)
    assert told.count(" / seed ") == 5 and re.search(r", \d+ more\.$", told)


def test_a_figure_names_every_row_and_shows_the_papers_numbers_on_an_axis_of_their_own(one_seed: Path) -> None:
    study = read_study(one_seed / "mini" / "data_mix")
    *ours, paper = draw_scores(study).axes
    labels = [text.get_text() for text in ours[0].get_yticklabels()]
    wanted = ["a  Captions / interleaved", "100/0", "with VeCap (base)", "blind (reads text, no pictures)"]
    wanted.append("majority answer")
    assert [label for label in labels if label in wanted] == wanted
    assert paper.get_title() == "MM1's own\nnumbers" and {39.3, 45.0} <= set(marks(paper))
    assert not any({39.3, 45.0} & set(marks(axis)) for axis in ours)
    point = study.mean("captions", Measure(shots=8))
    (column,) = (axis for axis in ours if axis.get_title() == "all image\nbenchmarks")
    assert point and any(np.isclose(mark, point.estimate) for mark in marks(column))
    assert all(len(axis.get_xticks()) > 1 for axis in ours) and "new combinations" not in labels


def test_a_figure_of_a_question_has_arms_with_scores_and_no_numbers_of_the_paper_s(data_mix: Sweep) -> None:
    arms = ("base", "captions", "text-33")
    asked = of_arms(data_mix, (*arms, "no-vecap"), title="How much text?", reproduces="")
    study = study_of(asked, (0, 1), arms=arms, missing=("text-33/0", "text-33/1", "captions/1"), questions=8)
    with styled():
        figure = draw_scores(study)
    assert figure.get_suptitle() == "How much text? Scale mini" == means_table(study).title
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert labels == ["base", "captions (1 of 2 seeds)"]
    assert "Without scores: text-33." in figure.get_supxlabel().replace("\n", " ")
    # a changed sweep of the paper's
    arms = {"mine": data_mix.arms["base"], "captions": data_mix.arms["captions"]}
    study = study_of(of_arms(data_mix, arms), (0, 1))
    assert not any("MM1's own" in axis.get_title() for axis in draw_scores(study).axes)
    assert not any(note.startswith("[1]") for note in means_table(study).notes)


def test_a_figure_of_claims_names_the_lesson_that_has_the_verdict(mix_study: Study) -> None:
    with styled():
        figure = draw_claims(judge_contrasts(mix_study, of_lessons(mix_study, load_lessons())), "head")
    beside = [text.get_text() for text in figure.axes[0].texts]
    assert {"captions", "interleaved documents", "supported"} <= set(beside)
    assert "Black: part of the lesson that is named beside it" in figure.get_supxlabel().replace("\n", " ")


LIFTS = Contrast(claim="captions lift", first="captions", second="base", measure="0-shot", expect="greater")


def test_each_level_of_an_axis_is_compared_with_the_base_s_and_controls_stand_apart(mix_study: Study) -> None:
    study = mix_study
    levels = level_rows(study)
    shuffled = {"axis": "images", "base": "shown", "level": "shuffled", "estimate": -45.0, "low": -50.0, "high": -40.0}
    of_chat = levels.assign(measure="chat 0-shot", axis="connector")
    every = pd.concat([levels.tail(1).assign(**shuffled), of_chat, levels], ignore_index=True)
    axes = list(drawn_levels(every)["axis"].unique())
    assert set(axes) == {"data mix", "synthetic captions", "images"} and axes[-1] == "images", "one measure"
    unfinished = study.sweep.model_copy(update={"arms": {"unfinished": study.sweep.base, **study.sweep.arms}})
    ran = varying(unfinished, ["base", "no-vecap"]).index
    assert set(ran) == {"base", "no-vecap"}, "of equal arms the one that ran"
    words = what_mattered(every)
    farthest = levels.loc[levels["estimate"].abs().idxmax()]
    assert f"by the average: {farthest['axis']} ({farthest['level']}: " in words and "images" not in words
    assert "by conversations with tuned models: connector" in what_mattered(of_chat)
    labels = [text.get_text() for text in draw_axes(every, "title", "").axes[0].texts]
    assert labels[-1] == "images (a control), base: shown" and "synthetic captions, base: 7 %" in labels


def test_majority_answers_are_a_mean_over_seeds_however_many_arms_have_which(data_mix: Sweep) -> None:
    """At the second seed, whose questions are easier to guess, one arm ran instead of three."""
    arms = ("base", "captions", "text-33")
    study = study_of(data_mix, (0, 1), questions=8, arms=arms, missing=("captions/1", "base/1"))
    names = study.asked["benchmark"].unique()
    records = {}
    for fingerprint, seed in zip(study.done["fingerprint"], study.done["seed"], strict=True):
        records[fingerprint] = {"majority": dict.fromkeys(names, 10.0 + 20 * seed)}
    assert replace(study, records=records).majority(TEXT_CORE) == 20
    assert np.isnan(replace(study, records=records).majority(Measure("unasked", 0)))


def test_shares_of_unparsed_answers_are_not_adjusted_for_missing_seeds(data_mix: Sweep) -> None:
    """As means are: `captions` lacks the seed at which some answers are not parsed."""
    study = study_of(data_mix, (0, 1), missing=("captions/1",), arms=("base", "captions", "no-vecap"))
    scores = study.scores.assign(parsed=(study.scores["seed"] == 0) | study.scores["parsed"])
    study = replace(study, scores=scores)
    found, base = study.mean("captions", UNPARSED), study.mean("base", UNPARSED)
    assert found.estimate == 0 < base.estimate


def test_machines_are_mixed_only_within_a_seed(data_mix: Sweep) -> None:
    study = study_of(data_mix, (0, 1), questions=8, arms=("base", "captions"))
    trials = study.trials.set_index("fingerprint")
    for by, mixed in (("seed", False), ("arm", True)):
        machines = {fingerprint: {"processor": str(key)} for fingerprint, key in trials[by].items()}
        whole = {fingerprint: {"environment": one} for fingerprint, one in machines.items()}
        parts = {fingerprint: {"summaries": {"decoder": one, "encoder": {}}} for fingerprint, one in machines.items()}
        kinds = trials["arm"].map({"base": "multimodal", "captions": "alignment"})
        models = {fingerprint: {"summaries": {kinds[fingerprint]: one}} for fingerprint, one in machines.items()}
        for records in (whole, parts, models):
            told = replace(study, records=records)
            assert mixes_machines(told, ["base", "captions"]) is mixed
        for table in (means_table(told), short_table(told), compare_table(told, "base", "captions")):
            assert (MIXED in table.notes) is mixed


def test_figures_and_a_run_draw_a_sweep_in_turn(
    tmp_path: Path, small_mix: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once, one would leave older tables than the other notes, which no later run would draw anew."""
    could_begin = []

    def draw_slowly(folder: Path, target: Path, latex: bool) -> Drawn:
        could_begin.append(take(lease(folder / ".draw.lease", timeout=0)))
        return _draw(folder, target, latex)

    write_results(tmp_path, small_mix, ("base", "captions"), (0,), questions=8)
    monkeypatch.setattr("analysis.redraw._draw", draw_slowly)
    draw(tmp_path)
    assert could_begin == [False]


@pytest.mark.soak
def test_the_same_results_give_the_same_bytes_in_another_process(one_seed: Path) -> None:
    paths = [path for path in one_seed.rglob("*") if path.name in NAMES + OVERALL]
    first = {path: path.read_bytes() for path in paths}
    assert len(first) == len(NAMES + OVERALL)
    command = "import sys, pathlib, analysis.redraw; analysis.redraw.draw(pathlib.Path(sys.argv[1]))"
    run_python(command, str(one_seed), PYTHONHASHSEED="1234").check_returncode()
    assert {path: path.read_bytes() for path in paths} == first


def test_a_home_in_which_nobody_can_write_is_no_concern_of_drawing(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("no folder")
    result = run_python("import analysis.style", HOME=str(tmp_path / "home"), XDG_CONFIG_HOME="", MPLCONFIGDIR="")
    assert not result.stderr


def test_the_overview_tells_lessons_and_how_to_run_the_rest(one_seed: Path) -> None:
    summary = (one_seed / "summary.md").read_text(encoding="utf-8")
    assert "5 trials of 1 sweep at scale mini, with development seed 0, in a miniature" in summary
    assert re.search(r"Of \d+ lessons: \d+ not judged \(not run: \d+, one seed: \d+", summary)
    links = re.findall(r"\]\(<(.+?)>\)", summary)
    assert len(links) > 5 and all((one_seed / link).exists() for link in links)
    rest = (one_seed / "mini" / "lessons.csv").read_text(encoding="utf-8")
    assert f"not run: mm1-lab run encoder --scale mini --results {one_seed}" in rest
    lessons = pd.read_csv(one_seed / "mini" / "lessons.csv").set_index("detail")
    lift = lessons.loc["captions − interleaved, 0-shot"]
    assert (lift["verdict"], lift["reason"], lift["seeds_are"]) == ("not judged", "one seed", "development")
    assert lift["estimate"] > 15 and lessons["low"].notna().equals(lessons["estimate"].notna())
    claims = pd.read_csv(one_seed / "mini" / "data_mix" / "contrasts.csv")
    assert set(claims["reason"][claims["estimate"].isna()]) == {"no scores"}, "which another seed would not give"


def test_the_report_needs_nothing_else_and_tells_all_of_it(one_seed: Path, data_mix: Sweep) -> None:
    text = (one_seed / "report.html").read_text(encoding="utf-8")
    names = re.findall(r'<[^>]* id="([^"]+)"', text)
    references = re.findall(r'<[^>]* (?:href|src)="([^"]*)"', text)
    inside = [reference[1:] for reference in references if reference.startswith("#")]
    assert len(set(names)) == len(names) and set(inside) <= set(names) and len(inside) >= 4
    assert all(reference.startswith(("#", "data:")) for reference in references)
    assert not re.search(r"<script|<img(?![^>]* alt=)|url\(|@import|https?:", text)

    assert re.search(r"each a change to the base: encoder size ViT-L, (?![^.]* (none|None|unset))", text)
    (base,) = re.findall(r"each a change to the base: (.*)\.(?=\s|<|$)", text)
    assert base.endswith("steps 200000, learning rate scale"), "what is as usual and seldom varied is unsaid"
    assert "captions lift zero-shot" in text and "not run: mm1-lab" not in text, "no empty rows"
    assert text.index("No design choice can be said") < text.index(" lessons: ") < text.index("The axes as a table")
    assert '<p class="banner">One seed (0)' in text and "<strong>not judged</strong>: one seed" in text
    assert "Without scores:</strong> captions-50 (seed 0)" in text
    assert "mm1-lab run data_mix --scale mini --only base --only blind --only captions --only int" in text
    assert "\nmm1-lab report</code>" in text, "as a lab of one's own may have no Makefile"
    base = Recipe.model_validate({"frozen": ["encoder"], "sft": {"views": 5}})
    told = _question(data_mix.model_copy(update={"base": base}))
    assert told.endswith("learning rate scale, frozen encoder, sft resolution 336, sft views 5, sft steps 10000.")


@pytest.mark.usefixtures("unrendered")
def test_a_question_of_ones_own_comes_first_and_committed_results_change_only_where_they_are_named(
    tmp_path: Path, data_mix: Sweep, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], printed: Told
) -> None:
    """Without a sweep of the paper there is no lesson, and no figure without a verdict to show."""
    arms = ("base", "captions", "interleaved")
    of_paper = of_arms(data_mix, arms, contrasts=data_mix.contrasts[:1])
    own = of_paper.model_copy(update={"name": "zeta", "title": "My question", "contrasts": (LIFTS,)})
    local, study = tmp_path / "local", tmp_path / "study"
    monkeypatch.setattr("mm1_lab.commands.showing.RESULTS", local)
    monkeypatch.setattr("mm1_lab.commands.showing.PUBLISHED", study)
    write_results(study, own, ("base", "captions"), (0, 1), scale="smoke", questions=8)
    write_text(local / "trials" / "one" / "DONE", "")
    assert main(["report"]) == 2 and "has finished trials, but no sweep.json; run" in capsys.readouterr().err
    shutil.rmtree(local / "trials")
    before = {path: path.read_bytes() for path in study.rglob("*") if path.is_file()}

    assert f"{local}: no results here; showing the shipped results" in printed("report")
    assert not list(local.glob("study/*/*/sweep.json")) and not (local / "study" / "trials").exists(), "no copies"
    assert not list(local.glob("study/smoke/lessons*")) and not list(local.glob("study/smoke/**/contrasts.png"))
    summary, report = ((local / "study" / name).read_text(encoding="utf-8") for name in ("summary.md", "report.html"))
    for text in (summary, report):
        assert "essons" not in text.partition("Glossary")[0] and "not run" not in text
    assert report.index("<h1>My question") < report.index("<h2") < report.index("Scores of the arms")

    write_results(local, own, arms, (0, 1), scale="smoke", questions=8)
    misspelt = "{name: mine, claim: c, paper: p, section: s, sweep: zeta, margin: m, parts: [{axis: data_mix}]}"
    write_text(local / "lessons.yaml", f"- {misspelt}\n")
    assert main(["figures"]) == 0
    told = "the sweep's arms do not differ in 'data_mix'; did you mean 'data mix'?"
    assert told in (local / "smoke" / "lessons.md").read_text(encoding="utf-8")
    (local / "lessons.yaml").unlink()
    write_text(local / "smoke" / "decision_accuracy.md", "of sweeps that were there")
    write_text(local / "smoke" / "zeta" / "table_4.md", "of tuned arms that the sweep had before")
    assert main(["figures"]) == 0 and not list(local.glob("smoke/[ld]e*")), "nothing is left of it"
    assert not list(local.glob("smoke/zeta/table_*")) and (local / "smoke" / "zeta" / "table.md").exists()
    write_results(local, of_paper, arms, (0, 1), scale="smoke", questions=8)
    assert main(["figures"]) == 0
    summary = (local / "summary.md").read_text(encoding="utf-8")
    assert re.search("### My question.*### Across sweeps.*captions lift zero-shot.*### Pre-training", summary, re.S)
    assert "run zeta --scale smoke --seeds 0,1`" in summary

    for row in read_trials(zeta := local / "smoke" / "zeta"):
        shutil.rmtree(local / "trials" / row.fingerprint)
    write_text(zeta / "scores.parquet", "a pack, which is not drawn")
    monkeypatch.setattr("analysis.pages.groups.unseen_notes", lambda lessons: ["See `docs/study.md`."])
    capsys.readouterr()
    assert main(["report"]) == 0
    gone = "zeta at smoke: 0 of 6 trials have scores, so it is left out; what was drawn of it before is deleted"
    assert f"{gone}\n" in capsys.readouterr().err
    assert {path.name for path in zeta.glob("*")} == {"sweep.json", "trials.csv", "scores.parquet"}
    assert all(f"{gone}." in (local / name).read_text(encoding="utf-8") for name in ("summary.md", "report.html"))
    report = (local / "report.html").read_text(encoding="utf-8")
    assert "`" not in report and "See <code>docs/study.md</code>." in report, "marks are tags in it"

    assert main(["figures", "--results", str(study), "--into", str(tmp_path / "mine")]) == 0
    assert (tmp_path / "mine" / "smoke" / "zeta" / "table.md").exists() and (tmp_path / "mine" / "summary.md").exists()
    assert {path: path.read_bytes() for path in study.rglob("*") if path.is_file()} == before
    assert main(["figures", "--results", str(study), "--latex"]) == 0 and (study / "summary.md").exists()
    assert {path.stem for path in study.rglob("*.tex")} == {path.stem for path in study.glob("*/**/*.md")} >= {"axes"}
    assert {path.stem for path in study.rglob("*.pdf")} == {path.stem for path in study.glob("smoke/**/*.png")}


def test_means_of_unlike_benchmarks_are_told_and_a_study_goes_with_its_last_user(data_mix: Sweep) -> None:
    study = study_of(data_mix, (0, 1), questions=8, arms=("base", "captions"))
    assert not [note for note in compare_table(study, "base", "captions").notes if "numbers of shots" in note]
    fewer = (study.scores["benchmark"] != "vqa") | (study.scores["shots"] == 0)
    study = replace(study, scores=study.scores[fewer])
    told = "Means at different numbers of shots are not comparable, as only some of them ask vqa."
    assert told in compare_table(study, "base", "captions").notes and told in means_table(study).notes
    alive = weakref.ref(study)
    del study
    gc.collect()
    assert alive() is None


def test_equal_scores_of_groups_of_arms_support_nothing(data_mix: Sweep) -> None:
    """A third of 100 three times is 100 only up to its last bit."""
    group = ("captions", "interleaved", "text-14")
    study = study_of(data_mix, (0, 1, 2), questions=8, arms=("base", *group))
    full = replace(study, scores=study.scores.assign(score=100.0))
    found = Difference(full, {(arm, TEXT_CORE): 1 / 3 for arm in group} | {("base", TEXT_CORE): -1.0}).over_seeds
    assert found and found.estimate == 0 and p_values("less", 0.0, found) == {"supported": 1.0, "contradicted": 1.0}


def test_an_arm_by_itself_is_compared_by_two_measures(data_mix: Sweep) -> None:
    """As in the lesson that demonstrations help, which then has the verdict."""
    help_it = Contrast.parse({"claim": "help", "first": "base", "measure": "4-shot - 0-shot", "expect": "greater"}, "")
    both = help_it.model_copy(update={"claim": "help both", "first": ("base", "captions")})
    sweep = data_mix.model_copy(update={"contrasts": (help_it, both)})
    study = study_of(sweep, (0, 1, 2), questions=8, arms=("base", "captions"))
    (lesson,) = (one for one in load_lessons() if one.name == "few-shot")
    decisive = of_lessons(study, [lesson])[0]
    claims = judge_contrasts(study, of_lessons(study, [lesson])).set_index("claim")
    known = [decisive.found.estimate, min(decisive.p.values()), decisive.found.low]
    assert claims.loc["help", ["estimate", "p", "low"]].tolist() == known
    assert claims["of_lesson"].tolist() == ["few-shot", ""]
    assert claims["detail"].tolist() == ["base: 4-shot − 0-shot", "mean of base, captions: 4-shot − 0-shot"]
    lifts = study.all_values(Measure(shots=4)) - study.all_values(Measure(shots=0))
    assert claims.loc["help both", "estimate"] == pytest.approx(lifts.loc[["base", "captions"]].to_numpy().mean())


def test_half_of_an_interaction_is_said_to_be_half(data_mix: Sweep) -> None:
    base = data_mix.base
    fewer, smaller = {"image_tokens": 64}, {"resolution": 224}
    changes = {"neither": {}, "one": fewer, "other": smaller, "both": fewer | smaller}
    arms = {name: base.model_copy(update=change) for name, change in changes.items()}
    sides = {"more beside the other": ("both, neither", "one, other"), "fewer": ("both, one", "neither, other")}
    contrasts = []
    for claim, (first, second) in sides.items():
        values = {"claim": claim, "first": first.split(", "), "second": second.split(", ")}
        contrasts.append(Contrast.parse(values | {"measure": "4-shot", "expect": "less"}, ""))
    study = study_of(of_arms(data_mix, arms, contrasts=tuple(contrasts)), (0, 1), questions=8)
    said = [note for note in claims_notes(study, judge_contrasts(study)) if "half of an interaction" in note]
    assert len(said) == 1 and said[0].startswith("As groups are means, 'more beside the other' has half of an interact")


def test_a_loss_is_in_nats_and_in_no_figure_of_points(data_mix: Sweep) -> None:
    loss = Contrast(claim="less", first="captions", second="base", measure=Measure("text", about="loss"), expect="less")
    lift = loss.model_copy(update={"claim": "lift", "measure": AVERAGE})
    sweep = data_mix.model_copy(update={"contrasts": (loss, lift)})
    study = study_of(sweep, (0, 1), questions=8, arms=("base", "captions", "interleaved"))
    rows = [(arm, seed, "", "text", 1.5 - 0.03 * (arm == "captions")) for arm in study.scored for seed in (0, 1)]
    study = replace(study, held_out=pd.DataFrame(rows, columns=study.held_out.columns))
    claims = judge_contrasts(study)
    cells = verdicts_table(claims).frame["estimate"]
    assert cells[0] == "−0.030 [all alike] nats" and "nats" not in cells[1]
    figure = draw_claims(claims, "")
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["lift"]
    assert "Not drawn, as slopes and losses are no points: 1." in " ".join(figure.get_supxlabel().split())
    assert not is_drawn(claims[:1], "mini")


@styled()
def test_a_claim_s_label_is_a_line_or_two_alike_and_a_title_of_wide_letters_has_half_as_many_on_each() -> None:
    assert row_name("a contrastive encoder beats a reconstructive one of its size", LETTERS).count("\n") == 0
    long = "of the encoder, resolution matters most: more than its size, its loss or its data"
    first, second = row_name(long, LETTERS).split("\n")
    assert f"{first} {second}" == long and abs(len(first) - len(second)) < 10
    figure = Figure(figsize=(5, 1))
    annotate_head(figure, "图像标记" * 10)
    assert [len(line) for line in figure.get_suptitle().split("\n")] == [35, 5]


@styled()
def test_long_names_leave_room_for_what_is_drawn_at_eight_numbers_of_shots(data_mix: Sweep) -> None:
    names = [f"{'a name that says all about the data, the connector and the rate ' * 2}{number}" for number in range(2)]
    arms = dict(zip(names, (data_mix.arms[arm] for arm in ("base", "captions")), strict=True))
    title = "A title that is so long that it would reach below the names of the numbers of shots on its right"
    study = study_of(of_arms(data_mix, arms, title=title, reproduces=""), (0, 1), questions=8)
    scores = study.scores.replace({"vqa": "mmbench_en_dev_lite", "text-vqa": "scienceqa_img_test"})
    shots = (*study.shots, *range(9, 14))
    scores = pd.concat([scores, *(scores[scores["shots"] == 8].assign(shots=count) for count in shots[3:])])
    figure = draw_scores(of_own_data(replace(study, scores=scores), data_name="mine", shots=shots))
    figure.draw_without_rendering()
    boxes = [axis.title.get_window_extent() for axis in figure.axes]
    assert all(left.x1 <= right.x0 for left, right in pairwise(boxes))
    assert min(axis.get_window_extent().width for axis in figure.axes) > 0.6 * figure.dpi
    assert figure._suptitle.get_window_extent().x1 <= figure.legends[0].get_window_extent().x0  # type: ignore[attr-defined]
    marks = [handle for handle in figure.legends[0].legend_handles if isinstance(handle, Line2D)]
    looks = [(mark.get_color(), mark.get_marker()) for mark in marks]
    assert len(looks) == 8 == len({colour for colour, _ in looks}) == len({marker for _, marker in looks})


def levels_of(study: Study) -> list[list[object]]:
    """Axis, level of the base, other level, and how many pairs."""
    rows: list[list[object]] = level_rows(study)[["axis", "base", "level", "pairs"]].to_numpy().tolist()
    return rows


def test_levels_of_a_grid_of_two_encoders_side_by_side_and_of_an_empty_mixture(data_mix: Sweep) -> None:
    arms = {"base": data_mix.base}
    for resolution, images in product((224, 378), ("shown", "shuffled")):
        changed = {"resolution": resolution, "image_tokens": 64, "images": images}
        arms[f"{resolution} {images}"] = data_mix.base.model_copy(update=changed)
    found = levels_of(study_of(of_arms(data_mix, arms), (0, 1), questions=8))
    assert found == [["resolution", "224", "378", 2], ["images", "shown", "shuffled", 2]]
    names = {"one": "siglip", "other": "dino", "both": ["dino", "siglip"]}
    arms = {arm: Recipe.model_validate({"encoder": encoder, "sft": {}}) for arm, encoder in names.items()}
    arms["mixed"] = Recipe.model_validate({"encoder": "siglip", "sft": {"mixture": {"charts": 2}}})
    assert levels_of(of_own_data(study_of(of_arms(data_mix, arms, base=arms["one"]), (0, 1), questions=8))) == [
        ["encoder size", "siglip", "dino", 1],
        ["encoder size", "siglip", "dino + siglip", 1],
        ["sft mixture", "unset", "charts 2.0", 1],
    ]


def test_a_long_path_in_the_figure_of_axes_is_its_end(data_mix: Sweep) -> None:
    folder = "/mnt/shared/models/pretrained/of-the-whole-team/SmolLM2-{}-Instruct"
    base = data_mix.base.model_copy(update={"decoder": folder.format("135M")})
    arms = {"base": base, "larger": base.model_copy(update={"decoder": folder.format("360M")})}
    levels = level_rows(study_of(of_arms(data_mix, arms, base=base), (0, 1), questions=8))
    figure = draw_axes(levels, "", "")
    (label,) = figure.axes[0].get_yticklabels()
    assert label.get_text().endswith("/SmolLM2-360M-Instruct") and len(label.get_text()) <= 40


def test_a_comparison_at_one_seed_says_what_its_interval_is_over_if_it_has_one(data_mix: Sweep) -> None:
    study = study_of(data_mix, (0,), arms=("base", "captions"))
    of_questions = "Points, development seed 0; the difference's interval is over questions, conditional on these"
    assert compare_arms(study, "captions", "base").notes[0].startswith(of_questions)
    one_block = replace(study, scores=study.scores.assign(block=0))
    found = compare_arms(one_block, "captions", "base", measure=Measure("vqa", 4))
    assert found.rows[0]["difference"] and np.isnan(found.rows[0]["low"])
    assert found.notes[0] == "Points, development seed 0; at one seed there is no interval."
