"""What docs/architecture.md says one may add, added through the public tables, without a change of the library."""

import os
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from transformers import PreTrainedModel

from analysis import paper
from analysis.judging.claims import known_lessons, load_lessons
from analysis.redraw import draw
from mm1_lab import cli
from mm1_lab.config import DecoderStage, RequestError, Stage
from mm1_lab.config.size import Parameters, Size
from mm1_lab.data.shards.datafile import DataFile
from mm1_lab.data.types import Tokenizer
from mm1_lab.data.world.words import WorldTokenizer
from mm1_lab.evaluate import metrics
from mm1_lab.evaluate.named import build_benchmark
from mm1_lab.files import WEIGHTS
from mm1_lab.lab import load_sweep as load
from mm1_lab.model import load_weights, save_weights
from mm1_lab.orchestrate.execution.executor import Inline
from mm1_lab.orchestrate.execution.worker import Worker
from mm1_lab.orchestrate.execution.worklist import WorkList
from mm1_lab.orchestrate.planning.finding import find_scale
from mm1_lab.orchestrate.planning.loading import with_benchmarks
from mm1_lab.orchestrate.planning.plan_text import plan_text, plan_values
from mm1_lab.orchestrate.planning.request import Request
from mm1_lab.orchestrate.recipe_search import run_request
from mm1_lab.train.stages import KINDS, StageKind, StageRun, new_decoder
from tests.conftest import Place

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


class Diary(Inline):
    """An executor of one's own, which keeps a diary and otherwise works as the in-process one."""

    def __init__(self) -> None:
        super().__init__()
        self.kinds: list[str] = []

    def work(self, work_list: WorkList, worker: Worker) -> None:
        super().work(work_list, worker)
        self.kinds += [work_list.tasks[key].kind for key in work_list.done]


def build_halved(stage: Halved, tokenizer: Tokenizer) -> PreTrainedModel:
    return new_decoder(stage.whole, tokenizer)


def halve(run: StageRun[Halved]) -> None:
    network = build_halved(run.stage, run.data.tokenizer)
    load_weights(network, run.inputs["whole"])
    for parameter in network.parameters():
        parameter.data /= 2
    save_weights(network, run.folder, run.stage)


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
@pytest.mark.usefixtures("few_documents")
def test_a_kind_of_stage(again: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """From its plan, also for GPUs, to a score, a record and MLflow; on a machine with Slurm, of whose `srun` Lightning
    would warn at every stage. Encoder and decoder are trained already."""
    monkeypatch.chdir(again.folder)
    Path("srun").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(again.folder), prepend=os.pathsep)
    monkeypatch.setitem(KINDS, Halved, StageKind(build_halved, halve))
    on_gpus = with_halved(load("data_mix", "smoke", only=["base"], settings=("hardware={gpu: h100}",)))
    text = plan_text([on_gpus], plan_values([on_gpus]))
    row = next(line.split() for line in text.splitlines() if line.startswith("halved"))
    assert row[5] == "41.5G", "6 · 6,912 · a million FLOPs"
    assert row[:5] == ["halved", "to", "run", "1", "31.6K"] and row[6:10] == ["506", "KB", "127", "KB"]
    assert "waits for halved" in text and "4.3e-07" in " ".join(row)
    request = with_halved(load("data_mix", "smoke", only=["base"], settings=("evaluate.shots=[0]",)))
    diary = Diary()
    assert run_request(request, diary, lambda folder: [], lambda folder: "") == 0
    assert sorted(diary.kinds) == ["halved", "trial"]
    assert not capsys.readouterr().err, "MLflow has its run, too"
    chain = {stage.KIND: stage for stage in request.trials[0].evaluation.chain()}
    record = request.ledger.record(request.trials[0].fingerprint)
    assert record["fingerprints"] == {kind: stage.fingerprint for kind, stage in chain.items()}
    assert record["config"]["model"]["decoder"]["whole"]["size"] == chain["decoder"].size.model_dump(mode="json")
    weights = [load_file(request.ledger.weights(chain[kind].fingerprint) / WEIGHTS) for kind in ("decoder", "halved")]
    assert all(torch.equal(weights[0][name] / 2, halved) for name, halved in weights[1].items())
    assert chain["halved"].workers(request.scale.model_copy(update={"workers": {"85M": 2}})) == 1
    assert "Nothing to run." in plan_text([request], plan_values([request]))


def test_a_metric(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Named in the YAML of a user's data, with a further one of the same answers, which depends on all of them."""
    length = metrics.Metric(lambda said, question, benchmark: float(len(said)), further=("longest",))
    longest = metrics.Metric(None, lambda said, questions: [float(max(map(len, said)))] * len(said), named=False)
    for name, metric in (("length", length), ("longest", longest)):
        monkeypatch.setitem(metrics.METRICS, name, metric)
    (tmp_path / "mine.jsonl").write_text('{"question": "2 + 2 =", "answer": "4"}\n')
    data = tmp_path / "data.yaml"
    own = "{questions: mine.jsonl, metric: length, shots: [0]}"
    data.write_text(f"text: [any.jsonl]\nbenchmarks: {{mine: {own}}}\n")
    scale = with_benchmarks(find_scale("smoke"), data, DataFile.read(data), None, tmp_path)
    benchmark = build_benchmark(scale.benchmarks[0], scale.evaluate, WorldTokenizer())
    assert (benchmark.name, benchmark.metric, metrics.score(benchmark, ["four"])) == ("mine", "length", [4.0])
    benchmark = replace(benchmark, blocks=(benchmark.blocks[0] * 2,))
    (other,) = metrics.further(benchmark)
    assert (other.name, metrics.score(other, ["four", "2"])) == ("mine longest", [4.0, 4.0])
    (tmp_path / "mine.jsonl").write_text('{"question": "2 + 2 =", "answers": ["4", " "]}\n')
    with pytest.raises(RequestError, match="saying nothing would be right"):
        with_benchmarks(find_scale("smoke"), data, DataFile.read(data), None, tmp_path)


SWEEP = """
title: Do captions alone keep text skill?
reproduces: Fig. 99
recipe: base
arms:
  base: {}
  captions: {data_mix: {captions: 1, interleaved: 0, text: 0}}
panels: {a: {title: Mix, arms: {mixed: base, captions: captions}}}
contrasts: [{claim: text keeps text skill, first: base, second: captions, measure: text-core, expect: greater}]
"""
LESSON = """
- name: own
  claim: text in the mix keeps text skill
  by: ours
  paper: nothing
  section: none
  sweep: mine
  margin: none, the claim is a direction
  parts: [{contrast: text keeps text skill}]
"""


@pytest.mark.usefixtures("unrendered")
def test_a_question_a_lesson_and_a_number_of_it(tmp_path: Path, again: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """From files beside each other to the tables; its two arms were run before, by another sweep."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(paper, "FOLDER", tmp_path)
    columns = ("panel", "label", "minus", "measure", "bound", "value", "source")
    rows = [columns, ("a", "mixed", "captions", "text-core", "equal", "7.5", "MM1 Fig. 99")]
    (tmp_path / "figure_99.csv").write_text("".join(f"{','.join(row)}\n" for row in rows), encoding="utf-8")
    (tmp_path / "mine.yaml").write_text(SWEEP, encoding="utf-8")
    results = again.results
    shutil.rmtree(results / "smoke")
    lessons = results / "lessons.yaml"
    lessons.write_text(LESSON, encoding="utf-8")
    assert cli.main(["run", "mine.yaml", "--scale", "smoke", "--inline"]) == 0
    contrasts = pd.read_csv(results / "smoke/mine/contrasts.csv")
    assert contrasts["paper"].tolist() == [7.5]
    draw(results)
    judged = pd.read_csv(results / "smoke/lessons.csv").set_index("lesson")
    assert (judged.loc["own", "sweep"], judged.loc["own", "paper"]) == ("mine", 7.5)
    assert len(judged) == len(load_lessons()) + 1
    lessons.write_text(LESSON.replace("name: own", "name: resolution"), encoding="utf-8")
    with pytest.raises(RequestError, match=r"lessons\.yaml: 2 lessons are named 'resolution'"):
        known_lessons(results)


def test_the_table_names_files_that_are_there() -> None:
    text = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = [line.split("|") for line in text.partition("## To add")[2].splitlines() if line.startswith("| a")]
    tests = {name for row in rows for name in re.findall("`(.+?)`", row[3])}
    assert len(rows) >= 8 and all((REPOSITORY / name).exists() for name in tests)
