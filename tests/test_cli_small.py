"""What a newcomer types: no command, a misspelt one, `show`, `compare`, `init`."""

import errno
import gc
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pandas as pd
import pytest
import yaml

from mm1_lab.cli import main
from mm1_lab.config import WORLD_DATA, BenchmarkConfig, Measure, load_sweep
from mm1_lab.data.shards.datafile import DataFile
from mm1_lab.orchestrate.planning.doubts import doubtful_claims
from mm1_lab.orchestrate.planning.loading import load_request
from mm1_lab.orchestrate.planning.measurable import why_no_value, why_untuned
from mm1_lab.processes import interrupts_blocked
from mm1_lab.results.manifest import merge_manifest, read_trials
from tests.analysis.results_folder import write_results
from tests.conftest import REPOSITORY, Refused, Told, run_python

SMOKE = ("--scale", "smoke")
LONG = "x" * 20_000
Output = pytest.CaptureFixture[str]


def test_no_command_and_a_misspelt_one(capsys: Output, printed: Told) -> None:
    assert "show-data" in printed(code=2)
    assert main(["rnu", "data_mix"]) == 2
    assert capsys.readouterr().err == "mm1-lab: there is no command 'rnu'; did you mean 'run'?\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("plan", "data_mix", "--seed", "3"), "plan: there is no option '--seed'; did you mean '--seeds'?"),
        (("plan", "DATA_MIX"), "there is no sweep 'DATA_MIX'; did you mean 'data_mix'?"),
        (("run", "base"), "'base' is a recipe, no sweep; give a sweep, or vary a field of the recipe"),
        (("status", "base"), "mm1-lab run base --vary image_tokens=64,144"),
        (("run", "data_mix", "--scale", "paper"), "is for planning: say `plan` instead of `run`"),
        (("verify", "--results", "."), ".: there are no results here"),
        (("pack", "nowhere"), "nowhere: there is no such folder"),
        (("plan", "data_mix", *SMOKE, "base"), "unexpected argument 'base'; names come before the options, and"),
        (("run", "moe", "encoder_scratch"), "'encoder_scratch'; run takes one sweep, and an option is repeated for ea"),
        (("dashboard", "--port", "99999"), "--port 99999: bind(): port must be 0-65535"),
        (("run", "lr_law", "--seeds", "6", "--until-decided", "--scale", "smoke"), "lr_law is a search"),
        (("run", "data_mix", "--until-decided"), "give the largest number of seeds: --seeds 10"),
        (("run", "data_mix", "--looks", "4,6"), "--looks needs --until-decided"),
        (("show",), "show: the following arguments are required: SWEEP; example: mm1-lab show data_mix base captions"),
        (("run", "data_mix", "--inline", "--address", "auto"), "--inline and --share run without Ray, --address"),
        (("plan", "data_mix", "--set", "resources.gpus=8"), "its size in the scale: `workers: {SIZE: 8}`"),
        (("check-scale", "smoke", "--samples", "0"), "--samples must be at least 1"),
        (("plan", "data_mix", "--results", "file"), "/file: is a file; name a folder"),
        (("show-data", "--set", "train.steps=9"), "--set, --scale and --conversations are for your own data; add --da"),
        (("status", "search_mix", "--only", "base"), "one over recipes writes its winner's line to search.md"),
        (("show-data", "--out", "."), "--out .: name a file that ends in .png"),
        (("--debug", "plan", "data_mix"), "options come after the command: mm1-lab COMMAND --debug"),
        (("run", "data_mix", "--results", LONG), "File name too long"),
        (("init", "file"), "file: already exists; give a new folder"),
        (("fit-lr-law", *SMOKE, "--sizes", "9M,85M"), "--sizes 9M,85M: fitting a law with its uncertainty needs three"),
        (("fit-lr-law", *SMOKE, "--sizes", "9M,85M,1.2b"), "no decoder of '1.2b'; known: 9M, 85M, 302M, "),
        (("fit-lr-law", *SMOKE, "--sizes", "9M,85M,302M-MoE"), "--sizes: 302M-MoE has experts, and the others are den"),
        (("fit-lr-law", *SMOKE, "--sizes", "9M,2.9B,3B"), "--sizes: 2.9B and 3B have the same N; leave one out"),
        (("plan", "lr_law", *SMOKE, "--sizes", "9M,0.3B,1.2B"), "this scale has no decoder of '0.3B'; known: 9M, "),
        (("plan", "lr_law", "data_mix", *SMOKE, "--sizes", "9M,85M,302M"), "--sizes is for lr_law alone; data_mix"),
        (("fit-lr-law", *SMOKE, "--score", "loss"), "--score needs --from"),
        (("fit-lr-law", "--from", "file", "--scale", "lab"), "--scale is for a search; with --from"),
        (("fit-lr-law", "--from", "file", "--store", "store"), "--store is for a search; with --from"),
        (("fit-lr-law", "--from", "file", "--inline"), "--inline is for a search; with --from"),
        (("fit-lr-law", "--share", "--results", "mine"), "--share with --results needs --store"),
        (("fit-lr-law", *SMOKE, "--predict", "31B"), "--predict: this scale has no decoder of '31B'"),
        (("gc", "--store", "nowhere"), "nowhere: there is no such folder"),
        (("fit-lr-law", *SMOKE, "--lower-is-better"), "--lower-is-better needs --from"),
        (("fit-lr-law", "--minutes", "5"), "--minutes needs --share"),
        (("fit-lr-law", "--from", "runs.csv"), "--from runs.csv: there is no such file"),
        (("run", "data_mix", *SMOKE, "--set", "resources.cpus=4096"), "needs 4096 CPUs, but this machine lacks them"),
        (("status", "--results", "nowhere"), "nowhere: there is no such folder"),
        (("status", "--results", ""), "--results is given an empty path, as of a shell variable that is not set"),
        (("plan", "-1"), "there is no sweep '-1'"),
        (("status", "data_mx_confirmed"), "there is no sweep 'data_mx'; did you mean 'data_mix'"),
        (("chat", "search_mix_confirmed", "--seeds", "1000,", *SMOKE), "first: mm1-lab run search_mix --scale smoke\n"),
        (("chat", "lr_law", *SMOKE), "needs one trial, not 6; give its arm in a sweep of its own and one seed"),
        (("run", "search_mix_confirmed", *SMOKE), "search, which runs it, too: mm1-lab run search_mix --scale smoke\n"),
        (("plan", "moe", "search_mix_confirmed_2", "--seeds", "5,"), "mm1-lab run search_mix --scale mini --seeds 5,"),
        (("run", "data_mix_confirmed"), "no sweep 'data_mix_confirmed', and data_mix is no search"),
        (("show", "data_mix_confirmed"), "no sweep 'data_mix_confirmed', and data_mix is no search"),
        (("run", "data_mix", *SMOKE, "--set", "workers={85M: 9}"), "decoder has 2 rows per batch, too few for the 9"),
    ],
)
def test_a_wrong_word_gets_one_line(words: tuple[str, ...], said: str, here: Path, refused: Refused) -> None:
    Path("file").touch()
    error = refused(*words)
    assert said in error and len(error.encode()) <= 2048
    assert not list(here.rglob("mlflow.db")) and not list(here.rglob("sweep.json")), "no time is spent on it"


UNTRAINED = "run it first: mm1-lab run data_mix --scale mini --only base"
NOTHING = "there are no results here; run a sweep first: mm1-lab run data_mix --results nowhere"


def test_what_is_not_there_is_told_before_anything_heavy_is_loaded(tmp_path: Path) -> None:
    asked = {
        ("export", "data_mix", "--only", "base", "folder"): UNTRAINED,
        ("chat", "data_mix", "--only", "base"): UNTRAINED,
        ("figures", "--results", "nowhere"): NOTHING,
        ("report", "--results", "nowhere"): NOTHING,
        ("dashboard", "--results", "nowhere", "--port", "0"): NOTHING,
        ("check-scale", "mni"): "did you mean 'mini'",
    }
    code = (
        "import sys; from mm1_lab.cli import main\n"
        f"for words in {list(map(list, asked))}:\n"
        "    assert main(words) == 2\n"
        "    loaded = {'torch', 'transformers', 'pandas', 'ray', 'matplotlib', 'mlflow'} & set(sys.modules)\n"
        "    assert not loaded, (words, loaded)"
    )
    ran = run_python(code, folder=tmp_path)
    told = ran.stderr.splitlines()
    assert len(told) == len(asked) and all(said in line for said, line in zip(asked.values(), told, strict=True)), told


def test_a_missing_folder_of_results_is_told_if_it_was_named(here: Path, capsys: Output) -> None:
    assert main(["status", "data_mix", *SMOKE, "--results", "nowhere"]) == 0
    assert capsys.readouterr().err == "nowhere: there is no such folder yet\n"


def test_ctrl_c_again_and_again_is_silent() -> None:
    """While the command stops, while it cleans up, and while Python ends."""
    code = (
        "import os, signal, sys, time\n"
        "from mm1_lab.cli import main\n"
        "from mm1_lab.commands import COMMANDS\n"
        "def interrupt():\n"
        "    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):\n"
        "        os.kill(os.getpid(), number)\n"
        "def slow(options):\n"
        "    'Takes long.'\n"
        "    try:\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "        time.sleep(60)\n"
        "    finally:\n"
        "        interrupt()\n"
        "        print('cleaned up')\n"
        "import mm1_lab.commands\n"
        "COMMANDS['verify'] = COMMANDS['verify']._replace(function=slow)\n"
        "code = main(['verify'])\n"
        "interrupt()\n"
        "sys.exit(code - 100)"
    )
    ran = run_python(code)
    assert ran.stderr == "\nmm1-lab: stopped; run the same command to continue\n"
    assert ran.returncode == 30 and ran.stdout == "cleaned up\n", "a script that calls main has a code of its own"


@pytest.mark.parametrize(
    ("name", "what"), [("SIGINT", "Collected()"), ("SIGHUP", "Collected()"), ("SIGHUP", "Collected().__del__()")]
)
def test_a_ctrl_c_that_python_ignores_stops_the_command(name: str, what: str) -> None:
    """As in a fork, of which Ray's start has many, and while an object is collected. So does a closed terminal, to
    which nothing can be told."""
    closed = "terminal, own = os.openpty(); os.dup2(own, 2); os.close(terminal)\n" if name == "SIGHUP" else ""
    code = (
        "import os, signal, sys; from mm1_lab.cli import main; from mm1_lab.commands import COMMANDS\n"
        f"{closed}"
        "class Collected:\n"
        "    def __del__(self):\n"
        f"        os.kill(os.getpid(), signal.{name})\n"
        "def collect(options):\n"
        "    'Goes on.'\n"
        f"    {what}\n"
        "    print('goes on')\n"
        "    return 0\n"
        "COMMANDS['verify'] = COMMANDS['verify']._replace(function=collect); sys.exit(main(['verify']))"
    )
    ran = run_python(code)
    assert (ran.returncode, ran.stdout) == (130, "")
    assert ran.stderr == ("" if closed else "\nmm1-lab: stopped; run the same command to continue\n")


@pytest.mark.usefixtures("here")
def test_show_resolves_an_arm_and_tells_two_apart(printed: Told, refused: Refused) -> None:
    rows = [re.split("  +", line) for line in printed("show", "data-mix", *SMOKE).splitlines()]
    assert ["blind", "images shown → blind"] in rows
    assert ["no-vecap", "data_mix.synthetic_share 0.07 → 0.0"] in rows
    shown = yaml.safe_load(printed("show", "data_mix", "base", *SMOKE, "--set", "train.steps=7"))
    assert shown["recipe"]["connector"] == "c-abstractor" and shown["resolved"]["model"]["training"]["steps"] == 7
    lines = [line.split() for line in printed("show", "data_mix", "base", "blind", *SMOKE).splitlines()]
    assert ["recipe.images", "shown", "blind"] in lines and ["resolved.model.blind", "False", "True"] in lines
    assert len(lines) == 4, "a heading, two settings and the fingerprint"
    assert "has no arm 'bse'; did you mean 'base'?" in refused("show", "data_mix", "bse", *SMOKE)
    assert "recipe.decoder" in printed("show", "lr_law", "9M 0.00487", "85M 0.0139", *SMOKE), "arms of a search"
    assert "\n85M 0.0139 " in printed("show", "lr_law", *SMOKE)
    error = refused("export", "lr_law", "folder", "--only", "9M 0.00487", *SMOKE)
    assert "lr_law.yaml is a search, which makes its arms; name one in a sweep of its own" in error
    load_request("data_mix", "smoke", "7,").write_manifest()
    asked = ("show", "data_mix", "base", *SMOKE)
    assert "\n  seed: 7\n" in printed(*asked) and "\n  seed: 0\n" in printed(*asked, "--seeds", "1"), "as it was run"


@pytest.mark.usefixtures("here")
def test_arms_are_named_together_or_one_by_one_and_may_have_commas(printed: Told, refused: Refused) -> None:
    """Those of a search by sizes, as `fit-lr-law` takes them."""

    def arms_of(*words: str) -> list[str]:
        return [trial["arm"] for trial in json.loads(printed("plan", *words, *SMOKE, "--json"))["trials"]]

    def planned(sweep: str, *only: str) -> list[str]:
        return arms_of(sweep, *(word for name in only for word in ("--only", name)))

    of_sizes = [arm.split()[0] for arm in arms_of("lr_law", "--sizes", "9M,3B,302M")]
    assert of_sizes == ["9M"] * 5 + ["302M"] * 5 + ["3B"] * 5
    assert planned("data_mix", "captions, base,") == planned("data_mix", "captions", "base") == ["base", "captions"]
    assert planned("moe", "dense, equal active parameters") == ["dense, equal active parameters"]
    assert "known: dense, experts, 'dense, equal active parameters', " in refused("plan", "moe", "--only", "x", *SMOKE)
    assert "has no arm ','" in refused("plan", "data_mix", "--only", ",", *SMOKE)
    error = refused("plan", "data_mix", "--only", "base,captoins", *SMOKE)
    assert "has no arm 'captoins'; did you mean 'captions'?" in error


def test_a_claim_by_a_measure_that_no_trial_has_is_told_before_the_run(printed: Told, here: Path) -> None:
    """In time to mend it, as claims are written before the runs that test them."""
    reasons = {
        "vqaa 4-shot": "trials have no 'vqaa'; did you mean 'vqa'?",
        "captions cidr 4-shot": "trials have no 'captions cidr'; did you mean 'captions cider'?",
        "5-shot": "there is only 0-shot, 4-shot, 8-shot (evaluate.shots)",
        "kind color 0-shot": "trials have no kind 'color'; did you mean 'colour'?",
        "kind count 0-shot": "trials have no kind 'count'",  # which only tuned models are asked
        "kind fact 0-shot": "trials have no kind 'fact'",  # of text
        "loss txt": "trials have no 'txt'; did you mean 'text'?",
    }
    untuned = "only tuned models have it; give `sft` to b, base"
    reasons |= dict.fromkeys(("chat 0-shot", "solutions 4-shot", "pope-random f1 0-shot"), untuned)
    some = ("captions cider 4-shot", "captions followed 0-shot", "average", "text-core", "text-core 8-shot")
    some += ("captioning 0-shot", "kind caption 4-shot", "kind owner 0-shot", "loss captions", "unparsed %")
    arms = {"first": "b", "second": "base", "expect": "greater"}
    claims = [{"claim": f"by {measure}", "measure": measure, **arms} for measure in (*reasons, *some)]
    sweep = {"title": "mine", "recipe": "base", "arms": {"base": {}, "b": {"steps": 100}}, "contrasts": claims}
    (here / "mine.yaml").write_text(yaml.safe_dump(sweep))
    told = [line for line in printed("plan", "mine.yaml", *SMOKE).splitlines() if "will not be judged" in line]
    assert len(told) == len(reasons)
    for line, (measure, reason) in zip(told, reasons.items(), strict=True):
        assert line.startswith(f"The claim 'by {measure}' will not be judged by {measure!r}: {reason}")
    tuned = sweep | {"arms": {"base": {"sft": {}}, "b": {"steps": 100}}}
    (here / "mine.yaml").write_text(yaml.safe_dump(tuned))
    told = doubtful_claims(load_request("mine.yaml", "smoke"))
    assert "'chat 0-shot': only tuned models have it; give `sft` to b." in "".join(told), "one side is enough"
    assert "'by unparsed %' will not tell steps, sft apart, as the arms differ in all of them." in "".join(told)
    for only in ((), ["average-pooling"]):
        assert not doubtful_claims(load_request("sft_connector", "smoke", only=only)), "nor of an arm not asked for"
    told = doubtful_claims(load_request("data_mix", "smoke", settings=["evaluate.shots=[0]"]))
    begins = "The claims 'interleaved documents lift 4-shot', 'text with captions lifts 4-shot', 'synthetic"
    assert [line.startswith(begins) for line in told] == [True, False, False]
    few = load_request("data_mix", "smoke", only=["blind"], settings=["evaluate.shots=[0]"])
    assert len(doubtful_claims(few)) == 1, "of claims about other arms nothing is told"
    own = replace(load_request("data_mix", "smoke"), data_path=Path("data.yaml"))
    benchmarks = (BenchmarkConfig(name="a", metric="vqa"),)
    mine = replace(own, scale=own.scale.model_copy(update={"benchmarks": benchmarks}))
    shared = {"held-out-captions 0-shot", "kind caption 0-shot", "loss captions", "loss instructions.chat", "average"}
    identity = WORLD_DATA.model_copy(update={"kind": "shards", "instructions": {"chat": 1.0}})
    own, mine = (replace(one, data=identity) for one in (own, mine))
    for asked, known in ((own, shared), (mine, {*shared, "a 0-shot", "kind colour 0-shot"})):
        every = {*shared, "a 0-shot", "a f1 0-shot", "kind colour 0-shot", "captions cider 0-shot", "chat 0-shot"}
        assert {words for words in every if not why_no_value(asked, Measure.parse(words))} == known
    uncaptioned = identity.model_copy(update={"sources": ("text",)})
    measures = {"average", "vqa 0-shot", "unparsed %", "captioning 0-shot", "text 0-shot"}
    for metric, images, lacking in (
        ("vqa", "1", {"captioning 0-shot", "text 0-shot"}),
        ("cider", "1", {"vqa 0-shot", "unparsed %", "text 0-shot"}),
        ("exact", "", measures - {"text 0-shot"}),
    ):
        scale = own.scale.model_copy(
            update={"benchmarks": (BenchmarkConfig(name="a", metric=metric, images_digest=images),)}
        )
        asked = replace(own, data=uncaptioned, scale=scale)
        assert {words for words in measures if why_no_value(asked, Measure.parse(words))} == lacking
    synthetic = replace(own, data=identity.model_copy(update={"sources": ("synthetic",)}))
    assert not why_no_value(synthetic, Measure.parse("captioning 0-shot"))
    loss = "loss instructions.chat"
    assert (
        why_untuned(mine, Measure.parse(loss), ["base"]) == f"{loss!r}: only tuned models have it; give `sft` to base"
    )
    for words in ("a 0-shot", "pope-random 0-shot", "kind chat 0-shot"):  # whatever such a name means in the world
        assert not why_untuned(mine, Measure.parse(words), ["base"])
    assert "CIDEr" not in "".join(doubtful_claims(mine)), "a benchmark without pictures is in no mean with captions"
    shown = BenchmarkConfig(name="a", metric="vqa", images_digest="1")
    seen = doubtful_claims(replace(mine, scale=mine.scale.model_copy(update={"benchmarks": (shown,)})))
    assert "CIDEr (not bounded by 100) and percentages; of percentages alone is `vqa 4-shot`" in "".join(seen)


def test_arms_are_compared_from_anywhere(capsys: Output, printed: Told, here: Path, refused: Refused) -> None:
    """Where there are no results, of the committed ones."""
    scores = pd.read_csv(REPOSITORY / "results/study/mini/data_mix/scores.csv")
    asked = scores[scores["family"].isin(("captioning", "vqa")) & (scores["shots"] == 0)]
    means = asked[asked["seed"].isin((300, 302))].groupby("arm")["score"].mean()
    assert main(["compare", "data_mix", "captions", "interleaved", "--seeds", "300,302"]) == 0
    output = capsys.readouterr()
    assert "results/study/mini/data_mix" in output.err and "Points, seeds 300 and 302;" in output.out
    assert "is as it was run" not in output.err
    line = next(line for line in output.out.splitlines() if line.startswith("0-shot"))
    assert line.split()[3] == f"{means['captions'] - means['interleaved']:.1f}"

    measure = "kind letter 0-shot - kind colour 0-shot"
    compare = ("compare", "data_mix", "captions", "interleaved", "--seeds", "300,302", "--measure")
    (row,) = json.loads(printed(*compare, measure, "--json"))["rows"]
    assert (row["measure"], row["over"], row["seeds"]) == (measure, "seeds", [300, 302])
    assert row["difference"] == pytest.approx(row["first"] - row["second"])
    assert row["low"] < row["difference"] < row["high"]

    sweep = load_sweep(REPOSITORY / "sweeps" / "data_mix.yaml")
    write_results(here / "results/local", sweep, ("captions", "captions-66"), (0, 1), questions=8)
    assert main(["compare", "data_mix", "captions", "captions-66"]) == 0
    assert "captions is as it was run; the sweep, its data, settings" in capsys.readouterr().err
    error = refused("compare", "data_mix", "captions", "captions-66", "--seeds", "1,4")
    assert (
        "captions-66 has development seeds 0 and 1; arms are compared at seeds that both have (--seeds asks f" in error
    )
    error = refused("compare", "data_mix", "captions", "capions-66")
    assert "has no scores; did you mean 'captions-66'?" in error
    write_results(here / "other", sweep, ("captions",), (5, 6), questions=8)
    assert "--only base --seeds 5, --results" in refused("answers", "data_mix", "base", "--results", "other")
    lacking = refused("compare", "data_mix", "interleaved", "base", "--results", "other")
    assert "no scores of interleaved and base" in lacking and "--only interleaved --only base --seeds 5,6 " in lacking
    lacking = refused("compare", "data_mix", "interleaved", "base", "--results", "other", "--seeds", "9,")
    assert "--only interleaved --only base --seeds 9, " in lacking
    request = load_request("data_mix", seeds="6,", only=["base"], results="other")
    merge_manifest(
        request.folder, request.manifest, [*read_trials(request.folder), *request.rows], lambda _: True, lambda _: True
    )
    error = refused("answers", "data_mix", "captions", "--results", "other", "--seed", "9")
    assert error.endswith("captions is not finished at seed 9; it is at 5, 6\n")
    encoder = {stage.name: stage for stage in request.trials[0].evaluation.chain()}["encoder"]
    request.ledger.record_failure(encoder.fingerprint, "base", 1, "diverged", "a loss is nan")
    for asked in (["answers", "data_mix", "base"], ["compare", "data_mix", "captions", "base"]):
        assert "base / seed 6 diverged (a loss is nan); to try it as it is: " in refused(*asked, "--results", "other")
    Path("data_mix.yaml").write_text("title: T\nrecipe: base\narms: {captions-90: {data_mix: {captions: 9}}}\n")
    command = "mm1-lab run data_mix.yaml --scale mini --only captions-90 --seeds 0,1"
    error = refused("compare", "data_mix.yaml", "captions", "captions-90")
    assert f"no scores of captions-90; run it first: {command}" in error
    error = refused("compare", "data_mix", "captions", "base", *SMOKE)
    assert "there are results in mini/data_mix: give the --scale, --set" in error
    command = "run the sweep first: mm1-lab run encoder_scratch --scale mini --seeds 7,8\n"
    assert command in refused("compare", "encoder_scratch", "scratch", "base", "--seeds", "7,8")
    for asked in (["compare", "lr_law", "9M", "85M"], ["answers", "lr_law", "9M"]):
        assert main(asked) == 2 and "; known: 9M 0.00308, 9M 0.00615" in capsys.readouterr().err
    assert "9M is not finished; run it first: mm1-lab run lr_law" in refused("answers", "lr_law", "9M", *SMOKE)
    folders = ("--results", "begun", "--store", "weights")
    load_request("data_mix", "smoke", "3,", ["base"], results="begun", store="weights").write_manifest()
    error = refused("compare", "data_mix", "base", "captions", *SMOKE, *folders)
    command = f"mm1-lab run data_mix --scale smoke --only base --only captions --seeds 3, {' '.join(folders)}\n"
    assert error.endswith(f"smoke/data_mix: no trial is finished; run it first: {command}")
    error = refused("compare", "data_mix", "base", "captions", *SMOKE, *folders, "--seeds", "9,")
    assert error.endswith(command.replace("--seeds 3,", "--seeds 9,"))


def test_committed_answers_have_their_points_by_the_references_beside_them(printed: Told, here: Path) -> None:
    """VQA accuracy, by hand: of ten annotators without each in turn, three who agree are enough."""
    shown = json.loads(printed("answers", "data_mix", "base", "--measure", "vqa", "--limit", "9999", "--json"))
    questions = [one for one in shown["questions"] if one["metric"] == "vqa"]
    assert len(questions) == 768
    for one in questions:
        for given in one["answers"]:
            same = one["references"].count(given["answer"])
            points = 10 * ((10 - same) * min(1, same / 3) + same * min(1, (same - 1) / 3))
            assert given["score"] == pytest.approx(points)


def test_a_project_of_one_s_own_has_a_data_file_that_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: Told
) -> None:
    """And a Makefile that plans what it runs; its sweep is run by the test of the tutorial."""
    with monkeypatch.context() as patch:
        patch.setattr("mm1_lab.files.replace", Mock(side_effect=[None, OSError(errno.EIO, "Input/output error")]))
        assert "my_question.yaml: Input/output error" in told("init", str(tmp_path / "mine"), code=1)
    assert main(["init", str(tmp_path / "mine")]) == 0
    made = subprocess.check_output(["make", "-n", "plan", "run", "SEEDS=3"], cwd=tmp_path / "mine", text=True)
    assert made.count("--seeds 3") == 2
    assert DataFile.read(tmp_path / "mine" / "data.yaml").named().keys() == {"captions", "interleaved", "text"}


@pytest.mark.usefixtures("here")
def test_a_sweep_may_lie_anywhere_and_begin_from_the_package_s_recipes(printed: Told, refused: Refused) -> None:
    """As in README, in a folder that holds nothing else."""
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8").split("```yaml\n")[1].split("```")[0]
    Path("my_question.yaml").write_text(text, encoding="utf-8")
    assert "more-text" in printed("show", "my_question.yaml", *SMOKE)
    Path("my_question.yaml").write_text(text.replace("recipe: base", "recipe: bse"), encoding="utf-8")
    error = refused("show", "my_question.yaml", *SMOKE)
    assert error == "mm1-lab: my_question.yaml: there is no recipe 'bse'; did you mean 'base'?\n"


def test_verify_tells_of_a_damaged_part_of_the_package_and_of_trials_that_it_cannot_list(
    here: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = here / "package" / "results" / "parts" / "damaged"
    part.mkdir(parents=True)
    (part / "DONE").write_text("{")
    with monkeypatch.context() as patch:
        patch.setattr("mm1_lab.files.SHIPPED", here / "package")
        assert main(["verify"]) == 1
    (here / "results/local").mkdir(parents=True, exist_ok=True)
    (here / "results/local/trials").touch()
    assert "/trials: cannot be listed (Not a directory), so nothing in it was checked" in refused("verify")


def test_how_the_package_ends_as_a_command_whose_output_nobody_can_have() -> None:
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}

    def ended(shell: str) -> tuple[int, str]:
        command = ["sh", "-c", f"{sys.executable} -m mm1_lab --version {shell}"]
        result = subprocess.run(command, cwd=REPOSITORY, env=buffered, stderr=subprocess.PIPE, text=True, check=False)
        return result.returncode, result.stderr

    code, said = ended(">&-")  # closed by the caller; argparse then writes to the other stream
    assert code == 0 and re.search(r"^mm1-lab \d+\.\d+", said, re.MULTILINE) and "Traceback" not in said
    assert ended("| true") == (0, "")
    if Path("/dev/full").exists():
        assert ended("> /dev/full") == (1, "mm1-lab: the output cannot be written (No space left on device)\n")


def test_a_helper_that_a_ctrl_c_reaches_while_it_imports_ends_afterwards_without_a_traceback() -> None:
    """A Ctrl-C reaches every process of a terminal."""
    importing = "import os, signal; os.kill(os.getpid(), signal.SIGINT); print('still imports', flush=True)"
    ready = "from mm1_lab.processes import begin_helper; begin_helper(); print('works', flush=True)"
    with interrupts_blocked():
        helper = run_python(f"{importing}; {ready}")
    assert (helper.stdout, helper.stderr, helper.returncode) == ("still imports\n", "", -signal.SIGINT)
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, []), "the command itself hears it"
    main([])
    helper = run_python("import gc, mm1_lab.processes as own; own.begin_helper(); print(gc.get_threshold())")
    assert helper.stdout == f"{gc.get_threshold()}\n", "it collects as rarely as the command"


def interrupt_all(*_: object, **__: object) -> None:
    """In place of drawing, what a Ctrl-C in a terminal does; this process ends a moment after the command hears it."""
    with interrupts_blocked():
        os.killpg(0, signal.SIGINT)
        time.sleep(0.5)


def test_a_ctrl_c_while_figures_are_drawn_ends_in_one_line(tmp_path: Path) -> None:
    sweep = load_sweep(REPOSITORY / "sweeps" / "data_mix.yaml")
    for name in "abcdefghij":  # more than processors
        write_results(tmp_path, sweep.model_copy(update={"name": name}), ("base",), (0,), questions=8)
    code = (
        "import os, sys; os.setsid(); from analysis import redraw; from tests.test_cli_small import interrupt_all\n"
        "from multiprocessing import util; from signal import SIG_BLOCK, SIGINT, pthread_sigmask\n"
        "start = util.spawnv_passfds; blocked = lambda: SIGINT in pthread_sigmask(SIG_BLOCK, [])\n"
        "util.spawnv_passfds = lambda *how: (print(blocked()), start(*how))[1]\n"
        "redraw._draw_and_note = interrupt_all; from mm1_lab.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    ended = run_python(code, "figures", "--results", str(tmp_path))
    assert (ended.stderr.strip(), ended.returncode) == ("mm1-lab: stopped; run the same command to continue", 130)
    assert ended.stdout == "True\nTrue\n", "what serves the processes that draw starts deaf to a Ctrl-C, too"


def touch_later(path: str) -> None:
    time.sleep(1)
    Path(path).touch()


def test_a_ctrl_c_while_helpers_start_is_heard_afterwards_and_ends_them(tmp_path: Path) -> None:
    """Also if a library's thread hears it, and although they have not."""
    code = (
        "import os, signal, sys, threading, time; from concurrent.futures import ProcessPoolExecutor as Pool\n"
        "from functools import partial; from multiprocessing import get_context\n"
        "from mm1_lab.processes import begin_helper, by_helpers; from tests.test_cli_small import touch_later\n"
        "threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
        "def calls():\n"
        "    yield partial(touch_later, sys.argv[1])\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    time.sleep(0.2)\n"
        "    print('goes on')\n"
        "try:\n"
        "    with Pool(1, get_context('spawn'), begin_helper) as pool: by_helpers(pool, calls())\n"
        "except KeyboardInterrupt:\n"
        "    print('stops')\n"
    )
    ended = run_python(code, str(tmp_path / "drawn"))
    assert (ended.stdout, ended.stderr) == ("goes on\nstops\n", "")
    assert not (tmp_path / "drawn").exists(), "it ended at once"


def test_an_interrupted_command_has_its_exit_code_and_leaves_libraries_as_they_are() -> None:
    """A Ray that was interrupted while starting would crash when it is taken apart."""
    code = (
        "import atexit, sys; from mm1_lab import cli\n"
        "def interrupted(given):\n"
        "    atexit.register(print, 'taken apart')\n"
        "    raise KeyboardInterrupt\n"
        "cli._run = interrupted; sys.argv[0] = 'mm1-lab'; cli.console()"
    )
    result = run_python(code, "plan")
    assert result.returncode == 130 and not result.stdout and "Traceback" not in result.stderr
    result = run_python(code, "plan", "--debug")
    assert result.returncode == 130 and "Traceback" in result.stderr


@pytest.mark.usefixtures("here")
def test_sizes_of_a_law_are_those_of_a_base_that_set_changes(told: Told) -> None:
    changed = "scale.decoders.302M.experts=4"
    text = told("fit-lr-law", *SMOKE, "--sizes", "9M,302M,1.2B", "--set", changed, code=2)
    assert text.endswith("--sizes: 302M has experts, and the others are dense; fit a law for each kind by itself\n")
