"""Table 1 and Fig. 4: what stands in them, from results made by hand."""

import csv
import json
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from analysis.pages.figures import draw_groups, draw_scores
from analysis.pages.published import table_1, table_by_benchmark, write_published
from analysis.pages.tables import short_table
from analysis.pages.tuned_figure import draw_tuned
from analysis.paper import Paper, PaperNumber
from analysis.study import Study, read_study
from analysis.style import MARKERS, PALETTE
from analysis.table import to_markdown
from mm1_lab.config import Panel, Sweep, load_sweep
from mm1_lab.results.summary import PLAIN
from tests.analysis.results_folder import ROOT, score_rows, study_of, vouch_for, write_results

SIZES = ("3B", "3B-MoE", "7B", "7B-MoE", "30B")
QUALITY = {"retrieval": {"pairs": 256, "image_to_text": 0.625}, "probe": {"auc": 0.875, "words": 20}}


def results_of(sweep: Sweep, results: Path, **missing: str) -> Path:
    return write_results(results, sweep, sweep.arms, (0, 1), **missing)


def test_table_1_has_the_paper_s_rows_in_its_order_with_its_numbers(tmp_path: Path) -> None:
    sweep = load_sweep(ROOT / "sweeps" / "encoder.yaml")
    folder = results_of(sweep, tmp_path, missing="AIM-1B/0 AIM-1B/1")
    for path in list(tmp_path.glob("trials/*/record.json")):
        record = json.loads(path.read_text())
        record["summaries"]["encoder"] = QUALITY
        path.write_text(json.dumps(record))
        vouch_for(path.parent)
    study = read_study(folder)
    number = PaperNumber(36.6, "equal", "MM1 Table 1")
    panel, labels = next((key, list(panel.arms)) for key, panel in study.panels.items())
    study.__dict__["paper"] = Paper({(panel, labels[0], "0-shot"): number}, {})
    lines = [line for line in to_markdown(table_1(study)).splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert [row[0] for row in rows[2:]] == labels and len(labels) == 10
    assert rows[0][-3:] == ["MM1 0-shot", "MM1 4-shot", "MM1 8-shot"]
    first, second, last = rows[2], rows[3], rows[-1]
    assert first[1:6] == ["reconstructive", "224", "images", "62.5", "87.5"]
    assert first[-3:] == ["*36.6* [1]", "", ""] and last[-3:] == ["", "", ""]
    assert second[4:9] == ["–"] * 5  # without scores
    assert last[1:4] == ["contrastive", "378", "DFN"]
    ours = [row for seed in (0, 1) for row in score_rows("AIM-600M", seed) if row.shots == 4 and row.family in PLAIN]
    assert float(first[7].split()[0]) == pytest.approx(sum(row.score for row in ours) / len(ours), abs=0.06)

    write_published(study, folder)
    with (folder / "table_1.csv").open(encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert len(table) == 18 and {row["probe"] for row in table} == {"0.875"}


def test_a_table_by_benchmark_has_our_arms_above_the_published_rows(tmp_path: Path, data_mix: Sweep) -> None:
    arms = {name: data_mix.arms[name] for name in ("base", "captions")}
    sweep = data_mix.model_copy(update={"arms": arms, "panels": {}, "contrasts": (), "reproduces": "Table 3"})
    folder = write_results(tmp_path, sweep, arms, (0, 1), questions=16)
    frame = table_by_benchmark(read_study(folder), "Table 3").frame.set_index(["shots", "model"])
    assert list(frame.columns) == [
        *("captions (mirrors COCO)", "novel-captions (mirrors NoCaps)", "text-captions (mirrors TextCaps)"),
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
    assert [path.name for path in write_published(read_study(folder), folder)] == ["table_3.tex", "table_3.md"]

    study = read_study(folder)
    with_content = replace(study, scores=study.scores.assign(content=1.0))
    assert table_by_benchmark(with_content, "Table 3").frame.equals(table_by_benchmark(study, "Table 3").frame)
    names = {"vqa": "chat-vqa", "text-vqa": "pope-random f1", "relation-vqa": "pope-popular f1", "captions": "MM-Vet"}
    scores = study.scores[study.scores["shots"] == 0].assign(benchmark=lambda rows: rows["benchmark"].map(names))
    study = replace(study, scores=scores.dropna(subset="benchmark").assign(family="chat"))
    frame = table_by_benchmark(study, "Table 4").frame.set_index("model")
    assert {"table_4.tex", "table_4.md"} <= {path.name for path in write_published(study, folder)}
    assert list(frame.index) == ["base", "captions", *(f"*MM1-{size}-Chat*" for size in SIZES)]
    three = scores[(scores["arm"] == "base") & scores["benchmark"].str.startswith("pope", na=False)]["score"].mean()
    assert float(frame.loc["base", "mean of 2 (mirrors POPE, F1)"].split(" ± ")[0]) == pytest.approx(three, abs=0.06)
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
    assert write_published(study, folder) == [], "the world's own are not the paper's"

    def called(names: dict[str, str], family: str | None = None) -> Study:
        scores = study.scores.assign(benchmark=lambda rows: rows["benchmark"].map(names)).dropna(subset="benchmark")
        return replace(study, scores=scores.assign(family=family) if family else scores)

    official = called({"captions": "coco", "vqa": "vqav2", "relation-vqa": "gqa", "text-vqa": "mine"})
    assert {path.name for path in write_published(official, folder)} == {"table_3.tex", "table_3.md"}
    row = table_by_benchmark(official, "Table 3").frame.set_index(["shots", "model"]).loc[("4-shot", "base")]
    assert all("±" in row[column] for column in ("COCO", "VQAv2", "GQA")) and row["VizWiz"] == "–"
    tasks = {"vqa": "pope", "text-vqa": "pope pope_f1_score", "relation-vqa": "mmmu_val", "captions": "unknown"}
    imported = called(tasks, "imported")
    assert {path.name for path in write_published(imported, folder)} == {"table_4.tex", "table_4.md"}
    row = table_by_benchmark(imported, "Table 4").frame.set_index("model").loc["base"]
    zero = imported.scores[imported.scores["shots"] == 0].groupby("benchmark")["score"].mean()
    assert float(row["POPE"].split(" ± ")[0]) == pytest.approx(zero["pope pope_f1_score"], abs=0.06)
    assert "±" in row["MMMU val"] and write_published(called({"vqa": "unknown"}, "imported"), folder) == []


def test_fig_4_is_drawn_with_a_hole(tmp_path: Path) -> None:
    sweep = load_sweep(ROOT / "sweeps" / "connector.yaml")
    shown = {arm for panel in sweep.panels.values() for arm in panel.arms.values()}
    assert shown == set(sweep.arms) and len(shown) == 12
    study: Study = read_study(results_of(sweep, tmp_path, missing="c-abstractor 224 64/0 c-abstractor 224 64/1"))
    pictures = []
    for name, panels in (("whole", sweep.panels), ("less", dict(list(sweep.panels.items())[:2]))):
        changed = replace(study)
        changed.__dict__["panels"] = panels
        written = draw_groups(changed, tmp_path / name)
        assert [path.suffix for path in written] == [".png", ".pdf"]
        with Image.open(written[0]) as picture:
            pictures.append(picture.convert("L").tobytes())
    assert pictures[0] != pictures[1]


def test_fig_6_has_conversations_over_arms_and_solutions_over_shots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data_mix: Sweep
) -> None:
    """In points; thin lines are single benchmarks. Beside steps of a scale, other arms are on no line."""
    arms = {name: data_mix.arms[name] for name in ("captions", "base", "interleaved")}
    sweep = data_mix.model_copy(update={"arms": arms, "panels": {}, "contrasts": (), "reproduces": "Fig. 6b"})
    study = study_of(sweep, (0, 1))
    families = {"vqa": "chat", "text-vqa": "chat", "relation-vqa": "solutions"}
    scores = study.scores.assign(family=study.scores["benchmark"].map(families)).dropna(subset="family")
    study = replace(study, scores=scores)
    drawn: list[Figure] = []
    monkeypatch.setattr("analysis.pages.tuned_figure.save", lambda figure, path: drawn.append(figure) or [])
    assert draw_scores(study, tmp_path / "figure") == []
    left, right = drawn[0].axes
    chat = scores[(scores["family"] == "chat") & (scores["shots"] == 0)].groupby(["arm", "benchmark"])["score"].mean()
    lines = [list(line.get_ydata()) for line in left.lines if len(line.get_ydata()) == 3]
    expected = [[chat[arm, name] for arm in arms] for name in ("vqa", "text-vqa")]
    expected += 2 * [[chat[arm].mean() for arm in arms]]  # the line and its markers
    assert left.get_ylabel() == "points" and left.get_ylim()[0] == 0
    assert (left.get_xlabel(), right.get_xlabel()) == ("pre-training data", "worked solutions in the prompt")
    assert {text.get_text() for text in left.texts} == {"vqa", "text-vqa"}
    assert lines == [pytest.approx(own) for own in expected]
    solved = scores[scores["family"] == "solutions"].groupby(["arm", "shots"])["score"].mean()
    lines = [list(line.get_ydata()) for line in right.lines if len(line.get_ydata()) == 3]
    assert lines == [pytest.approx([solved[arm, shots] for shots in (0, 4, 8)]) for arm in arms]
    places = [list(line.get_xdata()) for line in right.lines if len(line.get_xdata()) == 3][: len(arms)]
    assert np.mean(places, axis=0) == pytest.approx(right.get_xticks()), "arms stand around the tick of their shots"
    assert list(short_table(study).frame.columns)[:2] == ["arm", "chat 0-shot"]
    resolution = sweep.model_copy(update={"axis": "resolution"})
    with_axis = study.manifest.model_copy(update={"sweep": resolution})
    steps = {"336": "captions", "five views of 336": "base", "1344": "interleaved"}
    study = replace(study, variant=replace(study.variant, manifest=with_axis))
    study.__dict__["panels"] = {"": Panel(title="resolution", arms=steps)}
    draw_scores(study, tmp_path / "figure")
    left = drawn[1].axes[0]
    assert [text.get_text() for text in left.get_xticklabels()] == ["336", "1344", "five views\nof 336"]
    assert left.get_xlabel() == "resolution of images in tuning (px)"
    drawn[1].canvas.draw()  # type: ignore[attr-defined]
    legend, label = left.get_legend(), left.xaxis.get_label()
    assert legend is not None and not legend.get_window_extent().overlaps(label.get_window_extent())
    joined = [list(line.get_ydata()) for line in left.lines if len(line.get_ydata()) == 2]
    assert [chat["captions"].mean(), chat["interleaved"].mean()] in [pytest.approx(own) for own in joined]
    study = replace(study)
    arms = {"336": "captions", "five views": "base"}  # a single step is a stroke like the others
    study.__dict__["panels"] = {"": Panel(title="resolution", arms=arms)}
    draw_scores(study, tmp_path / "figure")
    left = drawn[2].axes[0]
    strokes = [list(line.get_ydata()) for line in left.lines]
    for arm, name in product(arms.values(), ("vqa", "text-vqa")):
        assert [chat[arm, name]] * 2 in [pytest.approx(stroke) for stroke in strokes if len(stroke) == 2]
    ends = [max(line.get_xdata()) for line in left.lines if line.get_linewidth() == 0.5 and len(line.get_xdata())]
    assert ends and max(ends) < min(text.xy[0] for text in left.texts), "strokes end before the names"  # type: ignore[attr-defined]


def test_a_tuned_sweep_may_have_more_panels_than_there_are_colours(tmp_path: Path, data_mix: Sweep) -> None:
    arms = {name: data_mix.arms[name] for name in ("captions", "base")}
    sweep = data_mix.model_copy(update={"arms": arms, "panels": {}, "contrasts": (), "reproduces": ""})
    study = study_of(sweep, (0, 1))
    study = replace(study, scores=study.scores[study.scores["benchmark"] == "vqa"].assign(family="chat"))
    count = max(len(PALETTE), len(MARKERS)) + 1
    panel = Panel(title="panel", arms={name: name for name in arms})
    study.__dict__["panels"] = {f"panel {number}": panel for number in range(count)}
    assert all(path.exists() for path in draw_tuned(study, tmp_path / "figure", "head"))
