"""Of a benchmark more or less only what is new is asked, and the scores are those of an evaluation from nothing."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from mm1_lab.evaluate import run as evaluation
from mm1_lab.evaluate.run import Answering
from mm1_lab.orchestrate.execution import worker
from mm1_lab.orchestrate.execution.executor import Inline
from mm1_lab.orchestrate.planning.loading import load_request
from mm1_lab.orchestrate.planning.plan import Plan, make_plan
from mm1_lab.orchestrate.planning.plan_text import plan_values
from mm1_lab.orchestrate.planning.request import Request
from mm1_lab.orchestrate.sweeping import forget_trials, work_through
from tests.conftest import calls_of
from tests.data.conftest import Files

SHOWN = {"questions": "shown.jsonl"}
SIGNS = {"questions": "signs.jsonl", "metric": "yes-no", "demonstrations": SHOWN, "shots": [0, 4], "images": "pictures"}
SUMS = {"questions": "sums.jsonl", "metric": "exact", "shots": [0]}


class Study:
    """A model on captioned images, evaluated on them and with benchmarks of one's own."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.files = folder, Files(folder)
        self.files.captions("captions.tar", range(40))
        self.files.jsonl("text.jsonl", [f"Line {n} says: {self.files.prose(30, n)}" for n in range(40)])
        self.files.pictures(20, "pictures")
        for name, numbers in (("signs", range(10)), ("shown", range(10, 20))):
            asked = [{"image": f"{n}.png", "question": f"Is it {n}?", "answer": ("yes", "no")[n % 2]} for n in numbers]
            self.files.rows(f"{name}.jsonl", asked)
        self.files.rows("sums.jsonl", [{"question": f"{n} + 1 =", "answer": str(n + 1)} for n in range(9)])
        self._asked = calls_of(monkeypatch, Answering, "predict")
        self.loaded = calls_of(monkeypatch, evaluation, "load_to_answer")

    def request(self, results: str = "results", settings: Sequence[str] = (), **benchmarks: object) -> Request:
        data = self.files.yaml(captions="captions.tar", text="text.jsonl", benchmarks=benchmarks)
        folders = {"results": self.folder / results, "store": self.folder / "store"}
        return load_request("data_mix", "smoke", only=["captions"], data=data, settings=settings, **folders)

    def plan(self, **asked: Any) -> Plan:
        request = self.request(**asked)
        return make_plan(request.trials, request.ledger)

    def run(self, results: str = "results", **benchmarks: object) -> tuple[list[str], dict[str, Any]]:
        """Which benchmarks are asked, and the record."""
        request = self.request(results, **benchmarks)
        self._asked.clear()
        self.loaded.clear()
        plan = make_plan(request.trials, request.ledger)
        assert not work_through(plan, request, Inline()).failed
        asked = [benchmark.name for _, benchmark, shots in self._asked if shots == 0]
        return asked, request.ledger.record(request.trials[0].fingerprint)

    def check(self, **benchmarks: object) -> None:
        """That the results are, to the byte, those of an evaluation from nothing."""
        shutil.rmtree(self.folder / "nothing", ignore_errors=True)
        asked, record = self.run("nothing", **benchmarks)
        assert asked == ["held-out-captions", *benchmarks] and "taken_over" not in record
        whole, parts = (self.request(name, **benchmarks) for name in ("nothing", "results"))
        (trial,) = parts.trials
        for name in ("scores.parquet", "held_out.csv", "training.csv"):
            files = [one.ledger.trial_folder(trial.fingerprint) / name for one in (whole, parts)]
            assert files[0].read_bytes() == files[1].read_bytes()
        told = parts.ledger.record(trial.fingerprint)
        for values in (record, told):
            del values["timings"], values["environment"]["date"]
        assert told.pop("taken_over") and told == record


def missing(request: Request) -> dict[str, Any]:
    """What the plan tells of the missing evaluation."""
    (stage,) = [stage for stage in plan_values([request])["stages"] if "flops" in stage]
    return stage


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    return Study(tmp_path, monkeypatch)


@pytest.mark.usefixtures("few_documents")
def test_only_what_is_new_among_the_benchmarks_is_asked(study):
    asked, record = study.run(signs=SIGNS)
    assert asked == ["held-out-captions", "signs"]
    first = record["fingerprints"]["evaluation"]
    whole, part = (missing(study.request(results, signs=SIGNS, sums=SUMS)) for results in ("nothing", "results"))
    assert (whole["why"], part["why"]) == ("new", "asks only sums")
    assert part["flops"] == pytest.approx(whole["flops"] / 22), "of 15 prompts with captions, 6 and 1"
    asked, record = study.run(signs=SIGNS, sums=SUMS)
    assert asked == ["sums"]
    assert record["taken_over"] == {"fingerprint": first, "benchmarks": ["held-out-captions", "signs"]}
    study.check(signs=SIGNS, sums=SUMS)

    both = record["fingerprints"]["evaluation"]
    asked, record = study.run(sums=SUMS)
    assert not asked and not study.loaded, "what is no longer asked costs nothing"
    assert record["taken_over"] == {"fingerprint": both, "benchmarks": ["held-out-captions", "sums"]}
    study.check(sums=SUMS)

    other = SIGNS | {"prompt": "{question} "}
    asked, record = study.run(signs=other, sums=SUMS)
    assert asked == ["signs"] and record["taken_over"]["benchmarks"] == ["held-out-captions", "sums"]
    study.check(signs=other, sums=SUMS)


NUMBERS = """from pathlib import Path
from mm1_lab.evaluate.formats import Item

def read(files):
    numbers = Path(files.images, "numbers.txt").read_text().split()
    return [Item(key=str(place), images=(), question=n, answers=(n,)) for place, n in enumerate(numbers)]
"""


@pytest.mark.usefixtures("few_documents")
def test_a_program_s_questions_are_asked_again(study):
    """It may read files that no identity knows of."""
    numbers = study.folder / "pictures/numbers.txt"
    numbers.write_text("1 2 3 4 5 6 7 8 9")
    (study.folder / "numbers.py").write_text(NUMBERS)
    program = {"format": "numbers.py", "images": "pictures", "metric": "exact", "shots": [0]}
    study.run(numbers=program)
    numbers.write_text("2 3 4 5 6 7 8 9 10")
    asked, record = study.run(numbers=program, sums=SUMS)
    assert asked == ["numbers", "sums"] and record["taken_over"]["benchmarks"] == ["held-out-captions"]


@pytest.mark.usefixtures("few_documents")
def test_answers_are_taken_over_from_intact_files_of_the_same_weights_under_the_same_conditions(study, monkeypatch):
    study.run(sums=SUMS)
    study.run(sums=SUMS, signs=SIGNS)
    request = study.request(sums=SUMS)
    forget_trials(request.trials, request, Inline())  # --anew
    asked, again = study.run(sums=SUMS)
    assert asked == ["held-out-captions", "sums"]

    three = {"more": SUMS, "signs": SIGNS, "sums": SUMS}
    (earlier,) = study.plan(**three).earlier.values()
    assert earlier.fingerprint == again["fingerprints"]["evaluation"], "the other one asked the weights before"
    assert not study.plan(settings=["evaluate.questions=7"], **three).earlier
    (request.ledger.trial_folder(earlier.fingerprint) / "scores.parquet").write_bytes(b"")
    asked, record = study.run(**three)
    assert asked == ["held-out-captions", *three] and "taken_over" not in record

    (earlier,) = study.plan(signs=SIGNS, more=SUMS).earlier.values()
    assert not earlier.asked
    monkeypatch.setattr(worker, "library_versions", lambda: {"torch": "another"})
    asked, _ = study.run(signs=SIGNS, more=SUMS)
    assert asked == ["held-out-captions", "more", "signs"], "the record tells of one version"
