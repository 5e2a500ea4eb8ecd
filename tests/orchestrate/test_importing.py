"""lmms-eval's log becomes scores of a trial, which are analysed as any others are."""

import json
import os
import shutil
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from analysis.pages.compare import compare_table
from analysis.pages.notes import benchmark_notes
from analysis.study import read_study
from analysis.table import to_plain
from mm1_lab.config import Measure, RequestError
from mm1_lab.files import damage
from mm1_lab.orchestrate.importing import import_scores, read_log
from mm1_lab.orchestrate.planning.request import Request, load_request
from mm1_lab.results import Ledger
from mm1_lab.results.reading import read_scores, read_variant
from mm1_lab.rows import HeldOutRow, ScoreRow

TRUE = ("yes", "no", "yes", "no", "yes", "no", "yes", "no", "no", "yes", "no")
BASE = ("yes", "no", "no", "yes", "yes", "no", "yes", "no", "no", "yes", "no")


@pytest.fixture
def request_(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Request:
    """Two trials with a score each."""
    monkeypatch.chdir(tmp_path)
    only = ("base", "captions")
    request = load_request("data_mix", "smoke", "1", only, (), None, Path("results/local"), Path("results/local/store"))
    request.write_manifest()
    Path("training.csv").write_text("step,name,value\n1,loss,3\n", encoding="utf-8")
    for trial in request.trials:
        rows = [ScoreRow("vqa", "vqa", "vqa", 0, 0, f"q{n}", "colour", 40 / 3, "red", True, None) for n in range(2)]
        rows += [ScoreRow("captions", "captioning", "cider", 0, 0, "c", "caption", 70.0, 'a "red", ring', True, 12.5)]
        request.ledger.write_scores(trial.fingerprint, rows, [HeldOutRow("text", 1.5)], [], {}, Path("training.csv"))
    return request


def sample(number: int, said: Any, target: str, **metrics: Any) -> dict[str, Any]:
    """A line as the program writes it, its media and arguments taken out."""
    hashes = {f"{name}_hash": f"{number:x}" for name in ("doc", "prompt", "target")}
    return {"doc_id": number, "target": target, "filtered_resps": said, **hashes, **metrics, "input": "Is there a cat?"}


def log(folder: Path, name: str, samples: list[dict[str, Any]], results: dict[str, Any], shots: int = 0) -> Path:
    """The two files of a run, in the folder that the program makes for a model."""
    place = folder / "my__model"
    place.mkdir(parents=True, exist_ok=True)
    told = {f"{metric},none": value for metric, value in results.items()}
    told |= {f"{metric}_stderr,none": "N/A" for metric in results} | {"alias": name, " ": " "}
    content = {"results": {name: told}, "n-shot": {name: shots}, "configs": {}, "model_name": "my/model"}
    (place / f"20260102_030405_{name}_results.json").write_text(json.dumps(content), encoding="utf-8")
    lines = "".join(json.dumps(one) + "\n" for one in samples)
    path = place / f"20260102_030405_{name}_samples_{name}.jsonl"
    path.write_text(lines, encoding="utf-8")
    return path


def pope(folder: Path, said: tuple[str, ...] = BASE) -> Path:
    """As its task logs it: the same object under every metric; its yes ratio is that of the truth."""
    objects = [
        {"question_id": str(n), "score": float(one == true), "prediction": one, "ground_truth": true}
        for n, (one, true) in enumerate(zip(said, TRUE, strict=True))
    ]
    names = ("pope_accuracy", "pope_precision", "pope_recall", "pope_f1_score", "pope_yes_ratio")
    samples = [sample(n, [said[n]], TRUE[n], **dict.fromkeys(names, objects[n])) for n in range(len(said))]
    hits = sum(one == true == "yes" for one, true in zip(said, TRUE, strict=True))
    precision, recall = hits / said.count("yes"), hits / TRUE.count("yes")
    f1 = 2 * precision * recall / (precision + recall)
    accuracy, ratio = fmean(one["score"] for one in objects), TRUE.count("yes") / len(TRUE) + 0.01
    return log(folder, "pope", samples[::-1], dict(zip(names, (accuracy, precision, recall, f1, ratio), strict=True)))


def test_a_log_becomes_rows_beside_the_trials_own(request_: Request, tmp_path: Path) -> None:
    trial = request_.trials[0]
    folder = request_.ledger.trial_folder(trial.fingerprint)
    before = read_study(request_.folder).scores
    pope(tmp_path / "logs")
    (told,) = import_scores(request_, trial, tmp_path / "logs")
    assert told.startswith("pope: 11 questions, asked and scored by lmms-eval (pope_accuracy)")
    assert told.endswith("; left out, as it has no score per question: pope_yes_ratio")
    assert damage(folder) is None and request_.ledger.has_intact_scores(trial.fingerprint)
    study = read_study(request_.folder)
    scores = study.scores[study.scores["arm"] == trial.arm]
    own = scores[scores["family"].isin(["vqa", "captioning"])]
    assert own.equals(before[before["arm"] == trial.arm]), "the trial's own are as they were"
    rows = scores[scores["benchmark"] == "pope"]
    assert list(rows["question"]) == [str(number) for number in range(11)] and set(rows["shots"]) == {0}
    assert rows["block"].nunique() == 8
    stored = read_scores(read_variant(request_.folder))
    assert list(stored["prediction"][(stored["arm"] == trial.arm) & (stored["benchmark"] == "pope")]) == list(BASE)
    assert list(rows["score"]) == [100.0 * (said == true) for said, true in zip(BASE, TRUE, strict=True)]
    means = scores.groupby("benchmark")["score"].mean()
    assert means["pope pope_f1_score"] == pytest.approx(80) and means["pope pope_recall"] == pytest.approx(80)
    assert study.mean(trial.arm, Measure(shots=0)).estimate == pytest.approx((40 / 3 + 70) / 2), "and no mean has it"
    assert "pope: 11 questions, asked and scored by lmms-eval (pope_accuracy)." in benchmark_notes(study)


def test_a_recorded_log() -> None:
    """Written by lmms-eval 0.7.3 for ten made-up questions, by likelihood and by yes or no; answers are cut short."""
    choices, pope = read_log(Path(__file__).parent / "lmms_eval_log")
    assert (choices.name, pope.name) == ("ten_choices", "ten_pope") and choices.shots == pope.shots == 0
    losses = [[float(loss) for loss, _ in sample["filtered_resps"]] for sample in choices.samples]
    right = [
        min(range(3), key=told.__getitem__) == int(sample["target"])
        for told, sample in zip(losses, choices.samples, strict=True)
    ]
    assert list(choices.metrics) == ["acc"] and list(choices.metrics["acc"]) == [100.0 * one for one in right]
    means = {name: fmean(points) for name, points in pope.metrics.items()}
    assert means["pope_accuracy"] == 50 and means["pope_precision"] == pytest.approx(100)
    assert means["pope_recall"] == pytest.approx(100 / 6) and means["pope_f1_score"] == pytest.approx(200 / 7)
    assert pope.left_out == ("pope_yes_ratio",), "which is of the right answers, not of the model's"


def test_importing_again_changes_nothing_and_a_new_log_takes_the_place(request_: Request, tmp_path: Path) -> None:
    trial = request_.trials[0]
    folder = request_.ledger.trial_folder(trial.fingerprint)
    path = pope(tmp_path / "logs")
    list(import_scores(request_, trial, tmp_path / "logs"))
    stored = {file.name: file.read_bytes() for file in folder.iterdir()}
    assert list(import_scores(request_, trial, tmp_path / "logs")) == ["pope: already imported"]
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == stored
    digest = json.loads((folder / "record.json").read_text())["imported"]
    path.unlink()
    pope(tmp_path / "logs", TRUE)
    list(import_scores(request_, trial, tmp_path / "logs"))
    scores = read_study(request_.folder).scores.query("arm == @trial.arm and benchmark.str.startswith('pope')")
    assert (scores.query("benchmark == 'pope'")["score"] == 100).all() and len(scores) == 44
    assert json.loads((folder / "record.json").read_text())["imported"] != digest


def test_two_arms_are_compared_question_by_question(request_: Request, tmp_path: Path) -> None:
    for trial, said in zip(request_.trials, (BASE, TRUE), strict=True):
        pope(tmp_path / trial.arm, said)
        list(import_scores(request_, trial, tmp_path / trial.arm))
    study = read_study(request_.folder)
    assert Measure("imported", 0) in study.measures
    first, second = (trial.arm for trial in request_.trials)
    difference = study.over_questions(
        {(second, Measure("pope", 0)): 1.0, (first, Measure("pope", 0)): -1.0}, study.seeds
    )
    alone = study.over_questions({(first, Measure("pope", 0)): 1.0}, study.seeds)
    assert difference is not None and difference.estimate == pytest.approx(200 / 11)
    assert difference.half_width == pytest.approx(alone.half_width), "the second never errs"
    assert "imported 0-shot" in to_plain(compare_table(study, first, second))


@pytest.mark.parametrize(
    ("metrics", "told", "points"),
    [
        ([0.5, 1.0], 0.75, [50, 100]),
        ([0.5, 1.0], 75.0, [50, 100]),
        ([30.0, 80.0], 55.0, [30, 80]),
        ([True, False], 0.5, [100, 0]),
        ([{"answer": "A", "parsed_pred": "B"}, {"answer": "C", "parsed_pred": "C"}], 0.5, [0, 100]),
        (
            [{"pred": "a", "answer": "A", "question_id": 1}, {"pred": "B", "answer": "C", "question_id": 2}],
            0.5,
            [100, 0],
        ),
    ],
)
def test_what_a_question_scored_is_found_by_its_mean(
    request_: Request, tmp_path: Path, metrics: list[Any], told: float, points: list[float]
) -> None:
    samples = [sample(number, "x", "y", acc=value) for number, value in enumerate(metrics)]
    log(tmp_path / "logs", "task", samples, {"acc": told}, shots=4)
    trial = request_.trials[0]
    list(import_scores(request_, trial, tmp_path / "logs"))
    rows = read_study(request_.folder).scores.query("benchmark == 'task'")
    assert list(rows["score"]) == points and set(rows["shots"]) == {4}


def test_logs_that_cannot_be_used_are_refused_in_one_line(request_: Request, tmp_path: Path) -> None:
    trial = request_.trials[0]
    before = {path.name: path.read_bytes() for path in request_.ledger.trial_folder(trial.fingerprint).iterdir()}

    def refused(folder: str) -> str:
        with pytest.raises(RequestError) as error:
            list(import_scores(request_, trial, tmp_path / folder))
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "holds no *_samples_*.jsonl" in refused("nothing")
    sums = [sample(n, "yes", "yes", mme_perception_score={"question_id": n, "score": 1.0}) for n in range(4)]
    log(tmp_path / "sum", "mme", sums, {"mme_perception_score": 1500.0})
    assert "no metric of mme is a mean over its questions (mme_perception_score)" in refused("sum")
    log(tmp_path / "none", "gpt", [sample(0, "x", "y")], {"gpt_eval_score": "N/A"})  # type: ignore[dict-item]
    assert "no metric of gpt is a mean over its questions (none is logged)" in refused("none")
    log(tmp_path / "own", "vqa", [sample(0, "x", "y", acc=1)], {"acc": 1})
    assert "vqa: the trial already has a benchmark of this name" in refused("own")
    log(tmp_path / "twice", "pope", [sample(0, "x", "y", acc=1)] * 2, {"acc": 1})
    assert "doc_id 0 occurs twice" in refused("twice")
    log(tmp_path / "empty", "pope", [], {"acc": 1})
    assert "holds no questions" in refused("empty")
    path = log(tmp_path / "broken", "pope", [sample(0, "x", "y", acc=1)], {"acc": 1})
    path.write_text("{\n")
    assert "line 1: is not JSON" in refused("broken")
    log(tmp_path / "without", "pope", [sample(0, "x", "y", acc=1)], {"acc": 1}).with_name(
        "20260102_030405_pope_results.json"
    ).unlink()
    assert "there is no such file" in refused("without")
    path = log(tmp_path / "two", "pope", [sample(0, "x", "y", acc=1)], {"acc": 1})
    path.with_name("2027_samples_pope.jsonl").write_bytes(path.read_bytes())
    assert "pope is logged twice" in refused("two")
    log(tmp_path / "huge", "pope", [sample(0, "x", "y", acc=10**400)], {"acc": 1})
    assert "not as lmms-eval writes them (int too large" in refused("huge")
    log(tmp_path / "shots", "pope", [sample(0, "x", "y", acc=1)], {"acc": 1}, shots="few")  # type: ignore[arg-type]
    assert "not as lmms-eval writes them (invalid literal" in refused("shots")
    assert {
        path.name: path.read_bytes() for path in request_.ledger.trial_folder(trial.fingerprint).iterdir()
    } == before


def test_a_metric_of_some_questions_alone_is_left_out_and_answers_may_have_line_separators(tmp_path: Path) -> None:
    """The log is written as JSON without escapes, in which a line may hold any separator but a newline."""
    samples = [sample(n, ["a\u2028b"], "a", exact_match=float(n % 2)) for n in range(4)]
    samples[1]["rare"] = 1.0
    path = log(tmp_path, "mine", samples, {"rare": 1.0, "exact_match": 0.5})
    path.write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in samples), encoding="utf-8")
    (task,) = read_log(tmp_path)
    assert list(task.metrics) == ["exact_match"] and task.left_out == ("rare",) and len(task.samples) == 4


def test_a_task_with_two_filters_has_the_scores_of_each(tmp_path: Path) -> None:
    """A question is logged once per filter, without the filter's name; GPUs' parts of the log follow one another."""
    strict, loose = [0.0, 1.0, 0.0, 0.0], [1.0, 1.0, 0.0, 1.0]
    lines = [sample(n, [str(score)], "a", acc=score) for part in ((0, 1), (2, 3)) for scores in (strict, loose)
             for n, score in enumerate(scores) if n in part]  # fmt: skip
    path = log(tmp_path, "mine", lines, {})
    results = path.with_name("20260102_030405_mine_results.json")
    told = {"acc,strict": 0.25, "acc_stderr,strict": 0.1, "acc,loose": 0.75, "acc_stderr,loose": 0.1}
    results.write_text(json.dumps({"results": {"mine": told}, "n-shot": {"mine": 0}}))
    one, other = read_log(tmp_path)
    assert (one.name, list(one.metrics["acc"])) == ("mine strict", [0, 100, 0, 0])
    assert (other.name, list(other.metrics["acc"])) == ("mine loose", [100, 100, 0, 100])
    lines.append(lines[0])
    path.write_text("".join(json.dumps(one) + "\n" for one in lines))
    with pytest.raises(RequestError, match="doc_id 0 occurs twice"):
        read_log(tmp_path)


@pytest.mark.parametrize("renamed", [0, 1, 2], ids=["before", "between", "after"])
def test_a_trial_outlives_an_import_that_is_killed_while_it_is_exchanged(
    request_: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renamed: int
) -> None:
    trial, rename, count = request_.trials[0], os.replace, 0
    folder = request_.ledger.trial_folder(trial.fingerprint)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    pope(tmp_path / "logs")

    def kill(old: Path, new: Path) -> None:
        nonlocal count
        if Path(old).is_dir():
            if count == renamed:
                raise KeyboardInterrupt
            count += 1
        rename(old, new)

    removed = shutil.rmtree

    def remove(path: Path, **options: Any) -> None:
        if renamed == count == 2:
            raise KeyboardInterrupt
        removed(path, **options)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", kill)
        patch.setattr(shutil, "rmtree", remove)
        list(import_scores(request_, trial, tmp_path / "logs"))
    ledger = Ledger(request_.ledger.results, request_.ledger.store)
    assert ledger.has_scores(trial.fingerprint) and ledger.has_intact_scores(trial.fingerprint)
    if renamed < 2:
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    list(import_scores(request_, trial, tmp_path / "logs"))
    assert "pope" in set(read_study(request_.folder).scores["benchmark"]) and damage(folder) is None
    ledger.forget(trial.fingerprint)
    assert not ledger.has_scores(trial.fingerprint)


def test_a_benchmark_whose_name_begins_alike_is_left_alone(request_: Request, tmp_path: Path) -> None:
    trial, ledger = request_.trials[0], request_.ledger
    rows = [ScoreRow("pope random", "vqa", "yes-no", 0, 0, f"q{n}", "k", 50.0, "yes", True) for n in range(3)]
    rows += [ScoreRow("pope random f1", "further", "f1", 0, 0, f"q{n}", "k", 40.0, "yes", True) for n in range(3)]
    ledger.write_scores(trial.fingerprint, rows, [HeldOutRow("text", 1.5)], [], {}, Path("training.csv"))
    for said in (BASE, TRUE):
        pope(tmp_path / "logs", said)
        list(import_scores(request_, trial, tmp_path / "logs"))
        scores = read_study(request_.folder).scores.query("arm == @trial.arm")
        assert list(scores["benchmark"][:6]) == ["pope random"] * 3 + ["pope random f1"] * 3
        assert len(scores) == 6 + 44
    rows = [ScoreRow("x acc", "vqa", "yes-no", 0, 0, "q", "k", 50.0, "yes", True)]
    log(tmp_path / "more", "x", [sample(0, "x", "y", em=1, acc=1)], {"em": 1, "acc": 1})
    ledger.write_scores(trial.fingerprint, rows, [HeldOutRow("text", 1.5)], [], {}, Path("training.csv"))
    with pytest.raises(RequestError, match=r"^x acc: the trial already has a benchmark of this name"):
        list(import_scores(request_, trial, tmp_path / "more"))
