"""The command as a user types it, at smoke scale."""

import json
import os
import shutil
import signal
import socket
from typing import Any
from urllib.error import HTTPError
from urllib.request import HTTPCookieProcessor, Request, build_opener, urlopen

import pandas as pd
import pytest
from mlflow import MlflowClient

from mm1_lab.cli import command_parsers, main, make_parser
from mm1_lab.config import load_scale
from mm1_lab.evaluate.world import world_benchmarks
from mm1_lab.orchestrate.planning.loading import load_request
from mm1_lab.results import Ledger
from mm1_lab.results.manifest import read_trials
from mm1_lab.results.score_file import read_score_table
from tests.conftest import Refused, Told, run_python

RUN = ("run", "data_mix", "--scale", "smoke", "--only", "base", "--only", "captions")


def test_help_is_there_for_every_command_with_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    for command in command_parsers(make_parser()):
        with pytest.raises(SystemExit, match=r"^0$"):
            main([command, "--help"])
        assert f"example: mm1-lab {command}" in " ".join(capsys.readouterr().out.split())


def test_help_and_a_finished_sweep_need_nothing_heavy(finished: Any) -> None:
    script = f"""
import sys
from mm1_lab.cli import command_parsers, main, make_parser
from mm1_lab.orchestrate.planning.feasible import check_networks
from mm1_lab.orchestrate.planning.loading import load_request
try:
    main(["--help"])
except SystemExit:
    pass
assert main({["plan", *RUN[1:]]}) == 0
assert main({list(RUN)}) == 0
assert main({["show", RUN[1], "base", *RUN[2:4]]}) == 0  # with its numbers of parameters, as recorded
heavy = {{"torch", "ray", "mlflow", "transformers", "lightning", "matplotlib", "pandas"}}
heavy = (heavy | {{"numpy", "pyarrow", "tokenizers"}}) & set(sys.modules)
assert not heavy, heavy
check_networks([load_request({RUN[1]!r}, "smoke").trials[0].evaluation.model])  # as `run` does before it starts Ray
assert "torch" in sys.modules and "transformers" not in sys.modules
assert main({["plan", *RUN[1:], "--seeds", "2"]}) == 0  # which builds networks, and trains none
assert "transformers" in sys.modules and not {{"lightning", "pandas"}} & set(sys.modules)
"""
    before = finished.done()
    result = run_python(script, folder=finished.folder)
    assert result.returncode == 0, result.stderr
    assert "nothing ran" in result.stdout
    assert finished.done() == before


def test_a_finished_sweep_has_table_figure_and_runs_to_browse(
    finished: Any, monkeypatch: pytest.MonkeyPatch, told: Told, printed: Told
) -> None:
    def status(*words: str, code: int = 0) -> str:
        return told("status", "--scale", *words, code=code)

    monkeypatch.chdir(finished.folder)
    folder = finished.results / "smoke" / "data_mix"
    assert (folder / "figure.png").stat().st_size > 10_000
    table = (folder / "table.md").read_text()
    assert "Captions / interleaved" in table and "Without scores" not in table, "of ten arms that nobody asked for"
    missing = "0 missing, 0 failed; 10 trials not asked for\n"
    assert f"data_mix at smoke: 2 done, {missing}" in status("smoke")
    mine = "title: mine\nrecipe: base\narms: {base: {}, captions: {data_mix: {captions: 1, interleaved: 0, text: 0}}}\n"
    claim = "{claim: c, first: base, second: captions, measure: chat 0-shot, expect: greater}"
    (finished.folder / "sweeps" / "mine.yaml").write_text(f"{mine}contrasts: [{claim}]\n")
    planned = json.loads(printed("plan", "mine", "--scale", "smoke", "--json"))
    assert {trial["state"] for trial in planned["trials"]} == {"done"}
    assert "give `sft` to base, captions" in "".join(planned["notes"]), "though nothing is missing"
    (finished.folder / "sweeps" / "mine.yaml").unlink()
    one = status("smoke", "data_mix", "--only", "base")
    assert f"1 done, {missing.replace('10', '11')}" in one
    assert "has no results at mini" in status("mini", code=2)
    Ledger(finished.results).record_failure("f" * 16, "base / seed 56", 2, "failed", "of another sweep")
    assert "of another sweep" in status("smoke") and "of another sweep" not in status("smoke", "data_mix")
    Ledger(finished.results).clear_failure("f" * 16)
    client = MlflowClient(tracking_uri=f"sqlite:///{finished.results / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("data_mix").experiment_id
    runs = {run.info.run_name: run for run in client.search_runs([experiment])}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    child = runs["captions / seed 0 at smoke"]
    assert child.data.params["paper.data_mix.captions"] == "1.0"
    logged = {"0-shot", "text-core", "captions/8-shot", "held-out/text", "train/loss", "train/gradient_norm"}
    assert logged <= set(child.data.metrics)
    assert len(client.get_metric_history(runs["base / seed 0 at smoke"].info.run_id, "train/loss/interleaved")) > 1


def test_answers_with_questions(finished: Any, monkeypatch: pytest.MonkeyPatch, told: Told, refused: Refused) -> None:
    monkeypatch.chdir(finished.folder)
    monkeypatch.setenv("COLUMNS", "70")
    command = ("answers", "data_mix", "base", "--scale", "smoke")
    (row,) = (row for row in read_trials(finished.results / "smoke" / "data_mix") if row.arm == "base")
    table = pd.read_parquet(finished.results / "trials" / row.fingerprint / "scores.parquet")
    table = table[(table["family"] == "vqa") & (table["shots"] == 4)]
    shown = json.loads(told(*command, "--measure", "vqa 4-shot", "--limit", "999", "--prompt", "--json"))
    expected = []
    for (benchmark, kind), own in table.groupby(["benchmark", "kind"], sort=False):
        unparsed = pytest.approx(100 * (1 - own["parsed"].mean()))
        numbers = {"questions": len(own), "4-shot": pytest.approx(own["score"].mean()), "unparsed %": unparsed}
        expected.append({"benchmark": benchmark, "kind": kind, **numbers})
    assert shown["scores"] == expected and shown["seed"] == 0
    answers = {(one["benchmark"], one["question"]): one["answers"][0]["answer"] for one in shown["questions"]}
    assert answers == table.set_index(["benchmark", "question"])["prediction"].to_dict()

    settings = load_scale("smoke", finished.folder / "sweeps" / "scales").evaluate
    asked = {(one["benchmark"], one["question"]): one for one in shown["questions"]}
    for benchmark in world_benchmarks(settings, 0):
        if benchmark.family == "vqa":
            question, shots = benchmark.blocks[-1][0], benchmark.demonstrations[-1][:4]
            one = asked[benchmark.name, question.key]
            assert one["references"] == list(question.references)
            examples = [f"<image> {shot.prompt} {shot.shown} ." for shot in shots]
            assert one["answers"][0]["prompt"] == " ".join([*examples, f"<image> {question.prompt}"])

    lines = told(*command, "--limit", "3", "--kind", "colour", "--wrong").splitlines()
    assert "degraded-vqa  colour" in "\n".join(lines) and all(len(line) <= 70 for line in lines)
    heads = [line for line in lines if line.count(", ") == 2 and ", colour, " in line]
    assert [line.split(", ")[0] for line in heads] == ["vqa", "vqa", "degraded-vqa"], "in turn"
    for words, said in {
        ("--measure", "vqaa"): "base has no such answers; did you mean 'vqa'?",
        ("--measure", "vqa 5-shot"): "there are 0-shot, 4-shot, 8-shot",
        ("--measure", "loss captions"): "no answer has such points; name a measure that one has",
        ("--measure", "kind color 4-shot"): "did you mean 'colour'?",
        ("--measure", "unparsed %"): "no answer has such points",
        ("--kind", "color"): "did you mean 'colour'?",
        ("--seed", "1"): "base is not finished at seed 1; it is at 0\n",
        ("--limit", "-1"): "--limit -1: give how many questions",
        ("--seed", "-1"): "--seed -1: seeds are 0 or more",
    }.items():
        assert said in refused(*command, *words)
    table = read_score_table(finished.results / "trials" / row.fingerprint)
    fewer = table[(table["benchmark"] != "captions") | (table["shots"] == 0)]
    with monkeypatch.context() as patch:  # as the conversations of a tuned model
        patch.setattr("mm1_lab.commands.answers.read_score_table", lambda folder: fewer)
        assert "base has no such answers; there are 0-shot\n" in refused(*command, "--measure", "captions 4-shot")
    assert "has no arm 'bse'; did you mean 'base'?" in refused("answers", "data_mix", "bse", "--scale", "smoke")
    error = refused("answers", "data_mix", "blind", "--scale", "smoke")
    assert "blind is not finished; run it first: mm1-lab run data_mix --scale smoke --only blind\n" in error
    error = refused("answers", "data_mix", "blind", "--scale", "smoke", "--seed", "7")
    assert "run it first: mm1-lab run data_mix --scale smoke --only blind --seeds 7,\n" in error
    request = load_request("data_mix", "smoke", only=["blind"])
    model = request.trials[0].evaluation.model.fingerprint
    request.ledger.record_failure(model, "blind", 2, "failed", "no picture")
    again = "run it again: mm1-lab run data_mix --scale smoke --only blind"
    for command in (["answers", "data_mix", "blind"], ["compare", "data_mix", "blind", "base"]):
        assert f"; blind / seed 0 failed (no picture); mend that, and {again}" in refused(*command, "--scale", "smoke")
    request.ledger.record_failure(model, "blind", 1, "diverged", "the loss is nan")
    error = refused("answers", "data_mix", "blind", "--scale", "smoke")
    assert "blind / seed 0 diverged (the loss is nan); to try it as it is: mm1-lab run" in error and "--anew" in error
    request.ledger.failure_file(model).unlink()


def test_the_dashboard_tells_its_address_when_it_answers_and_tells_nobody_else_anything(
    finished: Any, place: Any, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(finished.results, place.results, dirs_exist_ok=True)
    monkeypatch.chdir(place.folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.listen()
        error = refused("dashboard", "--port", str(port), "--results", str(place.results))
        assert f"--port {port}: " in error and error.endswith("; choose another by --port\n")
    for module in ("random", "starlette"):
        (place.folder / f"{module}.py").write_text("raise SystemExit('imported from the working folder')\n")
    process = place.start("dashboard", "--port", "0", fresh=True)  # any that is free
    try:
        assert process.stdout.readline() == "MLflow starts …\n"
        words, _, opened = process.stdout.readline().strip().rpartition(" ")
        address, _, token = opened.partition("/?token=")
        assert words == "MLflow is at" and address.startswith("http://127.0.0.1:") and len(token) > 20
        assert process.stdout.readline().startswith("End it with Ctrl-C")
        assert process.stdout.readline().startswith("data_mix at smoke: nothing new for sqlite:///")
        page = "#/experiments/1/runs?workflowType=machine_learning&viewStateShareKey=mm1-arms"
        assert process.stdout.readline() == f"Runs of data_mix: {opened}{page}\n"
        telemetry = f"{address}/ajax-api/3.0/mlflow/ui-telemetry"
        for wrong in (address, telemetry, f"{address}/?token={token[1:]}"):
            with pytest.raises(HTTPError, match="403"):
                urlopen(wrong, timeout=30)
        browser = build_opener(HTTPCookieProcessor())
        with browser.open(opened, timeout=30) as answer:
            assert answer.url == f"{address}/" and "static-files/static/js/main" in answer.read().decode()
        with browser.open(telemetry, timeout=30) as answer:
            assert json.load(answer)["disable_ui_telemetry"] is True
        with pytest.raises(HTTPError, match="403"):
            browser.open(Request(address, headers={"Host": "other.example"}), timeout=30)
        with urlopen(Request(telemetry, headers={"Authorization": f"Bearer {token}"}), timeout=30) as answer:
            assert answer.status == 200, "as MLflow's client sends MLFLOW_TRACKING_TOKEN"
        with browser.open(f"{address}/ajax-api/2.0/mlflow/experiments/get?experiment_id=1", timeout=30) as answer:
            tags = {tag["key"]: tag["value"] for tag in json.load(answer)["experiment"]["tags"]}
        view = json.loads(tags["mlflow.sharedViewState.mm1-arms"])
        assert view["groupBy"]["groupByKeys"] == [{"mode": "param", "groupByData": "arm"}]
        assert view["groupsExpanded"]["param.arm.base"] is False
        assert {"metrics.`average`", "metrics.`8-shot`", "metrics.`text-core`"} <= {*view["selectedColumns"]}
    finally:
        os.killpg(process.pid, signal.SIGINT)
        output, _ = process.communicate()
    assert not output.strip() and process.returncode == 0, "there is nothing to continue"


def test_a_picture_for_a_chat_is_confirmed(finished: Any, told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(finished.folder)
    picture = finished.results / "smoke" / "data_mix" / "figure.png"
    typed = iter([f"/image {picture}", "/new", f"/image {picture}", "zebra", f"/image {picture}", "a circle", ""])
    monkeypatch.setattr("builtins.input", lambda _: next(typed))
    monkeypatch.setattr("mm1_lab.team._gpu_allowed", True)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)  # a GPU that the scale leaves alone
    said = told("chat", "data_mix", "--scale", "smoke", "--only", "base")
    parts = ("1 image for the next ", "'zebra' is none of", "2 images for the ")
    places = [said.index(parts[0]), *map(said.rindex, parts), said.index("base:")]
    assert places == sorted(set(places))
