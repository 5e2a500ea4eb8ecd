"""Differences are taken over the benchmarks that both arms have, or of one benchmark."""

from dataclasses import replace

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


def test_scores_are_compared_over_the_tasks_that_both_arms_have(data_mix: Sweep) -> None:
    """One arm has an easy task that the other lacks; its mean is higher, and not because it is better."""
    study = study_of(data_mix, range(3), arms=("base", "captions", "interleaved"))
    rows = study.scores[(study.scores["benchmark"] == "vqa") & (study.scores["shots"] == 0)].assign(family="chat")
    easy = rows[rows["arm"] == "base"].assign(benchmark="easy", score=100.0)
    other = rows[rows["arm"] == "interleaved"].assign(benchmark="other")
    tasks = [rows[rows["arm"] != "interleaved"].assign(benchmark="pope"), easy, other]
    study = replace(study, scores=pd.concat([study.scores, *tasks], ignore_index=True))
    alone = study.trial_values(Measure("pope", 0))
    expected = np.mean([alone["base", seed] - alone["captions", seed] for seed in range(3)])
    row = claim_row(study, Claim("", "a", {("base", CHAT): 1.0, ("captions", CHAT): -1.0}, CHAT, "greater"))
    assert row["estimate"] == pytest.approx(expected) and row["detail"] == "a, over pope"
    assert row["seeds"] == 3 and row["interval"] == "seeds"
    cells = compare_table(study, "base", "captions").frame.set_index("measure").loc[f"{CHAT}, over pope"]
    assert cells["base"] - cells["captions"] == pytest.approx(cells["difference"]) == pytest.approx(expected)
    for seeds, reason in ((range(3), "no question in common"), (range(1), "one seed")):
        weights = {("base", CHAT): 1.0, ("interleaved", CHAT): -1.0}
        row = claim_row(study.at_seeds(seeds), Claim("", "", weights, CHAT, "greater"))
        assert np.isnan(row["estimate"]) and row["reason"] == reason
    note = next(note for note in means_table(study).notes if "Not comparable" in note)
    assert note.endswith(f"*{CHAT}*: base: easy, pope; captions: pope; interleaved: other.")


def test_a_claim_may_be_about_one_benchmark_of_a_family(data_mix: Sweep) -> None:
    """A family's name is that of the family; of data of one's own, `compare` has each benchmark too."""
    arms = {"first": "captions", "second": "base", "expect": "greater"}
    measures = ("text-vqa 4-shot", "vqa 4-shot", "text-captions 0-shot", "text-core 8-shot")
    claims = tuple(Contrast(claim=measure, measure=measure, **arms) for measure in measures)  # type: ignore[arg-type]
    study = study_of(data_mix.model_copy(update={"contrasts": claims}), range(3), arms=("base", "captions"))
    study = replace(
        study, scores=study.scores.assign(content=study.scores["score"].where(study.scores["metric"] == "cider") / 2)
    )
    scores = study.scores.groupby(["benchmark", "shots", "arm"])["score"].mean()
    assert np.mean(study.seed_values("base", Measure("text-vqa", 4))) == pytest.approx(scores["text-vqa", 4, "base"])
    of_the_family = scores.loc[["vqa", "text-vqa", "relation-vqa"], 4].groupby("arm").mean()
    judged = judge_contrasts(study).set_index("measure")
    for measure, benchmark, shots in zip(
        measures, ("text-vqa", "", "text-captions", "text-core"), (4, 4, 0, 8), strict=True
    ):
        means = scores.loc[benchmark, shots] if benchmark else of_the_family
        assert judged.loc[measure, "estimate"] == pytest.approx(means["captions"] - means["base"])
        assert judged.loc[measure, "low"] < judged.loc[measure, "estimate"] and judged.loc[measure, "seeds"] == 3
    content = judged["content"].to_dict()
    assert content["text-captions 0-shot"] == pytest.approx(judged.loc["text-captions 0-shot", "estimate"] / 2)
    assert np.isnan([content[measure] for measure in measures if measure != "text-captions 0-shot"]).all()

    own = study.manifest.model_copy(
        update={"data": DataIdentity(kind="shards", digest="1", tokenizer="bpe", sources=())}
    )
    own_study = replace(study, variant=replace(study.variant, manifest=own))
    more = set(compare_table(own_study, "captions", "base").frame["measure"])
    more -= set(compare_table(study, "captions", "base").frame["measure"])
    assert {
        "text-vqa 0-shot",
        "text-vqa 4-shot",
        "text-core 8-shot",
        "captions 0-shot",
    } < more and "vqa 0-shot" not in more
