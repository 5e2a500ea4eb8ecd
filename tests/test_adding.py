"""What docs/architecture.md says one may add, added through the public tables, without a change of the library."""

import argparse
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import pandas as pd
import pytest
import yaml

from analysis.judging.lessons import PATH, load_lessons
from mm1_lab import cli, commands, options
from mm1_lab.config import DecoderStage, RequestError, Stage, load_sweep
from mm1_lab.config.size import Parameters
from mm1_lab.data.types import Data
from mm1_lab.evaluate import metrics
from mm1_lab.evaluate.questions import Benchmark, Question
from mm1_lab.lab import load_sweep as load
from mm1_lab.model import save_weights
from mm1_lab.orchestrate.execution.executor import Inline
from mm1_lab.orchestrate.execution.worker import WorkerContext
from mm1_lab.orchestrate.execution.worklist import Execution
from mm1_lab.orchestrate.planning.plan import make_plan
from mm1_lab.orchestrate.sweeping import run_sweep
from mm1_lab.train.decoder import build
from mm1_lab.train.progress import Report
from mm1_lab.train.stages import KINDS, StageKind, run_stage

REPOSITORY = Path(__file__).parents[1]


class Halved(Stage):
    """A decoder whose weights are halved: a kind of stage of one's own."""

    KIND: ClassVar[str] = "halved"
    VERSION: ClassVar[int] = 1
    decoder: DecoderStage

    def parameters(self) -> Parameters:
        return self.decoder.parameters()

    def positions(self) -> int:
        return 0


def halve(stage: Halved, folder: Path, inputs: Mapping[str, Path], data: Data, report: Report) -> None:
    from mm1_lab.model import load_weights

    network = build(stage.decoder, data.tokenizer)
    load_weights(network, inputs["decoder"])
    for parameter in network.parameters():
        parameter.data /= 2
    save_weights(network, folder, stage)


def test_a_kind_of_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, squares: Data) -> None:
    kind = StageKind(lambda stage, tokenizer: build(stage.decoder, tokenizer), halve)
    monkeypatch.setitem(KINDS, Halved, kind)
    sweep = load("data_mix", scale="smoke", only=["base"], results=tmp_path / "results")
    model = sweep.trials[0].evaluation.model
    assert isinstance(model.decoder, DecoderStage)
    decoder = model.decoder.model_copy(update={"data": squares.identity})
    stage = Halved(
        **{name: getattr(decoder, name) for name in ("seed", "data", "precision", "compile")}, decoder=decoder
    )
    folders = {name: tmp_path / name for name in ("decoder", "halved")}
    for folder in folders.values():
        folder.mkdir()
    run_stage(decoder, folders["decoder"], {}, squares, lambda progress: None)
    run_stage(stage, folders["halved"], {"decoder": folders["decoder"]}, squares, lambda progress: None)
    written = json.loads((folders["halved"] / "stage.json").read_text(encoding="utf-8"))
    assert (written["kind"], written["fingerprint"]) == ("halved", stage.fingerprint)
    assert [one.KIND for one in stage.chain()] == ["halved", "decoder"]


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
