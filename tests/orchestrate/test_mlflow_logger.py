import json
import os
import shutil
import signal
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from mm1_lab import results
from mm1_lab.config import DataMix, RateSearch, Trial
from mm1_lab.files import HELD
from mm1_lab.orchestrate.execution.executor import Inline
from mm1_lab.orchestrate.planning.loading import load_request
from mm1_lab.orchestrate.planning.plan import Task, make_plan
from mm1_lab.orchestrate.planning.request import Request
from mm1_lab.orchestrate.sweeping import complete
from mm1_lab.orchestrate.tracking import dashboard, mlflow_logger
from mm1_lab.orchestrate.tracking.contents import metrics, parameters, run_name
from mm1_lab.orchestrate.tracking.mlflow_logger import DATABASE, NOTE, SUPERSEDED, MlflowLogger, connect
from mm1_lab.results import Ledger, Manifest, ScoreRow
from mm1_lab.results.manifest import read_trials, row_check, variant_name
from tests import pretrained as saved
from tests.conftest import Place, run_python


@pytest.fixture
def request_(database, tmp_path, monkeypatch) -> Request:
    """Two trials, of which the first is done, and a database."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    only = ("base", "captions")
    request = load_request("data_mix", "smoke", "1", only, (), None, Path("results/local"), Path("results/local/store"))
    request.write_manifest()
    write(request, request.trials[0])
    shutil.copy(database, DATABASE)
    return request


def write(request: Request, trial: Trial, score: float = 40.0, benchmark: str = "vqa") -> None:
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
        "environment": {"date": "2026-01-01T00:00:00+00:00", "processor": "p", "commit": "c0ffee"},
    }
    scores = [ScoreRow(benchmark, "vqa", "vqa", 0, 0, "q", "colour", score, "red", True)]
    request.ledger.write_scores(
        trial.fingerprint, scores, {"text": 1.5}, record, {"training.csv": Path("training.csv")}
    )


def log(request: Request) -> None:
    MlflowLogger(request.folder, request.ledger).log()


def runs_of(request: Request) -> tuple[Any, dict[str, Any]]:
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{DATABASE.absolute()}")
    runs = client.search_runs([client.get_experiment_by_name("data_mix").experiment_id])
    assert len({run.info.run_name for run in runs}) == len(runs), "a run is there twice"
    return client, {run.info.run_name: run for run in runs}


def test_a_run_s_parameters_tell_arms_apart_by_all_that_is_set(ask, tmp_path):
    """Frozen parts and instruction tuning too; nothing is said of captions and pre-training that there were not."""
    tower = saved.save_encoder("clip", tmp_path / "clip")
    sft = {"frozen": ["encoder", "connector"], "mixture": {"charts": 2}}
    arms = {"base": {}, "frozen": {"frozen": ["decoder"]}, "tuned": {"sft": sft}}
    arms |= {"clip": {"encoder": {"size": str(tower)}, "resolution": "native", "sft": {"resolution": 378}}}
    path = tmp_path / "own.yaml"
    path.write_text(json.dumps({"title": "t", "recipe": "base", "arms": arms}), encoding="utf-8")
    settings = ("evaluate.shots=[0]", "resolutions.378=28", "train.warmup_fraction=0.25")
    request = ask(sweep=path, settings=settings)
    manifest = Manifest(variant="own", sweep=request.sweep, scale="smoke")
    found = {}
    for trial in request.trials:
        record = {"recipe": trial.recipe.model_dump(mode="json"), "config": trial.evaluation.model_dump(mode="json")}
        record |= {"fingerprints": {"multimodal": "m", "evaluation": "v"}, "summaries": {}}
        found[trial.arm] = parameters(manifest, [(trial.arm, 0)], record)
    base, tuned, clip = found["base"], found["tuned"], found["clip"]
    assert (base["paper.data_mix.captions"], base["paper.data_mix.text"]) == (5.0, 1.0)
    assert (base["paper.encoder.size"], base["paper.encoder.loss"]) == ("ViT-L", "contrastive")
    assert base["paper.steps"] == 200000 and "paper.frozen" not in base
    assert found["frozen"]["paper.frozen"] == ["decoder"]
    assert tuned["paper.sft.frozen"] == ["encoder", "connector"] and tuned["paper.sft.mixture.charts"] == 2.0
    assert tuned["paper.encoder.data"] == base["paper.encoder.data"] and tuned["paper.sft.views"] == 1
    assert clip["paper.encoder.size"] == str(tower) and "paper.encoder.loss" not in clip
    assert clip["paper.sft.resolution"] == 378
    # what ran: the sizes and steps of `smoke`, and of a pre-trained tower its name
    scale = request.scale
    ran = {name: base[name] for name in ("image_size", "image_tokens", "steps", "learning_rate")}
    batches = ("batch_size", "sequence_length", "warmup_steps")
    assert [base[name] for name in batches] == [4, 256, 2], "a quarter of six steps"
    assert [tuned[name] for name in batches] == [16, 256, 0]
    rate = scale.train.learning_rate
    assert ran == {"image_size": "36 px", "image_tokens": 9, "steps": scale.train.steps, "learning_rate": rate}
    assert base["encoder"].endswith(f"trained here for {scale.encoder.steps} steps (contrastive)")
    assert clip["encoder"] == f"{tower} (pre-trained clip_vision_model, 3 layers of width 16)"
    assert (tuned["trained_on"], clip["image_size"], clip["steps"]) == ("charts 100 %", "28 px", scale.sft.steps)
    before = f"multimodal pre-training of {scale.train.steps} steps at {rate:g} on captions"
    assert tuned["tuned_from"].startswith(before)


def test_syncing_again_changes_nothing(request_, monkeypatch, told):
    log(request_)
    client, runs = runs_of(request_)
    assert {name: run.info.status for name, run in runs.items()} == {"base / seed 0 at smoke": "FINISHED"}
    base = runs["base / seed 0 at smoke"]
    logged = {"vqa/0-shot": 40, "average": 40, "train/loss": 2, "train/tokens per second": 45}
    assert logged.items() <= base.data.metrics.items() and len(base.data.metrics) == 8
    params, tags = base.data.params, base.data.tags
    assert (params["arm"], params["seed"], params["paper.data_mix.captions"]) == ("base", "0", "5.0")
    fingerprint = request_.trials[0].fingerprint
    assert tags["mm1.fingerprint"] == fingerprint and "--scale smoke --only base`" in tags[NOTE]
    assert tags["mlflow.source.name"] == "mm1-lab run data_mix --scale smoke --only base"
    assert tags["mlflow.user"] == Path().owner() and tags["mlflow.source.git.commit"] == "c0ffee"
    assert [point.value for point in client.get_metric_history(base.info.run_id, "train/loss")] == [3, 2]
    with monkeypatch.context() as patch:
        for writes in ("create_run", "log_batch", "set_tag", "set_terminated", "update_run", "set_experiment_tag"):
            patch.delattr(f"mlflow.MlflowClient.{writes}")
        assert told("sync-mlflow").startswith("data_mix at smoke: nothing new for sqlite:///")
    write(request_, request_.trials[1])
    log(request_)
    client, runs = runs_of(request_)
    assert {run.info.status for run in runs.values()} == {"FINISHED"} and len(runs) == 2
    assert runs["base / seed 0 at smoke"].info.run_id == base.info.run_id


def test_commands_in_several_folders_log_to_a_server_one_after_the_other(request_, monkeypatch, tmp_path):
    """Those of other results may make the experiment between this one's two questions."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{DATABASE.absolute()}")
    import mlflow

    mlflow.MlflowClient(os.environ["MLFLOW_TRACKING_URI"]).create_experiment("data_mix")
    find, asked = mlflow.MlflowClient.get_experiment_by_name, list[str]()

    def found_late(client: Any, name: str) -> Any:
        asked.append(name)
        assert (request_.ledger.results / ".mlflow-sync.lease").exists()
        return find(client, name) if len(asked) > 1 else None

    (tmp_path / "elsewhere").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr("mlflow.MlflowClient.get_experiment_by_name", found_late)
        patch.chdir(tmp_path / "elsewhere")
        log(request_)
        assert not list(Path().iterdir())
    assert len(runs_of(request_)[1]) == 1


def test_names_of_numbers_and_runs(request_):
    scores = [("captions", "captioning", 100 / 3), ("captions cider", "further", 290.0), ("pope f1", "further", 50.0)]
    scores += [("pope", "chat", 200 / 3)]
    rows = [ScoreRow(name, family, "", 0, 0, "q", "k", score, "a", True) for name, family, score in scores]
    fingerprint = request_.trials[1].fingerprint
    record = {"fingerprints": {"multimodal": "m", "evaluation": "v"}}
    record |= {"summaries": {"encoder": {"retrieval": {"image_to_text": 0.00390625}}}}
    request_.ledger.write_scores(fingerprint, rows, {"text": 1.23456789}, record, {})
    assert {name: value for name, value, _ in metrics(request_.ledger, fingerprint, record)} == {
        "captions/0-shot": 33.3333,
        "captions cider/0-shot": 290,
        "pope/0-shot": 66.6667,
        "pope f1/0-shot": 50,
        "0-shot": 33.3333,
        "captioning 0-shot": 33.3333,
        "average": 33.3333,
        "chat 0-shot": 66.6667,
        "held-out/text": 1.23457,
        "encoder/retrieval": 0.00390625,
    }
    # a run's name leaves out the sweep's, however its folder is called
    sweep = request_.sweep.model_copy(update={"name": "我的"})
    manifest = Manifest(variant=variant_name(sweep.name, ["train.steps=2"], "world"), sweep=sweep, scale="smoke")
    assert manifest.variant.startswith("__,")
    assert run_name(manifest, [("base", 0)]).startswith("base / seed 0 at smoke,train.steps=2")


def test_a_trial_that_failed_is_a_failed_run_until_it_is_finished(request_, told):
    base, captions = (trial.fingerprint for trial in request_.trials)
    request_.ledger.forget(base)
    assert told("sync-mlflow") == "data_mix at smoke: nothing to log, as no trial has ended\n"
    request_.ledger.record_failure(base, "base / seed 0", 2, "diverged", "the loss is nan")
    request_.ledger.record_failure("e", "encoder", 2, "failed", "no {data}", blocks=[captions])
    os.utime(request_.ledger.failure_file(base), (1000, 1000))
    assert "logged to" in told("sync-mlflow") and "nothing new for" in told("sync-mlflow")
    client, runs = runs_of(request_)
    assert {run.info.status for run in runs.values()} == {"FAILED"}
    failed = runs["base / seed 0 at smoke"]
    assert failed.data.tags["mm1.failure"] == "diverged: the loss is nan"
    assert failed.data.tags[NOTE].startswith("This trial has no scores: the loss is nan\n\nReproduce: `mm1-lab run")
    assert failed.data.params["arm"] == "base" and failed.info.end_time == 1_000_000
    assert runs["captions / seed 0 at smoke"].data.tags["mm1.failure"] == "failed: encoder: no {data}"
    client.set_tag(failed.info.run_id, "reviewer", "me")
    client.set_tag(failed.info.run_id, NOTE, f"{failed.data.tags[NOTE]}\n\n`mine`")
    write(request_, request_.trials[0])
    log(request_)
    finished = runs_of(request_)[1]["base / seed 0 at smoke"]
    assert finished.info.status == "FINISHED" and "mm1.failure" not in finished.data.tags
    assert finished.data.tags["reviewer"] == "me" and finished.data.tags[NOTE].startswith("The score of every")
    assert finished.data.tags[NOTE].endswith("--only base`\n\n`mine`")


def begin(request: Request, *losses: float) -> MlflowLogger:
    """A command begins or resumes the training of the second trial, whose curve has these losses so far."""
    trial = request.trials[1]
    model = trial.evaluation.model
    folder = request.ledger.begin_stage(model.fingerprint)
    assert folder
    rows = "".join(f"{step},loss,{loss}\n" for step, loss in enumerate(losses, 1))
    (folder / "training.csv").write_text(f"step,name,value\n{rows}", encoding="utf-8")
    logger = MlflowLogger(request.folder, request.ledger)
    logger.started(Task(trial.fingerprint, (model, trial.evaluation), (), (trial,)))
    logger.log()
    return logger


def captions_run(request: Request) -> tuple[Any, list[float]]:
    """The second trial's run, and its curve."""
    client, runs = runs_of(request)
    run = runs["captions / seed 0 at smoke"]
    return run, [point.value for point in client.get_metric_history(run.info.run_id, "train/loss")]


def test_a_curve_grows_while_its_trial_trains_and_its_run_is_ended_by_any_command(request_, told):
    """A training that resumes from an earlier checkpoint repeats steps."""
    begin(request_)
    run, curve = captions_run(request_)
    assert (run.info.status, curve, run.data.metrics) == ("RUNNING", [], {}), "no points yet"
    params = run.data.params
    assert (params["arm"], params["steps"], params["paper.data_mix.captions"]) == ("captions", "6", "1.0")
    connect().set_tag(run.info.run_id, NOTE, f"{run.data.tags[NOTE]} mine")
    for losses in ([3], [3, 2], [3], []):
        begin(request_, *losses)
    assert captions_run(request_)[1] == [3, 2]
    write(request_, request_.trials[1])
    assert "logged to" in told("sync-mlflow") and "nothing new for" in told("sync-mlflow")
    finished, curve = captions_run(request_)
    assert (finished.info.run_id, finished.info.status, curve) == (run.info.run_id, "FINISHED", [3, 2])
    assert finished.data.metrics["average"] == 40 and params.items() <= finished.data.params.items()
    note = finished.data.tags[NOTE]
    assert note.startswith("The score of every") and note.endswith("--only captions` mine")


def test_steps_that_were_trained_again_and_rounded_otherwise_are_those_of_the_results(request_):
    begin(request_, 3, 2.001)
    write(request_, request_.trials[1])
    log(request_)
    assert captions_run(request_)[1] == [3, 2] and len(runs_of(request_)[1]) == 2


def test_a_run_of_a_trial_that_fails_keeps_its_curve_and_is_running_when_it_is_tried_again(request_):
    logger = begin(request_, 3)
    run, _ = captions_run(request_)
    begin(request_, 3, 9)
    fingerprint = request_.trials[1].fingerprint
    request_.ledger.record_failure(fingerprint, "captions / seed 0", 1, "diverged", "the loss is nan")
    logger.log()
    failed, curve = captions_run(request_)
    assert (failed.info.run_id, failed.info.status, curve) == (run.info.run_id, "FAILED", [3, 9])
    assert failed.data.tags["mm1.failure"] == "diverged: the loss is nan"
    request_.ledger.clear_failure(fingerprint)
    begin(request_, 3)
    again, curve = captions_run(request_)
    assert (again.info.status, curve) == ("RUNNING", [3]) and "mm1.failure" not in again.data.tags
    now = request_.with_arms({"captions": request_.trials[1].recipe.model_copy(update={"image_tokens": 64})})
    now.write_manifest()
    log(now)
    assert runs_of(request_)[1]["captions / seed 0 at smoke (superseded)"].info.status == "KILLED"


def test_a_training_that_several_trials_share_is_the_curve_of_one(ask, tmp_path):
    """An alignment is that of the first; pre-training before tuning is nobody's."""
    align = {"align": {"steps": 10}}
    arms = {"a": align, "b": align | {"learning_rate": 1e-3}}
    arms |= {f"tuned {rate}": {"sft": {"learning_rate": rate}} for rate in (1e-3, 2e-3)}
    path = tmp_path / "own.yaml"
    path.write_text(json.dumps({"title": "t", "recipe": "base", "arms": arms}), encoding="utf-8")
    request = ask(sweep=path)
    request.write_manifest()
    logger = MlflowLogger(request.folder, request.ledger)
    for kinds, expected in (
        (("encoder", "decoder", "multimodal"), []),
        (("alignment",), ["a"]),
        (("trial",), ["a", "b", "tuned 0.001", "tuned 0.002"]),
    ):
        for task in make_plan(request.trials, request.ledger).tasks.values():
            if task.kind in kinds:
                logger.started(task)
        assert sorted(trial.arm for trial, _ in logger.begun.values()) == expected


KILLED_AT_STEP_4 = """
import os, signal
from mm1_lab.cli import main
from mm1_lab.orchestrate.tracking import trackers
from mm1_lab.orchestrate.tracking.mlflow_logger import MlflowLogger
from mm1_lab.train import recorder

def progress(logger, task, kind, progress):
    logger.finished(task)
    if kind == "multimodal" and progress.step == 4:
        logger.catch_up()
        os.kill(os.getpid(), signal.SIGKILL)

trackers.LOG_SECONDS = recorder.REPORT_SECONDS = 0.0
MlflowLogger.progress = progress
main(["run", "data_mix", "--scale", "smoke", "--only", "captions", "--inline"])
"""


def test_a_sweep_that_is_killed_goes_on_with_its_runs(place, monkeypatch):
    monkeypatch.chdir(place.folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    killed = run_python(KILLED_AT_STEP_4, folder=place.folder)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    request = load_request("data_mix", "smoke", "1", ("captions",), (), None, place.results, place.results / "store")
    run, curve = captions_run(request)
    assert run.info.status == "RUNNING" and len(curve) == 4
    complete(request, Inline(), lambda _: [])
    finished, curve = captions_run(request)
    assert (finished.info.run_id, finished.info.status) == (run.info.run_id, "FINISHED")
    losses = results.curves(request.folder).query("name == 'loss'")
    assert curve == losses["value"].tolist() and len(curve) == 6


def test_a_server_knows_a_results_folder_wherever_it_is(request_, monkeypatch, tmp_path):
    """Another machine's may have the same path."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/server.db")
    shutil.move(DATABASE, tmp_path / "server.db")
    results = request_.ledger.results
    with monkeypatch.context() as patch:
        patch.setattr(MlflowLogger, "_id", lambda logger: str(logger.ledger.results))  # as earlier versions
        log(request_)
    log(request_)
    shutil.copytree(results, tmp_path / "there")
    (results / mlflow_logger.ID_FILE).unlink()
    log(request_)
    moved = load_request("data_mix", "smoke", "1", ("base",), (), None, tmp_path / "there", tmp_path / "there/store")
    log(moved)
    client = connect()
    runs = client.search_runs([client.get_experiment_by_name("data_mix").experiment_id])
    names = [(folder / mlflow_logger.ID_FILE).read_text().strip() for folder in (tmp_path / "there", results)]
    assert sorted(run.data.tags["mm1.results"] for run in runs) == sorted(names)


def test_a_search_s_trial_is_not_reproduced_by_naming_its_arm(request_):
    """But its folders. And a source may have any name: MLflow refuses some characters in names of parameters."""
    request_ = replace(request_, ledger=Ledger(Path("kept").absolute(), Path("weights")))
    trial = request_.trials[0]
    mix = DataMix.model_validate({"captions": 5, "web (en)": 2})
    write(request_, trial.model_copy(update={"recipe": trial.recipe.model_copy(update={"data_mix": mix})}))
    search = request_.sweep.model_copy(update={"search": RateSearch()})
    replace(request_, sweep=search).at_seeds([0, 1]).write_manifest()
    log(request_)
    (run,) = runs_of(request_)[1].values()
    command = "mm1-lab run data_mix --scale smoke --seeds 0,1 --results kept --store weights`"
    assert command in run.data.tags[NOTE], "not --only, and at one seed it would make other arms"
    assert run.data.params["paper.data_mix.web _en_"] == "2.0"


def test_a_run_whose_trial_left_the_sweep_is_marked_until_it_comes_back(request_, told):
    """And the description is the sweep's, unless a user has written another one."""
    log(request_)
    base = request_.trials[0]
    edited = base.recipe.model_copy(update={"image_tokens": 64})
    now = request_.with_arms({"base": edited})
    now = replace(now, sweep=now.sweep.model_copy(update={"title": "Edited"}))
    now.write_manifest()
    write(now, now.trials[0], 50.0)
    assert "logged to" in told("sync-mlflow") and "nothing new for" in told("sync-mlflow")
    client, runs = runs_of(request_)
    former = runs["base / seed 0 at smoke (superseded)"]
    assert former.data.tags["mm1.fingerprint"] == base.fingerprint
    assert "as they were:\n\nReproduce: `" in former.data.tags[NOTE]
    experiment = former.info.experiment_id
    (current,) = client.search_runs([experiment], "params.arm = 'base' and tags.mm1.superseded IS NULL")
    assert current.data.metrics["average"] == 50 and current.info.run_name == "base / seed 0 at smoke"
    assert client.get_experiment(experiment).tags[NOTE].startswith("Edited (MM1, ")

    client.set_experiment_tag(experiment, NOTE, "mine")
    assert "nothing new for" in told("sync-mlflow") and client.get_experiment(experiment).tags[NOTE] == "mine"
    request_.write_manifest()
    assert "logged to" in told("sync-mlflow") and "nothing new for" in told("sync-mlflow")
    runs = runs_of(request_)[1]
    back = runs["base / seed 0 at smoke"]
    assert back.info.run_id == former.info.run_id and "as they were" not in back.data.tags[NOTE]
    assert set(runs) == {"base / seed 0 at smoke", "base / seed 0 at smoke (superseded)"}
    assert client.get_experiment(experiment).tags[NOTE] == "mine"


def test_results_that_were_moved_keep_their_runs(request_, tmp_path, monkeypatch):
    log(request_)
    assert "MLFLOW_TRACKING_URI" not in os.environ
    shutil.move(tmp_path / "results", tmp_path / "elsewhere" / "results")
    monkeypatch.chdir(tmp_path / "elsewhere")
    moved = load_request("data_mix", "smoke", "1", ("base",), (), None, "results/local", "results/local/store")
    write(moved, moved.trials[0], 50.0)
    log(moved)
    _, runs = runs_of(moved)
    assert [run.data.metrics["average"] for run in runs.values()] == [50]


@pytest.mark.parametrize("call", ["create_run", "log_batch", "set_terminated"])
def test_logging_that_was_cut_off_or_sent_twice_is_done_again_without_doubles(request_, monkeypatch, call):
    """MLflow's client sends a request again if the answer of a server is late."""
    from mlflow import MlflowClient

    create = MlflowClient.create_run

    def disturbed(*given: Any, **more: Any) -> Any:
        if call != "create_run":
            raise KeyboardInterrupt
        create(*given)
        return create(*given)

    write(request_, request_.trials[1])
    with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
        patch.setattr(MlflowClient, call, disturbed)
        complete(request_, Inline(), lambda _: [])
    if call == "create_run":  # nothing was cut off
        log(request_)
    else:
        complete(request_, Inline(), lambda _: [])
    client, found = runs_of(request_)
    base = found["base / seed 0 at smoke"].info
    assert base.status == "FINISHED" and len(client.get_metric_history(base.run_id, "train/loss")) == 2


def test_a_sweep_goes_on_without_mlflow_and_is_logged_later(request_, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    logger = MlflowLogger(request_.folder, request_.ledger)
    logger.next = 0.0
    for _ in range(3):
        logger.finished(Task("a", (), (), ()))
    logger.thread.join()
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "http://127.0.0.1:9" in error and "mm1-lab sync-mlflow" in error
    elsewhere = MlflowLogger(request_.folder, Ledger(Path("kept"), Path("weights")))
    assert elsewhere.later == "`mm1-lab sync-mlflow --results kept --store weights` catches up later"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    logger.catch_up()
    assert not capsys.readouterr().err and "base / seed 0 at smoke" in runs_of(request_)[1]


@pytest.mark.parametrize(
    ("uri", "command"),
    [
        ("http://me:hunter2@127.0.0.1:9", ["dashboard"]),
        ("postgresql://me:hunter2@127.0.0.1:9/runs", ["dashboard", "--port", "0"]),
        ("postgresql://127.0.0.1:9/runs?user=me&password=hunter2", ["sync-mlflow"]),
    ],
)
@pytest.mark.usefixtures("request_")
def test_a_server_that_is_away_gets_one_line_without_the_password(monkeypatch, refused, uri, command):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    error = refused(*command)
    assert "MLflow at " in error and "hunter2" not in error and "Traceback" not in error


@pytest.mark.usefixtures("request_")
def test_a_server_needs_no_page_of_ours(monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:hunter2@there")
    dashboard.show_dashboard(5000, iter(["data_mix: logged"]))
    assert capsys.readouterr().out == "data_mix: logged\nMLflow is at https://there\n"


def test_a_database_that_is_damaged_or_may_only_be_read_is_told_with_the_way_out(
    request_, monkeypatch, refused, tmp_path
):
    """Of a run of an experiment that is there, SQLAlchemy gives advice before the cause."""
    (tmp_path / "damaged.db").write_text("no database")
    with monkeypatch.context() as patch:
        patch.setattr(mlflow_logger, "tracking_uri", lambda: f"sqlite:///{tmp_path}/damaged.db")
        told = "if that stays, it is damaged: delete it, as all of it is logged again from the results"
        assert f"{told}\n" in refused("sync-mlflow")
    log(request_)
    write(request_, request_.trials[1])
    uri = f"sqlite:///file:{DATABASE.absolute()}?mode=ro&uri=true"
    monkeypatch.setattr(mlflow_logger, "tracking_uri", lambda: uri)
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    there = f"ask its owner ({DATABASE.owner()}), or in a folder of your own: mm1-lab sync-mlflow --results "
    assert refused("sync-mlflow") == (
        f"mm1-lab: MLflow at {uri} cannot be written ((sqlite3.OperationalError) attempt to write a readonly database);"
        f" {there}{tmp_path}/results/local\n"
    )


def test_several_commands_make_one_database(request_, monkeypatch):
    """Although a killed one left half of one. It is the group's if the folder is, whose name may have signs of URLs."""
    Path("my%20lab?").mkdir()
    Path("results").rename("my%20lab?/results")
    monkeypatch.chdir("my%20lab?")
    DATABASE.unlink()
    DATABASE.parent.chmod(0o775)
    DATABASE.with_name(".mlflow.db.1").touch()
    racing = [Place(Path.cwd()).start("sync-mlflow") for _ in range(2)]
    for process in racing:
        output, _ = process.communicate()
        assert process.returncode == 0
        *waits, line = output.splitlines()  # on a busy machine the second one waits for the first
        assert line.startswith("data_mix at smoke: ") and all(HELD in wait for wait in waits), output
    assert [path.name for path in Path("..").glob("my*")] == [Path.cwd().name]
    monkeypatch.chdir(Path.cwd().rename("../lab"))
    assert set(runs_of(request_)[1]) == {"base / seed 0 at smoke"}
    assert not list(DATABASE.parent.glob(".mlflow.db*")) and DATABASE.stat().st_mode & 0o070 == 0o060


def test_former_contents_scores_that_were_computed_anew_and_arms_that_were_renamed_are_logged(request_, monkeypatch):
    """MLflow never changes a parameter, which the arm is, and refuses some characters in names of benchmarks."""
    with monkeypatch.context() as patch:
        patch.setattr(MlflowLogger, "version", ())
        log(request_)
    former = runs_of(request_)[1]["base / seed 0 at smoke"].info.run_id
    log(request_)
    assert runs_of(request_)[1]["base / seed 0 at smoke"].info.run_id != former
    path = request_.folder / "trials.csv"
    rows = [replace(row, arm="start" if row.arm == "base" else row.arm) for row in read_trials(request_.folder)]
    lines = [f"{row.arm},{row.seed},{row.fingerprint},{row_check(row)}\n" for row in rows]
    path.write_text("arm,seed,fingerprint,check\n" + "".join(lines), encoding="utf-8")
    for score, benchmark in ((30.0, "vqa"), (50.0, "mme (en)")):
        request_.ledger.forget(request_.trials[0].fingerprint)
        write(request_, request_.trials[0], score, benchmark)
        log(request_)
    _, runs = runs_of(request_)
    assert set(runs) == {"start / seed 0 at smoke"}
    logged = runs["start / seed 0 at smoke"].data
    assert logged.params["arm"] == "start"
    assert logged.metrics["mme _en_/0-shot"] == 50 and "vqa/0-shot" not in logged.metrics


def test_a_sweep_s_view_parts_what_has_no_common_mean():
    """Arms of several scales, and of trials that the sweep no longer has; of many arms it leaves the folding out."""

    def run(arm: str, scale: str, **tags: str) -> Any:
        scores = {"average": 1.0, "8-shot": 1.0, "vqa/8-shot": 1.0, "train/loss": 1.0}
        return SimpleNamespace(data=SimpleNamespace(params={"arm": arm, "scale": scale}, tags=tags, metrics=scores))

    def view(*runs: Any) -> Any:
        client = Mock(search_runs=Mock(return_value=list(runs)))
        dashboard._save_view(client, "1")
        return json.loads(client.set_experiment_tag.call_args.args[2])

    plain = view(run("a", "mini"), run("b", "mini"))
    assert [key["groupByData"] for key in plain["groupBy"]["groupByKeys"]] == ["arm"]
    assert plain["selectedColumns"] == ["metrics.`8-shot`", "metrics.`average`"]
    assert plain["orderByKey"] == "metrics.`average`"
    assert plain["groupsExpanded"] == {"param.arm.a": False, "param.arm.b": False}
    begun = run("a", "mini")
    begun.data.metrics = {"train/loss": 1.0}
    assert view(begun)["selectedColumns"] == ["metrics.`average`", "metrics.`train/loss`"]
    parted = view(run("a", "mini"), run("a", "smoke"), run("b", "mini", **{SUPERSEDED: "true"}))
    assert [key["groupByData"] for key in parted["groupBy"]["groupByKeys"]] == ["arm", "scale", SUPERSEDED]
    assert view(*(run(f"arm {number}", "mini") for number in range(300)))["groupsExpanded"] == {}
