"""Measures that no table has, in claims and by command: kinds of questions, losses, and differences of two measures."""

import json
import math

import pandas as pd
import pytest
import yaml

from mm1_lab.config import Measure
from mm1_lab.results.manifest import read_trials
from mm1_lab.results.summary import value_of
from tests.conftest import Place, Refused, Told

SMOKE = ("--scale", "smoke")
KINDS = "kind caption 4-shot - kind letter 0-shot"
LOSSES = "loss captions - loss text"
CLAIMED = (KINDS, "captioning 4-shot - captions cider 0-shot", LOSSES)


def expected(place: Place) -> pd.DataFrame:
    """The claimed measures of both arms, from the rows of their questions."""
    found = {}
    for row in read_trials(place.results / "smoke" / "data_mix"):
        folder = place.results / "trials" / row.fingerprint
        if not folder.exists():
            continue
        scores = pd.read_parquet(folder / "scores.parquet")
        losses = pd.read_csv(folder / "held_out.csv").set_index("source")["loss"]
        unaided, aided = (scores[scores["shots"] == shots] for shots in (0, 4))
        captions = mean(aided[aided["family"] == "captioning"])  # of kind caption are the same
        letters = mean(unaided[(unaided["kind"] == "letter") & (unaided["family"] == "vqa")])
        cider = mean(unaided[unaided["benchmark"] == "captions cider"])
        found[row.arm] = [captions - letters, captions - cider, losses["captions"] - losses["text"]]
        searched = [value_of(folder, Measure.parse(measure)) for measure in CLAIMED]
        assert searched == pytest.approx(found[row.arm])
    return pd.DataFrame(found, CLAIMED)


def mean(rows: pd.DataFrame) -> float:
    assert len(rows)
    return float(rows.groupby("benchmark", observed=True)["score"].mean().mean())


@pytest.mark.usefixtures("here", "few_documents")
def test_a_difference_of_measures_is_claimed_and_compared(again: Place, told: Told, refused: Refused) -> None:
    path = again.folder / "sweeps" / "data_mix.yaml"
    sweep = yaml.safe_load(path.read_text(encoding="utf-8"))
    arms = {"first": "captions", "second": "base", "expect": "greater"}
    sweep["contrasts"] = [{"claim": f"by {measure}", "measure": measure, **arms} for measure in CLAIMED]
    sweep["contrasts"].append({"claim": "typo", "measure": KINDS.replace("letter", "leter"), **arms})
    path.write_text(yaml.safe_dump(sweep))
    asked = ("data_mix", *SMOKE, "--only", "base", "--only", "captions")
    before = again.done()
    planned = told("plan", "data_mix", *SMOKE)
    line = "The claim 'typo' will not be judged by 'kind leter 0-shot': trials have no kind 'leter'; did you mean 'let"
    assert line in planned and planned.count("will not be judged") == 1
    told("run", *asked, "--inline")
    assert again.done() == before, "claims change no fingerprint"
    rows = pd.read_csv(again.results / "smoke" / "data_mix" / "contrasts.csv").set_index("measure")
    values = expected(again)
    found = rows.loc[list(CLAIMED), "estimate"]
    expected_of = (values["captions"] - values["base"]).tolist()
    assert found.tolist() == pytest.approx(expected_of, rel=1e-4), "in a CSV numbers are rounded"
    judged = rows.loc[list(CLAIMED[:2])]
    assert (judged["interval"] == "questions").all() and judged["estimate"].all()
    assert (judged["low"] < judged["estimate"]).all() and (judged["high"] > judged["estimate"]).all()
    assert math.isnan(rows.loc[LOSSES, "low"]), "a loss at one seed has no interval"

    compare = ("compare", "data_mix", "captions", "base", *SMOKE, "--measure")
    for measure in CLAIMED[:2]:
        (row,) = json.loads(told(*compare, measure.replace(" - ", " − "), "--json"))["rows"]
        assert [row["first"], row["second"]] == pytest.approx([*values.loc[measure, ["captions", "base"]]])
        assert (row["measure"], row["over"], row["seeds"]) == (measure, "questions", [0])
        known = rows.loc[measure, ["estimate", "low", "high"]].tolist()
        assert [row["difference"], row["low"], row["high"]] == pytest.approx(known, rel=1e-4)
    shown = told(*compare, LOSSES).replace("−", "-")
    assert f"{LOSSES}  {values.loc[LOSSES, 'captions']:>8.3f}  {values.loc[LOSSES, 'base']:.3f}" in shown
    assert "Nats per text token, development seed 0; at one seed there is no interval.\n" in shown
    for words, said in {
        "kind letter 0-shot - vqaa 0-shot": "'vqaa 0-shot': trials have no 'vqaa'; did you mean 'vqa'?",
        "kind letter 0-shot-kind colour 0-shot": "trials have no kind 'letter 0-shot-kind colour'",
        "5-shot - 0-shot": "there is only 0-shot, 4-shot, 8-shot (evaluate.shots)",
        "chat 0-shot": "'chat 0-shot': neither arm has such scores",
        "vqa": "--measure vqa: is not a measure; use text-core, average, 4-shot",
    }.items():
        assert said in refused(*compare, words)
    error = refused("answers", "data_mix", "base", *SMOKE, "--measure", KINDS)
    assert f"--measure {KINDS}: no answer has such points" in error
