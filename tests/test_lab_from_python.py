"""The examples in the docstrings, run."""

import doctest
import random
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from mm1_lab import judge, lab, results
from mm1_lab.config import RequestError
from mm1_lab.orchestrate.planning.plan_text import plan_values
from tests.conftest import REPOSITORY, Place, ask_without_demonstrations, run_python


@pytest.mark.usefixtures("few_documents", "unrendered")
def test_the_examples_run_and_scores_are_of_all_finished_trials(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of an arm that was not asked for."""
    monkeypatch.chdir(place.folder)
    ask_without_demonstrations(place.folder)
    torch.manual_seed(7)
    torch.set_default_dtype(torch.float64)
    before = random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist(), torch.get_default_dtype()
    found = doctest.testmod(lab, verbose=False)
    after = random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist(), torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    assert found.attempted >= 7 and found.failed == 0
    assert after == before, "the caller's random numbers and settings are as they were"
    base = lab.load_sweep("data_mix", scale="smoke", only=["base"])
    states = lab.plan(base).set_index("fingerprint")["state"].to_dict()
    told = {stage["fingerprint"]: stage["state"] for stage in plan_values([base])["stages"]}
    assert states == told and set(told.values()) == {"reused"}, "the same words as of `plan --json`"
    captions = lab.load_sweep("data_mix", scale="smoke", only=["captions"])
    scores = lab.run(captions, inline=True)
    assert set(scores["arm"]) == {"base", "captions"} == set(results.scores(captions.folder)["arm"])
    losses = results.held_out(captions.folder)
    assert set(losses["arm"]) == {"base", "captions"} and len(losses) == 2 * losses["source"].nunique() == 2 * 4
    blind = lab.load_sweep("data_mix", scale="smoke", only=["base", "blind"])
    told = r"^Time is up, with 1 task left; the same command goes on from here\.$"
    with pytest.warns(UserWarning, match=told) as warned:
        assert set(lab.run(blind, share=True, minutes=1e-4)["arm"]) == {"base", "captions"}
    assert len(warned) == 1, "what is left has not failed"


def test_the_package_imports_nothing_until_it_is_asked() -> None:
    script = """
import sys, mm1_lab
assert not {"pydantic", "numpy", "pandas", "torch"} & set(sys.modules), sorted(sys.modules)
from mm1_lab import RequestError, contrasts, load_sweep, plan, results, run
assert {"RequestError", "judge", "run"} < set(dir(mm1_lab))
assert mm1_lab.__version__[0].isdecimal()
assert callable(load_sweep) and results.scores and not {"torch", "ray", "pandas"} & set(sys.modules)
"""
    result = run_python(script)
    assert result.returncode == 0, result.stderr
    assert (Path(lab.__file__).parent / "py.typed").exists()


def test_what_the_commands_tell_before_a_run_is_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "same.yaml"
    path.write_text("title: t\nrecipe: base\narms:\n  base: {}\n  twin: {}\n")
    with pytest.warns(UserWarning) as told:
        stages = lab.plan(lab.load_sweep(path, scale="smoke", seeds=2, results=tmp_path, store=tmp_path / "store"))
    assert set(stages["arms"]) == {("base", "twin")}
    assert [str(one.message) for one in told] == ["base = twin are the same trials"]
    assert told[0].filename == __file__
    path.write_text("title: t\nrecipe: base\narms: {fast: {learning_rate: 0.01}}\n")
    with pytest.warns(UserWarning, match=r"^--set: learning_rate=0.001 changes nothing, as every arm sets this"):
        lab.plan(lab.load_sweep(path, "smoke", settings={"learning_rate": 0.001}, results=tmp_path, store=tmp_path))


@pytest.mark.usefixtures("again", "here")
def test_what_a_run_of_what_is_done_or_fails_tells(capsys: pytest.CaptureFixture[str]) -> None:
    Path("same.yaml").write_text("title: t\nrecipe: base\narms:\n  base: {}\n  twin: {}\n")
    shutil.copytree("results/local/trials", "kept/trials")
    with pytest.warns(UserWarning, match="^base = twin are the same trials$"):
        lab.run(lab.load_sweep("same.yaml", scale="smoke", results="kept", store="results/local/store"), inline=True)
    printed = capsys.readouterr().out
    assert "`mm1-lab report --results kept` puts all" in printed and "`mm1-lab dashboard --results kept` sh" in printed
    # trials that fail are told, and none of the finished ones is left out for it
    sweep = lab.load_sweep("data_mix", scale="smoke", only=["base"], settings=["learning_rate=1e6", "train.steps=4"])
    with pytest.raises(RequestError, match="1 of 1 trial without scores, for the reasons above"):
        lab.run(sweep, inline=True)
    assert re.search(r"\ndiverged: base / seed 0: the loss of step \d+ is nan", capsys.readouterr().out)


def test_a_setting_that_is_no_text_or_number_is_named() -> None:
    told = "^settings: decoder: .* is not JSON serializable; give a text, a"
    with pytest.raises(RequestError, match=told):
        lab.load_sweep("data_mix", "smoke", settings={"decoder": Path("smollm")})


def test_what_judge_and_measures_take() -> None:
    for scores in ({"a": 1}, None):
        with pytest.raises(RequestError, match="give a file or a data frame of scores, not a "):
            judge(scores)  # type: ignore[arg-type]
    row = {"arm": "a", "benchmark": "b", "family": "vqa", "shots": 0, "score": 1.0}
    table = pd.DataFrame([row])
    assert results.measures(table, by="arm").equals(results.measures(table, by=["arm"]))
    for nothing in (table[:0], None):
        with pytest.raises(RequestError, match="the table of scores is none, or is empty"):
            results.measures(nothing, by="arm")  # type: ignore[arg-type]


def test_home_none_and_a_short_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    sweep = lab.load_sweep("data_mix", "smoke", only=None, settings=None, results="~/r", store="~/s", seeds=2)
    assert (sweep.ledger.results, sweep.ledger.store) == (tmp_path / "r", tmp_path / "s")
    arms = len(sweep.sweep.arms)
    assert repr(sweep) == f"<data_mix at smoke: {arms} arms, seeds 0, 1; {tmp_path}/r/smoke/data_mix>"
    (tmp_path / "mine.csv").write_text("arm,seed,score\na,0,1\na,1,2\nb,0,3\nb,1,5\n")
    assert len(judge("~/mine.csv").claims) == 1
    (tmp_path / "controls").symlink_to(REPOSITORY / "results" / "controls")
    folder = "~/controls/mini/controls"
    assert set(results.held_out(folder)["arm"]) == set(results.scores(folder)["arm"]) and len(lab.contrasts(folder))


def test_settings_may_be_given_by_path_and_one_arm_and_one_setting_as_text(tmp_path: Path) -> None:
    by_path = {"train.steps": 7, "evaluate.shots": [0], "connector": "c-abstractor"}
    words = ["train.steps=7", "evaluate.shots=[0]", "connector=c-abstractor"]
    sweeps = [lab.load_sweep("data_mix", "smoke", settings=settings) for settings in (by_path, words, iter(words))]
    for one in sweeps[1:]:
        assert (one.trials, one.overrides) == (sweeps[0].trials, sweeps[0].overrides)
    sweep = lab.load_sweep("data_mix", "smoke", only="base", settings="train.steps=7", results=tmp_path / "results")
    (trial,) = sweep.trials
    assert trial.arm == "base" and sweep.scale.train.steps == 7
    with pytest.raises(RequestError, match=r"^--share with --results needs --store, too"):
        lab.run(sweep, share=True)
    assert not (tmp_path / "results").exists()
    for function in (lab.plan, lab.run):
        with pytest.raises(RequestError, match=r"give what load_sweep returns, .*, not 'kinds\.yaml'"):
            function("kinds.yaml")  # type: ignore[arg-type]
    with pytest.raises(RequestError, match=r"give the folder of a sweep's results \(its `.folder`\), not a Request"):
        lab.contrasts(sweep)  # type: ignore[arg-type]
