"""The paper's tables by benchmark, encoders by themselves, tuned models: from results made by hand."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from analysis.pages.figures import draw_scores
from analysis.pages.output import Output
from analysis.pages.published import table_by_benchmark, write_published
from analysis.pages.scores import encoders_table, short_table
from analysis.study import Study, read_study
from mm1_lab.config import Sweep, load_sweep
from tests.analysis.results_folder import ROOT, score_rows, study_of, vouch_for, write_results

SIZES = ("3B", "3B-MoE", "7B", "7B-MoE", "30B")
QUALITY = {"retrieval": {"pairs": 256, "image_to_text": 0.625}}


def published(study: Study, folder: Path) -> list[str]:
    """The names of the tables of the paper that are written."""
    output = Output(folder)
    write_published(study, output)
    return [path.name for path in output.files]


def test_encoders_are_shown_by_themselves_in_the_papers_order(tmp_path: Path) -> None:
    sweep = load_sweep(ROOT / "sweeps" / "encoder.yaml")
    folder = write_results(tmp_path, sweep, sweep.arms, (0, 1), missing="AIM-1B/0 AIM-1B/1", questions=16)
    for path in list(tmp_path.glob("trials/*/record.json")):
        record = json.loads(path.read_text())
        record["summaries"]["encoder"] = QUALITY
        path.write_text(json.dumps(record))
        vouch_for(path.parent)
    frame = encoders_table(read_study(folder)).frame
    assert frame["arm"].tolist() == [arm for arm in sweep.arms if arm != "AIM-1B"]
    assert set(frame["retrieval %"]) == {62.5}


def test_a_table_by_benchmark_has_our_arms_above_the_published_rows(tmp_path: Path, data_mix: Sweep) -> None:
    arms = {name: data_mix.arms[name] for name in ("base", "captions")}
    sweep = data_mix.model_copy(update={"arms": arms, "panels": {}, "contrasts": (), "reproduces": "Table 3"})
    folder = write_results(tmp_path, sweep, arms, (0, 1), questions=16)
    study = read_study(folder)
    by_cider = study.scores["metric"] == "cider"
    names, families = (study.scores[name].astype(str) for name in ("benchmark", "family"))
    scores = study.scores.assign(
        benchmark=names.mask(by_cider, names + " cider"), family=families.mask(by_cider, "further")
    )
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
    ours = [row.score for row in score_rows("base", 0, 16) + score_rows("base", 1, 16)
            if row.benchmark == "relation-vqa" and row.shots == 8]  # fmt: skip
    assert float(frame.loc[("8-shot", "base"), gqa].split(" ± ")[0]) == pytest.approx(sum(ours) / 32, abs=0.06)
    each = [np.mean([row.score for row in score_rows("base", seed, 16)
            if row.benchmark == "relation-vqa" and row.shots == 8]) for seed in (0, 1)]  # fmt: skip
    half = abs(each[0] - each[1]) / 2 * 12.706  # t with one degree of freedom
    assert float(frame.loc[("8-shot", "base"), gqa].split(" ± ")[1]) == pytest.approx(half, abs=0.06)
    assert frame.loc[("8-shot", "base"), "VizWiz"] == "–" and frame.loc[("8-shot", "*MM1-7B*"), gqa] == ""
    assert frame.loc[("8-shot", "*MM1-7B*"), "OKVQA"] == "*51.4* [1]"
    assert published(read_study(folder), folder) == ["table_3.md"]

    names = {"vqa": "chat-vqa", "text-vqa": "pope-random f1", "relation-vqa": "pope-popular f1", "captions": "MM-Vet"}
    scores = study.scores[study.scores["shots"] == 0].assign(benchmark=lambda rows: rows["benchmark"].map(names))
    study = replace(study, scores=scores.dropna(subset="benchmark").assign(family="chat"))
    frame = table_by_benchmark(study, "Table 4").frame.set_index("model")
    assert "table_4.md" in published(study, folder)
    assert list(frame.index) == ["base", "captions", *(f"*MM1-{size}-Chat*" for size in SIZES)]
    three = scores[(scores["arm"] == "base") & scores["benchmark"].str.startswith("pope", na=False)]["score"].mean()
    pope = frame.loc["base", "pope-random f1, pope-popular f1 (mirrors POPE)"]
    assert float(pope.split(" ± ")[0]) == pytest.approx(three, abs=0.06)
    assert (
        "±" in frame.loc["base", "MM-Vet"]
        and "±" in frame.loc["base", "chat-vqa (mirrors VQAv2)"]
        and frame.loc["base", "SEED"] == "–"
    )
    assert frame.loc["*MM1-30B-Chat*", "MathVista"] == "*39.4* [1]"


def test_whoever_asks_the_papers_benchmarks_gets_its_table(tmp_path: Path, data_mix: Sweep) -> None:
    """Official files by name, whatever the sweep reproduces; lmms-eval's tasks by its names, POPE by F1."""
    arms = {"base": data_mix.arms["base"]}
    sweep = data_mix.model_copy(update={"arms": arms, "panels": {}, "contrasts": ()})
    folder = write_results(tmp_path, sweep, arms, (0,), questions=16)
    study = read_study(folder)
    assert published(study, folder) == [], "the world's own are not the paper's"

    def called(names: dict[str, str], family: str | None = None) -> Study:
        scores = study.scores.assign(benchmark=lambda rows: rows["benchmark"].map(names)).dropna(subset="benchmark")
        return replace(study, scores=scores.assign(family=family) if family else scores)

    official = called({"captions": "coco", "vqa": "vqav2", "relation-vqa": "gqa", "text-vqa": "mine"})
    assert published(official, folder) == ["table_3.md"]
    row = table_by_benchmark(official, "Table 3").frame.set_index(["shots", "model"]).loc[("4-shot", "base")]
    assert all("±" in row[column] for column in ("COCO", "VQAv2", "GQA")) and row["VizWiz"] == "–"
    assert published(called({"vqa": "unknown"}), folder) == []


def test_tuned_models_are_shown_by_what_they_were_tuned_for(data_mix: Sweep) -> None:
    """Conversations and worked solutions, by arm; the means of pre-trained models are in the tables."""
    arms = {name: data_mix.arms[name] for name in ("captions", "base", "interleaved")}
    sweep = data_mix.model_copy(update={"arms": arms, "panels": {}, "contrasts": (), "reproduces": "Fig. 6b"})
    study = study_of(sweep, (0, 1))
    families = {"vqa": "chat", "text-vqa": "chat", "relation-vqa": "solutions", "captions": "captioning"}
    scores = study.scores.assign(family=study.scores["benchmark"].map(families)).dropna(subset="family")
    study = replace(study, scores=scores)
    left, right = draw_scores(study).axes
    assert (left.get_title(), right.get_title()) == ("conversations", "worked\nsolutions")
    chat = scores[(scores["family"] == "chat") & (scores["shots"] == 0)].groupby("arm")["score"].mean()
    marks = [float(line.get_xdata()[0]) for line in left.get_lines() if line.get_marker() == "o"]  # type: ignore[index]
    assert marks == pytest.approx([chat[arm] for arm in arms])
    assert [text.get_text() for text in left.get_yticklabels()][:3] == ["captions", "base", "interleaved"]
    frame = short_table(study).frame
    assert list(frame.columns)[:2] == ["arm", "chat 0-shot"]
