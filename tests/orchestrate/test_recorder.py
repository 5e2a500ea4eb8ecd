import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mm1_lab.cli import main
from mm1_lab.config import RequestError, Trial
from mm1_lab.files import Busy
from mm1_lab.orchestrate.execution.executor import Executor, Work
from mm1_lab.orchestrate.execution.worker import WorkerContext
from mm1_lab.orchestrate.execution.worklist import Execution, Outcome
from mm1_lab.orchestrate.planning.plan import make_plan
from mm1_lab.orchestrate.planning.request import Request, load_request
from mm1_lab.orchestrate.sweeping import work_through
from mm1_lab.orchestrate.tracking import dashboard
from mm1_lab.orchestrate.tracking.dashboard import pages
from mm1_lab.orchestrate.tracking.mlflow_contents import curves, parameters
from mm1_lab.orchestrate.tracking.mlflow_recorder import MlflowRecorder, behind_note, sync
from mm1_lab.orchestrate.tracking.mlflow_runs import NOTE, VIEW, SweepRuns
from mm1_lab.orchestrate.tracking.mlflow_store import connect
from mm1_lab.results import HeldOutRow, Ledger, Manifest, ScoreRow
from mm1_lab.results.manifest import read_manifest
from tests import pretrained as saved
from tests.conftest import REPOSITORY
from tests.data.conftest import Files

DATABASE = Path("results/local/mlflow.db")


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database without runs: to make its tables takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("empty"))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        connect()
        return DATABASE.absolute()


@pytest.fixture
def request_(empty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Request:
    """Two trials, of which the first is done, and a database."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    only = ("base", "captions")
    request = load_request("data_mix", "smoke", "1", only, (), None, Path("results/local"), Path("results/local/store"))
    request.write_manifest()
    write(request, request.trials[0])
    shutil.copy(empty, DATABASE)
    return request


def write(request: Request, trial: Trial, score: float = 40.0) -> None:
    Path("training.csv").write_text("step,name,value\n1,loss,3\n2,loss,2\n", encoding="utf-8")
    chain = {"encoder": "e", "decoder": "d", "multimodal": "m", "evaluation": trial.fingerprint}
    record = {
        "recipe": trial.recipe.model_dump(mode="json"),
        "config": trial.evaluation.model_dump(mode="json"),
        "fingerprints": chain,
        "summaries": {
            "encoder": {"retrieval": {"image_to_text": 0.5}},
            "multimodal": {"tokens": {"captions": 600, "text": 300}, "seconds": 20.0},
        },
        "environment": {"date": "2026-01-01T00:00:00+00:00", "processor": "p", "commit": None},
    }
    scores = [ScoreRow("vqa", "vqa", "vqa", 0, 0, "q", "colour", score, "red", True)]
    request.ledger.write_scores(trial.fingerprint, scores, [HeldOutRow("text", 1.5)], [], record, Path("training.csv"))


def runs_of(request: Request) -> tuple[Any, dict[str, Any]]:
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{DATABASE.absolute()}")
    runs = client.search_runs([client.get_experiment_by_name("data_mix").experiment_id])
    assert len({run.info.run_name for run in runs}) == len(runs), "a run is there twice"
    return client, {run.info.run_name: run for run in runs}


def test_a_run_s_parameters_tell_arms_apart_by_all_that_is_set(tmp_path: Path) -> None:
    """Frozen parts and instruction tuning too; nothing is said of captions and pre-training that there were not."""
    files, tower = Files(tmp_path), saved.save_encoder("clip", tmp_path / "clip")
    files.captions("captions.tar", range(40))
    files.jsonl("text.jsonl", [files.prose(30, n) for n in range(40)])
    talk = {"image": "1.png", "conversations": [{"from": "human", "value": "Hi?"}, {"from": "gpt", "value": "Ho."}]}
    (tmp_path / "talks.json").write_text(json.dumps([talk] * 40), encoding="utf-8")
    Image.new("RGB", (8, 8)).save(tmp_path / "1.png")
    talks = {"talks": {"files": "talks.json"}}
    data = files.yaml(captions="captions.tar", text="text.jsonl", instructions=talks)
    sft = {"frozen": ["encoder", "connector"], "mixture": {"talks": 2}}
    arms: dict[str, Any] = {"base": {}, "frozen": {"frozen": ["decoder"]}, "tuned": {"sft": sft}}
    arms |= {"clip": {"encoder": {"size": str(tower)}, "resolution": "native", "sft": {"resolution": 378}}}
    mixed = {arm: change | {"data_mix": {"interleaved": 0}} for arm, change in arms.items()}
    path = tmp_path / "own.yaml"
    path.write_text(json.dumps({"title": "t", "recipe": "base", "arms": mixed}), encoding="utf-8")
    settings = ("evaluate.shots=[0]", "resolutions.378=28")
    request = load_request(path, "smoke", settings=settings, data=data, results=tmp_path / "results")
    manifest = Manifest(variant="own", sweep=request.sweep, scale="smoke", data=request.data, data_name="d")
    found = {}
    for trial in request.trials:
        recipe, config = (one.model_dump(mode="json") for one in (trial.recipe, trial.evaluation))
        found[trial.arm] = parameters(manifest, [(trial.arm, 0)], recipe, config)
    assert found["base"]["data_mix"] == "captions 5 / interleaved 0 / text 1" and "frozen" not in found["base"]
    base, tuned, clip = found["base"], found["tuned"], found["clip"]
    assert (base["paper.encoder"], base["paper.steps"]) == ("ViT-L, dfn+vecap, contrastive", "200000")
    assert found["frozen"]["paper.frozen"] == "decoder"
    assert tuned["paper.sft.frozen"] == "encoder, connector" and tuned["paper.sft.mixture"] == "talks 2"
    assert tuned["paper.encoder"] == base["paper.encoder"] and tuned["paper.sft.views"] == "1"
    assert clip["paper.encoder"] == str(tower) and clip["paper.sft.resolution"] == "378"
    # what ran: the sizes and steps of `smoke`, and of a pre-trained tower its name
    scale = request.scale
    ran = {name: base[name] for name in ("image_size", "image_tokens", "steps", "learning_rate")}
    rate = f"{scale.train.learning_rate:g}"
    assert ran == {"image_size": "36 px", "image_tokens": "9", "steps": str(scale.train.steps), "learning_rate": rate}
    assert base["encoder"].endswith(f"trained here for {scale.encoder.steps} steps (contrastive)")
    assert clip["encoder"] == f"{tower} (pre-trained clip_vision_model, 3 layers of width 16)"
    assert (tuned["trained_on"], clip["image_size"], clip["steps"]) == ("talks 100 %", "28 px", str(scale.sft.steps))
    assert tuned["tuned_from"].startswith(f"multimodal pre-training of {scale.train.steps} steps at {rate} on captions")


def test_syncing_twice_changes_nothing_and_leaves_nothing_running(request_: Request) -> None:
    sync(request_.folder, request_.ledger)
    unfinished = SweepRuns(read_manifest(request_.folder), request_.ledger)
    trial = request_.trials[1]
    unfinished.start(make_plan(request_.trials, request_.ledger).tasks[trial.fingerprint])
    _, runs = runs_of(request_)
    assert runs["captions / seed 0 at smoke"].info.status == "RUNNING"
    sync(request_.folder, request_.ledger)
    client, runs = runs_of(request_)
    assert {name: run.info.status for name, run in runs.items()} == {
        "base / seed 0 at smoke": "FINISHED",
        "captions / seed 0 at smoke": "KILLED",
        "data_mix at smoke": "KILLED",
    }
    base = runs["base / seed 0 at smoke"]
    assert base.data.metrics == {
        "vqa/0-shot": 40,
        "0-shot": 40,
        "vqa 0-shot": 40,
        "average": 40,
        "held-out/text": 1.5,
        "encoder/retrieval": 0.5,
        "train/loss": 2,
        "train/tokens per second": 45,
    }
    params = base.data.params
    assert (params["arm"], params["seed"], params["data_mix"][:10]) == ("base", "0", "captions 5")
    fingerprint = request_.trials[0].fingerprint
    assert base.data.tags["mm1.fingerprint"] == fingerprint
    assert f"trials/{fingerprint}/" in base.data.tags[NOTE] and "--scale smoke --only base`" in base.data.tags[NOTE]
    assert [point.value for point in client.get_metric_history(base.info.run_id, "train/loss")] == [3, 2]
    write(request_, trial)
    sync(request_.folder, request_.ledger)
    client, runs = runs_of(request_)
    assert {run.info.status for run in runs.values()} == {"FINISHED"} and len(runs) == 3


def test_what_is_logged_while_the_local_database_is_served_stays_local(
    request_: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow's server sets the variable to the database that it serves: no `mlruns` here, and no second run of each."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{DATABASE.absolute()}")
    sync(request_.folder, request_.ledger)
    assert not Path("mlruns").exists() and list(Path("results/local/mlartifacts").rglob("samples.html"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    _, before = runs_of(request_)
    sync(request_.folder, request_.ledger)
    assert runs_of(request_)[1].keys() == before.keys()


def test_the_dashboard_opens_on_trials_in_the_papers_words_best_first(request_: Request) -> None:
    sync(request_.folder, request_.ledger)
    client, runs = runs_of(request_)
    experiment = client.get_experiment_by_name("data_mix")
    (page,) = pages().values()
    assert page.startswith(f"/#/experiments/{experiment.experiment_id}/runs?viewStateShareKey=data_mix-smoke&")
    view = json.loads(experiment.tags[f"{VIEW}data_mix-smoke"])
    found = client.search_runs(
        [experiment.experiment_id], view["searchFilter"], order_by=[f"{view['orderByKey']} DESC"]
    )
    assert [run.info.run_name for run in found] == ["base / seed 0 at smoke"]
    logged = {f"params.`{name}`" for name in runs["base / seed 0 at smoke"].data.params}
    logged |= {f"metrics.`{name}`" for name in runs["base / seed 0 at smoke"].data.metrics}
    assert set(view["selectedColumns"]) - logged == {"metrics.`4-shot`", "metrics.`8-shot`", "metrics.`text-core`"}
    assert [section["name"] for section in view["compareRunSections"]][:2] == ["train", "train/loss"], "losses first"
    assert "Group by" in experiment.tags[NOTE]


def test_a_variant_with_settings_and_data_has_a_page(request_: Request) -> None:
    """Its name has commas and equals signs, which names of MLflow's tags may not have."""
    varied = replace(request_, overrides=("train.steps=6", "evaluate.shots=[0, 4, 8]"))
    varied.write_manifest()
    sync(varied.folder, varied.ledger)
    (page,) = pages().values()
    assert "viewStateShareKey=data_mix_evaluate.shots" in page


@pytest.mark.parametrize("call", ["log_text", "set_terminated"])
def test_logging_that_was_cut_off_is_done_again_without_doubles(request_: Request, call: str) -> None:
    runs = SweepRuns(read_manifest(request_.folder), request_.ledger)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(runs.client, call, lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt))
        runs.log_trial(request_.trials[0].fingerprint, [("base", 0)])
    sync(request_.folder, request_.ledger)
    client, found = runs_of(request_)
    base = found["base / seed 0 at smoke"].info
    assert base.status == "FINISHED"
    assert len(client.get_metric_history(base.run_id, "train/loss")) == 2
    assert [item.path for item in client.list_artifacts(base.run_id)] == ["samples.html"]


def test_a_sweep_goes_on_without_mlflow_and_a_note_remains(
    request_: Request, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    recorder = MlflowRecorder(request_.folder, request_.ledger)
    task = next(iter(make_plan(request_.trials, request_.ledger).tasks.values()))
    recorder.started(task)
    recorder.close("FINISHED")
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "http://127.0.0.1:9" in error and "mm1-lab sync-mlflow" in error
    assert behind_note(request_.folder).exists()
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    sync(request_.folder, request_.ledger)
    assert not behind_note(request_.folder).exists()
    assert "base / seed 0 at smoke" in runs_of(request_)[1]


@pytest.mark.parametrize("server", [False, True])
def test_a_sweep_that_is_running_is_left_alone(
    server: bool, request_: Request, empty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a server also from another working directory: a second command would close its runs, and make them twice."""
    if server:
        shutil.copy(empty, tmp_path / "server.db")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'server.db'}")
    recorder = MlflowRecorder(request_.folder, request_.ledger)
    is_open = threading.Event()
    recorder.jobs.put(lambda runs: is_open.set())
    recorder._begin()
    assert is_open.wait(60)
    if server:
        (tmp_path / "other").mkdir()
        monkeypatch.chdir(tmp_path / "other")
    with pytest.raises(Busy):
        sync(request_.folder, request_.ledger)
    monkeypatch.chdir(tmp_path)
    recorder.close("FINISHED")
    sync(request_.folder, request_.ledger)


def test_a_database_is_made_whole_or_not_at_all_and_a_broken_one_is_put_aside(
    request_: Request, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a kill leaves it while MLflow makes its tables: some of them, and no version."""
    DATABASE.unlink()
    for path in (DATABASE, DATABASE.with_name(f".{DATABASE.name}.{os.getpid()}")):
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("create table experiments (experiment_id integer)")
    sync(request_.folder, request_.ledger)
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "mlflow.broken.db" in error and "mm1-lab sync-mlflow" in error
    assert DATABASE.with_suffix(".broken.db").exists()
    assert "base / seed 0 at smoke" in runs_of(request_)[1]
    sync(request_.folder, request_.ledger)
    assert not capsys.readouterr().err
    assert not list(DATABASE.parent.glob(".mlflow.db*"))


def test_a_database_that_another_command_writes_is_not_put_aside(
    request_: Request, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sqlite3.connect", partial(sqlite3.connect, timeout=0.1))
    with contextlib.closing(sqlite3.connect(DATABASE)) as other:
        other.execute("begin exclusive")
        assert main(["sync-mlflow"]) == 2
    error = capsys.readouterr().err
    assert "database is locked" in error and error.count("\n") == 1
    assert DATABASE.exists() and not DATABASE.with_suffix(".broken.db").exists()


@pytest.mark.slow
def test_several_commands_make_one_database(request_: Request) -> None:
    DATABASE.unlink()
    command = [sys.executable, "-c", "from mm1_lab.orchestrate.tracking.mlflow_store import connect; connect()"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    racing = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate()[1] for process in racing] == [""] * 2
    sync(request_.folder, request_.ledger)
    assert "base / seed 0 at smoke" in runs_of(request_)[1]
    assert not list(Path("results/local").glob("*.broken.db"))


@pytest.mark.parametrize("command", [["sync-mlflow"], ["dashboard", "--port", "0"]], ids=["sync-mlflow", "dashboard"])
@pytest.mark.parametrize(
    "uri",
    [
        "http://me:hunter2@127.0.0.1:9",
        "postgresql://me:hunter2@127.0.0.1:9/runs",
        "postgresql://127.0.0.1:9/runs?user=me&password=hunter2",
        "gopher://me:hunter2@nowhere",
    ],
)
def test_a_server_that_is_away_gets_one_line_without_the_password(
    request_: Request, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], uri: str, command: list[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert main(command) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "MLflow at " in error and "hunter2" not in error and "Traceback" not in error


def test_the_addresses_on_a_server_are_told_without_the_password(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:hunter2@runs.example.org")
    monkeypatch.setattr(dashboard, "pages", lambda: {"data_mix-smoke": "/#/experiments/1"})
    dashboard.show_dashboard(0, iter([]))
    first, second = capsys.readouterr().out.splitlines()
    assert first == "data_mix-smoke: https://runs.example.org/#/experiments/1"
    assert second == "MLflow is at https://runs.example.org"


def test_while_the_dashboard_serves_sweeps_appear_as_they_are_logged_until_one_cannot_be(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {"b-mini": "/#/experiments/1"}
    monkeypatch.setattr(dashboard, "pages", lambda: dict(found))

    def log() -> Iterator[str]:
        found["a-mini"] = "/#/experiments/2"
        yield "a at mini: logged"
        yield "c at mini: is running now"
        raise RequestError("MLflow at sqlite:///x.db cannot be written (disk full)")

    dashboard._print_while_serving("http://127.0.0.1:5000", log())
    output, error = capsys.readouterr()
    assert output.splitlines() == [f"{name}: http://127.0.0.1:5000{found[name]}" for name in ("b-mini", "a-mini")]
    assert error == "mm1-lab: MLflow at sqlite:///x.db cannot be written (disk full)\n"


def test_a_results_folder_with_an_apostrophe_is_entered_once(request_: Request) -> None:
    own = Path("it's mine")
    shutil.copytree("results/local", own)
    folder = own / "smoke" / "data_mix"
    for _ in range(2):
        sync(folder, Ledger(own, own / "store"))
    assert set(runs_of(request_)[1]) == {"data_mix at smoke", "base / seed 0 at smoke"}


def test_what_a_command_could_not_log_while_another_did_is_noted(request_: Request) -> None:
    """The first one's end removes the note that both have made."""
    first, second = (MlflowRecorder(request_.folder, request_.ledger) for _ in range(2))
    is_open = threading.Event()
    first.jobs.put(lambda runs: is_open.set())
    first._begin()
    assert is_open.wait(60)
    second._begin()
    second.thread.join()
    first.close("FINISHED")
    assert not behind_note(request_.folder).exists()
    second.close("FINISHED")
    assert behind_note(request_.folder).exists()
    sync(request_.folder, request_.ledger)
    assert not behind_note(request_.folder).exists()


class Finished(Executor):
    """Finds the results of every task written."""

    def work(self, execution: Execution, context: WorkerContext, work: Work) -> None:
        while task := execution.take():
            execution.start(task)
            execution.settle(task, Outcome())


def test_a_result_that_cannot_be_read_back_is_told_and_the_sweep_goes_on(
    request_: Request, capsys: pytest.CaptureFixture[str]
) -> None:
    request_.ledger.forget(request_.trials[0].fingerprint)
    plan = make_plan(request_.trials, request_.ledger)
    plan.tasks = {key: replace(task, needs=()) for key, task in plan.tasks.items() if task.kind == "trial"}
    for trial in request_.trials:
        write(request_, trial)
    lost = request_.ledger.trial_folder(request_.trials[0].fingerprint)
    (lost / "scores.parquet").write_bytes(b"PAR1")
    recorder = MlflowRecorder(request_.folder, request_.ledger)
    assert len(work_through(plan, request_, Finished(), {}, [recorder]).done) == 2
    recorder.close("FAILED")
    printed = capsys.readouterr()
    base, captions = (line for line in printed.out.splitlines() if line.startswith("done  "))
    assert base.startswith("done      base / seed 0 in ") and f"{lost}/scores.parquet: cannot be read (" in base
    assert base.endswith("; delete its folder and run the sweep again")
    assert captions.startswith("done      captions / seed 0 in ") and captions.endswith(": 0-shot 40.0")
    assert printed.err.startswith(f"mm1-lab: {lost}: damaged (") and len(printed.err.splitlines()) == 1
    states = {name: run.info.status for name, run in runs_of(request_)[1].items()}
    assert states["base / seed 0 at smoke"] == "KILLED" and states["captions / seed 0 at smoke"] == "FINISHED"


def test_a_curve_is_entered_while_its_stage_runs_and_no_point_twice(request_: Request) -> None:
    task = make_plan(request_.trials, request_.ledger).tasks[request_.trials[1].fingerprint]
    runs = SweepRuns(read_manifest(request_.folder), request_.ledger)
    runs.start(task)
    partial = request_.ledger.partial_folder(task.stages[0].fingerprint)
    partial.mkdir(parents=True)
    lines = "step,name,value\n", "1,loss,3\n", "2,loss,2.5\n", "3,loss,2.25\n"
    for count in (2, 3):
        (partial / "training.csv").write_text("".join(lines[:count]), encoding="utf-8")
        runs.log_running(task)
    client, found = runs_of(request_)
    run = found["captions / seed 0 at smoke"].info
    assert run.status == "RUNNING"
    assert [point.value for point in client.get_metric_history(run.run_id, "train/loss")] == [3, 2.5]


def test_a_row_that_is_being_written_is_left_for_later(tmp_path: Path) -> None:
    """Cut anywhere, its value would be another one, or none at all."""
    path = tmp_path / "training.csv"
    for rest in ("2,loss,2.", "2,loss,2.5e", "2,lo", "2", ""):
        path.write_text(f"step,name,value\n1,loss,3\n{rest}", encoding="utf-8")
        assert curves(path) == [("train/loss", 3.0, 1)]
    path.write_text("", encoding="utf-8")
    assert curves(path) == []


def test_scores_that_were_computed_anew_are_logged(request_: Request) -> None:
    sync(request_.folder, request_.ledger)
    trial, ledger = request_.trials[0], request_.ledger
    ledger.forget(trial.fingerprint)
    write(request_, trial, 30.0)
    sync(request_.folder, ledger)
    logged = runs_of(request_)[1]["base / seed 0 at smoke"].data.metrics
    assert logged["vqa/0-shot"] == 30


def test_an_arm_may_be_renamed_while_its_trial_is_missing(request_: Request) -> None:
    """MLflow never changes a parameter, and the arm is one."""
    plan = make_plan(request_.trials, request_.ledger)
    task = plan.tasks[request_.trials[1].fingerprint]
    SweepRuns(read_manifest(request_.folder), request_.ledger).start(task)
    renamed = replace(task, trials=(task.trials[0].model_copy(update={"arm": "alt-text"}),))
    for _ in range(2):
        SweepRuns(read_manifest(request_.folder), request_.ledger).start(renamed)
    run = runs_of(request_)[1]["alt-text / seed 0 at smoke"]
    assert run.data.params["arm"] == "alt-text" and run.info.status == "RUNNING"
    assert "captions / seed 0 at smoke" not in runs_of(request_)[1]
    write(request_, request_.trials[1])
    SweepRuns(read_manifest(request_.folder), request_.ledger).log_trial(task.key, [("captions", 0)])
    assert runs_of(request_)[1]["captions / seed 0 at smoke"].data.params["arm"] == "captions"
