"""Measures: words that are read and written back, and what each of them is the mean of."""

import numpy as np
import pandas as pd
import pytest

from mm1_lab.config import AVERAGE, CHAT, TEXT_CORE, UNPARSED, Measure, Sweep
from mm1_lab.results.summary import rows_of
from tests.analysis.results_folder import study_of

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
