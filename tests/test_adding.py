"""What docs/architecture.md says one may add, added through the public tables, without a change of the library."""

import argparse
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import PreTrainedModel

from analysis.judging.lessons import PATH, load_lessons
from mm1_lab import cli, commands, options
from mm1_lab.config import DecoderStage, RequestError, Stage, load_sweep
from mm1_lab.config.size import Parameters, Size
from mm1_lab.data.types import Data, Tokenizer
from mm1_lab.evaluate import metrics
from mm1_lab.evaluate.questions import Benchmark, Question
from mm1_lab.lab import load_sweep as load
from mm1_lab.model import load_weights, save_weights
from mm1_lab.orchestrate.execution.executor import Inline
from mm1_lab.orchestrate.execution.worker import WorkerContext
from mm1_lab.orchestrate.execution.worklist import Execution
from mm1_lab.orchestrate.plan_text import plan_text
from mm1_lab.orchestrate.planning.plan import make_plan
from mm1_lab.orchestrate.planning.request import Request
from mm1_lab.orchestrate.sweeping import run_sweep
from mm1_lab.train.decoder import build
from mm1_lab.train.progress import Report
from mm1_lab.train.stages import KINDS, StageKind
from mm1_lab.weights import WEIGHTS

REPOSITORY = Path(__file__).parents[1]


class Halved(Stage):
    """A decoder whose weights are halved, in a decoder's place: a kind of stage of one's own."""

    KIND: ClassVar[str] = "halved"
    VERSION: ClassVar[int] = 1
    whole: DecoderStage

    @property
    def size(self) -> Size:
        return self.whole.size

    @property
    def shape(self) -> Size:
        return self.whole.shape

    def parameters(self) -> Parameters:
        return self.whole.parameters()

    def positions(self) -> int:
        return 10**6  # made up, to be seen in the plan


def build_halved(stage: Halved, tokenizer: Tokenizer) -> PreTrainedModel:
    return build(stage.whole, tokenizer)


def halve(stage: Halved, folder: Path, inputs: Mapping[str, Path], data: Data, report: Report) -> None:
    network = build_halved(stage, data.tokenizer)
    load_weights(network, inputs["whole"])
    for parameter in network.parameters():
        parameter.data /= 2
    save_weights(network, folder, stage)


def with_halved(request: Request) -> Request:
    """The request's only trial, whose model starts from the halved decoder."""
    (trial,) = request.trials
    model = trial.evaluation.model
    whole = model.decoder
    assert isinstance(whole, DecoderStage)
    shared = {name: getattr(whole, name) for name in Stage.model_fields}
    model = model.model_copy(update={"decoder": Halved(**shared, whole=whole)})
    evaluation = trial.evaluation.model_copy(update={"model": model})
    return replace(request, trials=(trial.model_copy(update={"evaluation": evaluation}),))


@pytest.mark.filterwarnings("error::UserWarning")
def test_a_kind_of_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """From its plan, also for GPUs, to a score, a record and MLflow."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(KINDS, Halved, StageKind(build_halved, halve))
    on_gpus = with_halved(load("data_mix", "smoke", only=["base"], settings=("hardware={gpu: h100}",)))
    text = plan_text([on_gpus])
    row = next(line.split() for line in text.splitlines() if line.startswith("halved"))
    assert row[:9] == ["halved", "waits", "1", "31.6K", "41.5G", "506", "KB", "127", "KB"], (
        "6 · 6,912 · a million FLOPs"
    )
    assert "waits for encoder and halved" in text and "halved 2.91e-08" in text
    request = with_halved(load("data_mix", "smoke", only=["base"]))
    assert run_sweep(request, Inline(), lambda folder: []) == 0
    assert not capsys.readouterr().err, "MLflow has its run, too"
    chain = {stage.KIND: stage for stage in request.trials[0].evaluation.chain()}
    record = request.ledger.record(request.trials[0].fingerprint)
    assert record["fingerprints"] == {kind: stage.fingerprint for kind, stage in chain.items()}
    assert record["config"]["model"]["decoder"]["whole"]["size"] == chain["decoder"].size.model_dump(mode="json")
    weights = [load_file(request.ledger.weights(chain[kind].fingerprint) / WEIGHTS) for kind in ("decoder", "halved")]
    assert all(torch.equal(weights[0][name] / 2, halved) for name, halved in weights[1].items())
    assert chain["halved"].workers(request.scale.model_copy(update={"workers": {"85M": 2}})) == 1
    assert "Nothing to run." in plan_text([request])


def test_an_executor(tmp_path: Path) -> None:
    """One that keeps a diary and otherwise works as the in-process one."""

    class Diary(Inline):
        def __init__(self) -> None:
            self.kinds: list[str] = []

        def work(self, execution: Execution, context: WorkerContext, work: object) -> None:
            def noted(task: object, *rest: object) -> None:
                self.kinds.append(task.kind)  # type: ignore[attr-defined]
                work(task, *rest)  # type: ignore[operator]

            super().work(execution, context, noted)

    sweep = load("data_mix", scale="smoke", only=["base"], results=tmp_path / "results")
    diary = Diary()
    assert run_sweep(sweep, diary, lambda folder: []) == 0
    assert sorted(diary.kinds) == ["decoder", "encoder", "trial"]
    assert not make_plan(sweep.trials, sweep.ledger).tasks


def test_a_metric(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(metrics.METRICS, "length", lambda said, question, benchmark: float(len(said)))
    question = Question("0", "any", (), "", ("a",), "a")
    benchmark = Benchmark("own", "vqa", "", "length", ((question,),), ((),), (".",), 4)
    assert metrics.score(benchmark, ["four"]) == [4.0]


def test_a_lesson(tmp_path: Path) -> None:
    lessons = yaml.safe_load(PATH.read_text(encoding="utf-8"))
    contrast = load_sweep(REPOSITORY / "sweeps" / "data_mix.yaml").contrasts[0]
    lessons.append(lessons[0] | {"name": "own", "sweep": "data_mix", "parts": [{"contrast": contrast.claim}]})
    path = tmp_path / "lessons.yaml"
    path.write_text(yaml.safe_dump(lessons, sort_keys=False), encoding="utf-8")
    own = load_lessons(path)[-1]
    assert (own.name, own.parts[0].contrast) == ("own", contrast.claim)
    lessons[-1]["parts"][0]["contrat"] = contrast.claim
    path.write_text(yaml.safe_dump(lessons, sort_keys=False), encoding="utf-8")
    with pytest.raises(RequestError, match=r"unknown key .*contrat.*did you mean 'contrast'"):
        load_lessons(path)


def test_the_table_names_files_that_are_there() -> None:
    text = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = [line.split("|") for line in text.partition("## To add")[2].splitlines() if line.startswith("| a")]
    frame = pd.DataFrame([(row[1].strip(), row[3].strip(" `")) for row in rows], columns=["what", "test"])
    tests = {name for cell in frame["test"] for name in cell.replace("`", "").split(", ")}
    assert len(frame) >= 8 and all((REPOSITORY / name).exists() for name in tests)


def test_a_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(options, "COMMANDS", dict(options.COMMANDS))
    monkeypatch.setattr(commands, "COMMANDS", options.COMMANDS)

    @options.command("--seeds 3", options.SEEDS)
    def say_seeds(given: argparse.Namespace) -> int:
        """Say which seeds."""
        print(f"seeds {given.seeds}")
        return 0

    assert cli.main(["say-seeds", "--seeds", "4"]) == 0
    assert capsys.readouterr().out == "seeds 4\n"
    cli.make_parser().print_help()
    assert re.search(r"say-seeds +say which seeds", capsys.readouterr().out)
