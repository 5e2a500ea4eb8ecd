"""Measures: words that are read and written back, what each is the mean of, and which means are comparable."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.judging.claims import Claim
from analysis.judging.looks import question_status
from analysis.judging.verdicts import judge_contrasts
from analysis.pages.compare import compare_table
from analysis.pages.scores import OTHER_DOCUMENTS, TUNED_TEXT, losses_table, means_table
from analysis.paper import DERIVED
from analysis.study import Study
from mm1_lab.config import AVERAGE, CHAT, TEXT_CORE, UNPARSED, Contrast, Measure, SftRecipe, Sweep
from tests.analysis.results_folder import claim_row, of_arms, of_own_data, study_of, with_manifest

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
    "kind letter 0-shot - kind colour 0-shot": Measure("letter", 0, "kind", minus=Measure("colour", 0, "kind")),
    "average - text-core": Measure(minus=TEXT_CORE),
    "my - bench 0-shot": Measure("my - bench", 0),
    "my - bench 0-shot - 4-shot": Measure("my - bench", 0, minus=Measure(shots=4)),
    "loss captions - loss text": Measure("captions", about="loss", minus=Measure("text", about="loss")),
}
NO_DIFFERENCES = {
    "- kind letter 0-shot": "is not a measure",
    "kind - letter 0-shot": "is not a measure",
    "4-shot - ": "is not a measure",
    "vqa 4-shot - vqa": "is not a measure",
    "8-shot - 4-shot - 0-shot": "is not a measure; use .* or the difference of two, vqa 4-shot - vqa 0-shot",
    "vqa 8-shot - vqa 4-shot - vqa 0-shot": "has more than two measures; subtract one from another",
    "4-shot - 4-shot": "subtracts a measure from itself",
    "4-shot - loss text": "is a difference of unlike measures; subtract scores from scores, losses from losses",
    "unparsed % - loss text": "is a difference of unlike measures",
}


def test_words_are_read_and_written_back_and_others_are_no_measure() -> None:
    for words, measure in WORDS.items():
        assert Measure.parse(words) == measure and str(measure) == words
    for other in ("", "textcore", "vqa", "vqa 4shot", "content average", "12345-shot", 4, None):
        with pytest.raises(ValueError, match="is not a measure; use text-core, average, 4-shot"):
            Measure.parse(other)
    for other, said in NO_DIFFERENCES.items():
        with pytest.raises(ValueError, match=said):
            Measure.parse(other)
    assert Measure.parse("8-shot − 0-shot") == Measure.parse("8-shot - 0-shot"), "with a minus sign"
    assert Measure.parse("loss text - loss captions").less_is_better, "as of each loss"


def test_an_interval_over_questions_is_around_the_measure_s_value(mix_study: Study) -> None:
    told = "a measure that is no mean over benchmarks: see `over_questions` and `majority` of analysis/study.py"
    known = 0
    for measure in WORDS.values():
        values = mix_study.seed_values("base", measure)
        if values and not any(part.about == "loss" for part in measure.parts):
            found = mix_study.over_questions({("base", measure): 1.0}, mix_study.seeds)
            assert found.estimate == pytest.approx(np.mean(values)), f"{measure}: {told}"
            known += 1
    assert known > 4


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


def test_losses_on_other_held_out_documents_are_not_compared(data_mix: Sweep) -> None:
    """An arm with more tokens per picture was judged by the loss on the documents that still fit its rows."""
    arms, sources = ("base", "captions", "interleaved"), ("text", "captions")
    study = study_of(data_mix, range(3), arms=arms)
    rows = [(arm, seed, "", name, 2.0 + 0.1 * seed * len(arm)) for arm in arms for seed in range(3) for name in sources]
    records = {name: {"held_out_left_out": {"text": 5} if "base" in name else {}} for name in study.done["fingerprint"]}
    study = replace(study, held_out=pd.DataFrame(rows, columns=study.held_out.columns), records=records)

    def reason(first: str, second: str, measure: str) -> str:
        loss = Measure.parse(measure)
        return str(claim_row(study, Claim("", "", {(first, loss): 1.0, (second, loss): -1.0}, loss, "less"))["reason"])

    unlike = "different held-out documents in the arms' means of loss text"
    assert reason("captions", "base", "loss text") == unlike
    assert reason("captions", "base", "loss captions - loss text") == unlike.replace("text", "captions - loss text")
    assert not reason("captions", "base", "loss captions") and not reason("captions", "interleaved", "loss text")
    notes = compare_table(study, "base", "captions", measure=Measure("text", about="loss")).notes
    assert "Not comparable, as arms have different held-out documents in the mean: loss text." in notes
    assert losses_table(study).notes == [OTHER_DOCUMENTS.format(cause="more tokens")]
    claim = Contrast(claim="c", first="captions", second="base", measure="loss text", expect="less")
    asked = with_manifest(study, sweep=study.sweep.model_copy(update={"contrasts": (claim,)}))
    assert question_status(asked, ()) == ([f"c: not judged: {unlike}"], []), "no seed helps"
    study = replace(study, records={name: one for name, one in records.items() if "captions" not in name})
    assert not reason("captions", "base", "loss text"), "an earlier record does not tell of arms that are alike"
    alike = {"tiling": "ratio", "views": 5, "image_size": 36}
    for left_out, other, comparable in (
        (0, {}, True),
        (5, {}, False),
        (5, {"image_size": 48}, False),
        (5, alike, True),
    ):
        records = {}
        for name in study.done["fingerprint"]:
            model = alike if "captions" in name else alike | (other or {"tiling": "square"})
            records[name] = {"held_out_left_out": {"captions": left_out, "text": 5}, "config": {"model": model}}
        study = replace(study, records=records)
        assert bool(reason("captions", "interleaved", "loss captions")) != comparable, "by ratio, others are as many"
        assert not reason("captions", "interleaved", "loss text")


def test_losses_on_texts_of_tuned_models_are_not_compared_with_those_of_others(data_mix: Sweep) -> None:
    """They are of answers alone, of which the world's texts have some: a quarter of the tokens."""
    arms = {"base": data_mix.base, "tuned": data_mix.base.model_copy(update={"sft": SftRecipe()})}
    study = study_of(of_arms(data_mix, arms), range(3))
    sources = ("text", "captions")
    rows = [(arm, seed, "", name, seed * len(arm)) for arm in arms for seed in range(3) for name in sources]
    study = replace(study, held_out=pd.DataFrame(rows, columns=study.held_out.columns))
    text, captions = (Measure(name, about="loss") for name in ("text", "captions"))
    reasons = {}
    for loss in (text, captions):
        claim = Claim("", "", {("tuned", loss): 1.0, ("base", loss): -1.0}, loss, "less")
        reasons[loss] = claim_row(study, claim)["reason"]
    assert reasons == {text: "different held-out tokens in the arms' means of loss text", captions: ""}
    assert losses_table(study).notes == [TUNED_TEXT]
    told = "Not comparable, as arms have different held-out tokens in the mean: loss text."
    assert told in compare_table(study, "tuned", "base", measure=text).notes
    assert not losses_table(of_own_data(study)).notes, "whose texts have no answers"


def test_a_claim_may_be_about_one_benchmark_of_a_family(data_mix: Sweep) -> None:
    """A family's name is that of the family; of data of one's own, `compare` has each benchmark too."""
    arms = {"first": "captions", "second": "base", "expect": "greater"}
    claims = (Contrast(claim="c", measure="text-vqa 4-shot", **arms),)  # type: ignore[arg-type]
    study = study_of(data_mix.model_copy(update={"contrasts": claims}), range(3), arms=("base", "captions"))
    means = study.scores.groupby(["benchmark", "shots", "arm"])["score"].mean()["text-vqa", 4]
    (estimate,) = judge_contrasts(study)["estimate"]
    assert estimate == pytest.approx(means["captions"] - means["base"])

    compared = [compare_table(each, "captions", "base") for each in (of_own_data(study), study)]
    assert compared[0].notes[0].startswith("Points, seeds 0–2;"), "nothing was tuned on those of one's own data"
    kinds = [set(judge_contrasts(each)["seeds_are"]) for each in (of_own_data(study), study)]
    assert kinds == [{""}, {"development"}]
    ours, known = (set(table.frame["measure"]) for table in compared)
    assert {"text-vqa 0-shot", "text-core 8-shot", "captions 0-shot"} < ours - known and "vqa 0-shot" in known


def test_the_paper_s_number_for_a_difference_is_that_of_its_own_numbers(mix_study: Study) -> None:
    """Figure 5a: captions alone have 39.3 at 0 shots and 43.7 at 4; half of them more than 58 at 4, and 62.2 at 8."""
    gain = mix_study.paper_value("captions", Measure.parse("4-shot - 0-shot"))
    assert gain.value == pytest.approx(43.7 - 39.3) and gain.source.startswith(DERIVED)
    for arm, measure in (("captions-50", "8-shot - 4-shot"), ("captions", "0-shot - kind colour 0-shot")):
        assert not mix_study.paper_value(arm, Measure.parse(measure))
