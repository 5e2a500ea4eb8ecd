"""Arms are compared by the mean of the same benchmarks, or by one benchmark."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.judging.claims import Claim
from analysis.judging.verdicts import judge_contrasts
from analysis.pages.compare import compare_table
from analysis.pages.scores import means_table
from mm1_lab.config import Contrast, DataIdentity, Measure, Sweep
from tests.analysis.results_folder import claim_row, study_of

CHAT = Measure("chat", 0)


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

    data = DataIdentity(kind="shards", digest="1", tokenizer="bpe", sources=())
    manifest = study.manifest.model_copy(update={"data": data})
    own_study = replace(study, variant=replace(study.variant, manifest=manifest))
    ours, known = (set(compare_table(each, "captions", "base").frame["measure"]) for each in (own_study, study))
    assert {"text-vqa 0-shot", "text-core 8-shot", "captions 0-shot"} < ours - known and "vqa 0-shot" in known
