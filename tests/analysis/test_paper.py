"""The published numbers: only what the paper or a named report says, never invented; and our own in the paper's tables,
from results made by hand."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from analysis.output import Output
from analysis.pages.figures import draw_scores
from analysis.pages.published import table_by_benchmark, write_published
from analysis.pages.scores import short_table
from analysis.paper import FOLDER, read_paper
from analysis.study import Study
from mm1_lab.config import PAPER_LAW, SftRecipe, Sweep
from tests.analysis.results_folder import of_arms, of_own_data, study_of, with_manifest


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.csv")), ids=lambda path: path.stem)
def test_every_file_keeps_the_form_and_names_its_sources(path: Path) -> None:
    rows = pd.read_csv(path, keep_default_na=False, na_values={"value": ""}, dtype={"value": float})
    assert list(rows) == ["panel", "label", "minus", "measure", "bound", "value", "source"]
    assert len(rows) and not rows.duplicated(["panel", "label", "minus", "measure"]).any()
    assert set(rows["bound"]) <= {"equal", "above", "unknown"} and (rows[["label", "measure"]] != "").all(axis=None)
    assert ((rows["bound"] == "unknown") == rows["value"].isna()).all()
    assert rows["source"].str.startswith(("MM1 ", "as reported by ", "the xGen-MM ")).all()


def test_numbers_of_the_paper_are_stated_or_derived_and_equation_1_is_a_recipe_s_rate() -> None:
    paper = read_paper("Fig. 5")
    stated = paper.difference("d", "with VeCap", "without VeCap", "4-shot")
    derived = paper.difference("a", "100/0", "0/100", "0-shot")
    bound = paper.difference("a", "50/50", "100/0", "4-shot")
    assert stated and stated.value == 2.4 and "derived" not in stated.source
    assert derived and derived.value == 13.5 and "derived" in derived.source
    assert str(bound) == "> 14.3"
    assert not paper.difference("a", "100/0", "50/50", "4-shot")  # a number minus a lower bound says nothing
    law = {label: number.value for (_, label, _), number in read_paper("Equation 1").values.items()}
    assert PAPER_LAW.rate(30_000_000_000) == pytest.approx(law["rate at 3e10 parameters"], rel=0.01)
    rates = [PAPER_LAW.rate(n) for n in (10**7, 10**10)]
    assert (rates[1] / rates[0]) == pytest.approx(1000 ** law["slope"], rel=0.01)


def published(study: Study, folder: Path) -> list[str]:
    """The names of the tables of the paper that are written."""
    output = Output(folder)
    write_published(study, output)
    return [path.name for path in output.files]


def test_a_table_by_benchmark_has_our_arms_above_the_published_rows(tmp_path: Path, data_mix: Sweep) -> None:
    study = study_of(of_arms(data_mix, ("base", "captions"), reproduces="Table 3"), (0, 1))
    by_cider = study.scores["metric"] == "cider"
    names, families = (study.scores[name].astype(str) for name in ("benchmark", "family"))
    names, families = names.mask(by_cider, names + " cider"), families.mask(by_cider, "further")
    scores = study.scores.assign(benchmark=names, family=families)
    frame = table_by_benchmark(replace(study, scores=scores), "Table 3").frame.set_index(["shots", "model"])
    captions = {"captions": "COCO", "novel-captions": "NoCaps", "text-captions": "TextCaps"}
    assert list(frame.columns) == [
        *(f"{name} cider (mirrors {paper})" for name, paper in captions.items()),
        *("vqa (mirrors VQAv2)", "text-vqa (mirrors TextVQA)", "VizWiz", "OKVQA", "relation-vqa (mirrors GQA)"),
    ]
    gqa = "relation-vqa (mirrors GQA)"
    eight = list(frame.loc["8-shot"].index)
    assert eight == ["base", "captions", "*MM1-3B*", "*MM1-7B*", "*MM1-30B*"]
    assert list(frame.loc["16-shot"].index) == ["*MM1-30B*"], "at shots that only the paper has"
    asked = study.scores[(study.scores["benchmark"] == "relation-vqa") & (study.scores["shots"] == 8)]
    each = asked[asked["arm"] == "base"].groupby("seed")["score"].mean()
    half = abs(each[0] - each[1]) / 2 * 12.706  # t with one degree of freedom
    shown = [float(number) for number in frame.loc[("8-shot", "base"), gqa].split(" ± ")]
    assert shown == pytest.approx([each.mean(), half], abs=0.06)
    assert frame.loc[("8-shot", "base"), "VizWiz"] == "–" and frame.loc[("8-shot", "*MM1-7B*"), gqa] == ""
    assert frame.loc[("8-shot", "*MM1-7B*"), "OKVQA"] == "*51.4* [1]"
    assert published(study, tmp_path) == ["table_3.md"]


def test_whoever_asks_the_papers_benchmarks_gets_its_table(tmp_path: Path, data_mix: Sweep) -> None:
    """Official files by name, whatever the sweep reproduces; lmms-eval's tasks by its names, POPE by F1."""
    study = study_of(of_arms(data_mix, ["base"]), (0,))
    assert published(study, tmp_path) == [], "the world's own are not the paper's"

    names = {"captions": "coco", "vqa": "vqav2", "relation-vqa": "gqa", "text-vqa": "mine"}
    scores = study.scores.assign(benchmark=study.scores["benchmark"].map(names))
    official = replace(study, scores=scores.dropna(subset="benchmark"))
    assert published(official, tmp_path) == ["table_3.md"]
    row = table_by_benchmark(official, "Table 3").frame.set_index(["shots", "model"]).loc[("4-shot", "base")]
    assert all("±" in row[column] for column in ("COCO", "VQAv2", "GQA")) and row["VizWiz"] == "–"

    tables = {}
    for name in ("vqav2_val", "chat-vqa"):
        of_own = of_own_data(replace(study, scores=study.scores.assign(benchmark=name)))
        tuned = {"base": of_own.sweep.arms["base"].model_copy(update={"sft": SftRecipe()})}
        tables[name] = published(with_manifest(of_own, sweep=of_arms(of_own.sweep, tuned)), tmp_path)
    assert tables == {"vqav2_val": ["table_4.md"], "chat-vqa": []}, "a user's `chat-vqa` mirrors nothing"


def test_tuned_models_are_shown_by_what_they_were_tuned_for(data_mix: Sweep) -> None:
    """Conversations and worked solutions, by arm; the means of pre-trained models are in the tables."""
    tuned = {"sft": SftRecipe()}
    arms = {name: data_mix.arms[name].model_copy(update=tuned) for name in ("captions", "base", "interleaved")}
    study = study_of(of_arms(data_mix, arms, reproduces="Fig. 6b"), (0, 1))
    families = {"vqa": "chat", "text-vqa": "chat", "relation-vqa": "solutions", "captions": "captioning"}
    scores = study.scores.assign(family=study.scores["benchmark"].map(families)).dropna(subset="family")
    study = replace(study, scores=scores)
    left, right = draw_scores(study).axes
    assert (left.get_title(), right.get_title()) == ("conversations", "worked\nsolutions")
    chat = scores[(scores["family"] == "chat") & (scores["shots"] == 0)].groupby("arm")["score"].mean()
    (marks,) = (line.get_xdata() for line in left.get_lines() if line.get_marker() == "o")
    assert list(marks) == pytest.approx([chat[arm] for arm in arms])
    assert [text.get_text() for text in left.get_yticklabels()][:3] == ["captions", "base", "interleaved"]
    frame = short_table(study).frame
    assert list(frame.columns)[:2] == ["arm", "chat 0-shot"]
