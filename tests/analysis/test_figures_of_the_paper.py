"""Encoders by themselves, and tuned models: from results made by hand."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from analysis.pages.figures import draw_scores
from analysis.pages.scores import encoders_table, short_table
from analysis.study import read_study
from mm1_lab.config import Sweep, load_sweep
from tests.analysis.results_folder import ROOT, study_of, vouch_for, write_results

QUALITY = {"retrieval": {"pairs": 256, "image_to_text": 0.625}, "probe": {"auc": 0.875, "words": 20}}


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
    assert set(frame["retrieval %"]) == {62.5} and set(frame["probe %"]) == {87.5}


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
    assert [text.get_text() for text in left.get_yticklabels()][:3] == ["captions", "base (base)", "interleaved"]
    frame = short_table(study).frame
    assert list(frame.columns)[:2] == ["arm", "chat 0-shot"]
