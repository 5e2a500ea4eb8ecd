"""Measures: words that are read and written back, what each is the mean of, and which means are comparable."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.judging.claims import Claim
from analysis.judging.verdicts import judge_contrasts
from analysis.pages.compare import compare_table
from analysis.pages.scores import means_table
from mm1_lab.config import AVERAGE, CHAT, TEXT_CORE, UNPARSED, Contrast, Measure, Sweep
from mm1_lab.results.summary import rows_of
from tests.analysis.results_folder import claim_row, of_own_data, study_of

WORDS = {
    "average": AVERAGE,
    "text-core": TEXT_CORE,
    "unparsed %": UNPARSED,
    "chat 0-shot": CHAT,
    "4-shot": Measure(shots=4),
    "pope-random f1 0-shot": Measure("pope-random f1", 0),
    "captions cider 8-shot": Measure("captions cider", 8),
    "kind colour 4-shot": Measure("colour", 4, about="kind"),
    "loss captions": Measure("captions", about="loss"),
}


def test_words_are_read_and_written_back_and_others_are_no_measure() -> None:
    for words, measure in WORDS.items():
        assert Measure.parse(words) == measure and str(measure) == words
    for other in ("", "textcore", "vqa", "vqa 4shot", "content average", "12345-shot", 4, None):
        with pytest.raises(ValueError, match="is not a measure; use text-core, average, 4-shot"):
            Measure.parse(other)


def test_a_kind_of_question_and_the_loss_of_a_source_have_values(data_mix: Sweep) -> None:
    study = study_of(data_mix, range(2), arms=("base", "captions"))
    study.scores["kind"] = np.where(study.scores["question"].str.endswith("-3"), "letter", "colour")
    rows = study.scores[(study.scores["kind"] == "letter") & (study.scores["shots"] == 4)]
    rows = rows[rows["family"].isin(("captioning", "vqa")) & (rows["arm"] == "base") & (rows["seed"] == 1)]
    letters = Measure("letter", 4, about="kind")
    assert study.trial_values(letters).loc["base", 1] == pytest.approx(rows.groupby("benchmark")["score"].mean().mean())
    loss = Measure("text", about="loss")
    study.held_out[["arm", "seed", "source", "loss"]] = pd.DataFrame([("base", 1, "text", 1.5), ("base", 1, "x", 9.0)])
    assert study.trial_values(loss).stack().dropna().to_dict() == {("base", 1): 1.5}
    assert rows_of(study.scores, loss).empty


def test_arms_with_different_benchmarks_in_a_mean_are_not_compared(data_mix: Sweep) -> None:
    """One arm was evaluated with a task that the others lack: its mean is another, and not because it is better."""
    study = study_of(data_mix, range(3), arms=("base", "captions", "interleaved"))
    rows = study.scores[(study.scores["benchmark"] == "vqa") & (study.scores["shots"] == 0)]
    rows = rows.assign(family="chat", benchmark="pope")
    easy = rows[rows["arm"] == "base"].assign(benchmark="easy", score=100.0)
    study = replace(study, scores=pd.concat([study.scores, rows, easy], ignore_index=True))

    def found(first: str, second: str) -> dict[str, Any]:
        claim = Claim("", "", {(first, CHAT): 1.0, (second, CHAT): -1.0}, CHAT, "greater")
        return claim_row(study, claim)

    alike, unlike = found("captions", "interleaved"), found("captions", "base")
    assert np.isfinite(alike["estimate"]) and alike["seeds"] == 3 and alike["interval"] == "seeds"
    assert np.isnan(unlike["estimate"])
    assert unlike["reason"] == f"different benchmarks in the arms' means of {CHAT}"
    compared = compare_table(study, "captions", "base")
    table = compared.frame.set_index("measure")
    assert np.isnan(table.loc[str(CHAT), "difference"]) and np.isfinite(table.loc["0-shot", "difference"])
    for notes in (compared.notes, means_table(study).notes):
        (note,) = [note for note in notes if "Not comparable" in note]
        assert note.endswith(f"in the mean: {CHAT}.")


def test_a_claim_may_be_about_one_benchmark_of_a_family(data_mix: Sweep) -> None:
    """A family's name is that of the family; of data of one's own, `compare` has each benchmark too."""
    arms = {"first": "captions", "second": "base", "expect": "greater"}
    measures = ("text-vqa 4-shot", "vqa 4-shot", "text-captions 0-shot", "text-core 8-shot")
    claims = tuple(Contrast(claim=measure, measure=measure, **arms) for measure in measures)  # type: ignore[arg-type]
    study = study_of(data_mix.model_copy(update={"contrasts": claims}), range(3), arms=("base", "captions"))
    scores = study.scores.groupby(["benchmark", "shots", "arm"])["score"].mean()
    assert np.mean(study.seed_values("base", Measure("text-vqa", 4))) == pytest.approx(scores["text-vqa", 4, "base"])
    of_the_family = scores.loc[["vqa", "text-vqa", "relation-vqa"], 4].groupby("arm").mean()
    judged = judge_contrasts(study).set_index("measure")
    for measure, means in {
        "text-vqa 4-shot": scores["text-vqa", 4],
        "vqa 4-shot": of_the_family,
        "text-captions 0-shot": scores["text-captions", 0],
        "text-core 8-shot": scores["text-core", 8],
    }.items():
        assert judged.loc[measure, "estimate"] == pytest.approx(means["captions"] - means["base"])
        assert judged.loc[measure, "low"] < judged.loc[measure, "estimate"] and judged.loc[measure, "seeds"] == 3

    compared = [compare_table(each, "captions", "base") for each in (of_own_data(study), study)]
    assert compared[0].notes[0].startswith("Points, seeds 0–2;"), "nothing was tuned on those of one's own data"
    kinds = [set(judge_contrasts(each)["seeds_are"]) for each in (of_own_data(study), study)]
    assert kinds == [{""}, {"development"}]
    ours, known = (set(table.frame["measure"]) for table in compared)
    assert {"text-vqa 0-shot", "text-core 8-shot", "captions 0-shot"} < ours - known and "vqa 0-shot" in known
