"""The benchmarks work and compare like with like; how fast anything is, no test says."""

import json
from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from benchmarks import evaluation, gpu, gpu_parts, stock_sweep, sweeping, training
from benchmarks.llava import IGNORED, build_llava, padded_loss, unpack
from benchmarks.measure import Row
from benchmarks.report import text_table
from benchmarks.setting import Amounts, base_evaluation, mixture_batches, real_tokens
from mm1_lab.data.world import World
from mm1_lab.evaluate.benchmarks import benchmarks_for
from mm1_lab.evaluate.questions import Benchmark
from mm1_lab.results.manifest import read_trials
from tests.conftest import Place

SETTINGS = ("evaluate.questions=8", "train.lr_multipliers={encoder: 0.5}")
TINY = Amounts(1, "smoke", SETTINGS, warmup_steps=1, steps=2, trials=2, seeds=1, most_seeds=3)


def assert_sane(rows: list[Row], count: int) -> None:
    assert len(rows) == count
    assert all(isfinite(row.ours) and isfinite(row.reference) for row in rows)
    assert len(text_table(rows).splitlines()) == count + 1


def test_the_stock_trial_is_the_same_trial(finished: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its losses are those of the base that `mm1-lab run` trained from the same parts."""
    monkeypatch.chdir(tmp_path)
    sweeping.make_parts(tmp_path / "parts")
    stage = stock_sweep.trial_stage(sweeping.rates(1)[0])
    (row,) = (row for row in read_trials(finished.results / "smoke" / "data_mix") if row.arm == "base")
    trial = finished.results / "trials" / row.fingerprint
    record = json.loads((trial / "record.json").read_text("utf-8"))
    assert record["fingerprints"]["multimodal"] == stage.model.fingerprint
    stock = stock_sweep.train_and_evaluate(stage, tmp_path / "parts", tmp_path / "trial.started")
    assert (tmp_path / "trial.stepped").exists()
    losses = pd.read_csv(trial / "held_out.csv").set_index("source")["loss"].to_dict()
    assert stock.held_out_loss == pytest.approx(losses, rel=1e-5)
    ours = pd.read_parquet(trial / "scores.parquet")
    asked = stage.settings.questions // (len(ours[ours["benchmark"] == "vqa"]) // len(stage.settings.shots))
    assert len(stock.scores) == asked * len(ours), "which were asked fewer questions each"


def test_llava_reads_the_same_documents_and_padding_changes_nothing() -> None:
    data, stage = World(), base_evaluation(TINY, World()).model
    batch = mixture_batches(stage, data)(0)
    documents = unpack(batch, data.tokenizer.image, stage.connector.image_tokens)
    assert sum(len(document.tokens) for document in documents) == real_tokens(batch)
    assert sum(int((document.labels != IGNORED).sum()) for document in documents) == int((batch.weights > 0).sum())
    assert torch.equal(torch.cat([document.images for document in documents]), batch.images)
    assert len({len(document.tokens) for document in documents}) > 1
    model = build_llava(stage, data.tokenizer)
    loss, count = padded_loss(model, documents, data.tokenizer.pad)
    single = [padded_loss(model, [document], data.tokenizer.pad) for document in documents]
    assert count == sum(number for _, number in single) == int((batch.weights > 0).sum())
    assert loss.item() == pytest.approx(sum(each.item() * number for each, number in single) / count, rel=1e-4)


@pytest.mark.usefixtures("few_documents")
def test_training_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "DOCUMENTS_PER_BATCH", (8, 16))
    monkeypatch.setattr(training, "PROBE", TINY)
    rows = training.measure(replace(TINY, settings=(*SETTINGS, "evaluate.shots=[0]")))
    assert_sane(rows, 5)
    assert all(row.ratio <= 1 for row in rows if row.reference_is == "positions, padding included")


def ask(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Asks these benchmarks alone, as an untrained model's captions are long."""

    def chosen(*given: Any) -> list[Benchmark]:
        return [one for one in benchmarks_for(*given) if one.name in names]

    monkeypatch.setattr(evaluation, "benchmarks_for", chosen)


@pytest.mark.soak
def test_what_a_gpu_is_asked_works_on_a_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the sizes of `smoke`; its peak is not known, and its settings are those of a GPU but for compilation."""
    ask(monkeypatch, "vqa")
    settings = ("evaluate.questions=8", "evaluate.blocks=8", "evaluate.shots=[0]", "attention=varlen")
    few = replace(TINY, settings=(*settings, "precision=bf16-mixed", "vocabulary=1000", "train.batch_size=2"), steps=2)
    speed, peak, memory, asked = gpu.measure_case(gpu.Case("tiny", few, (16, 32), "cpu"), asked=True)
    assert_sane([speed, asked], 2)
    assert memory.ours is None and memory.reference_is == gpu.PLANNED
    assert "16, 32;" in speed.note and peak.ours is None and "unknown" in peak.note
    assert "questions against" in asked.note
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H100")
    on_gpu = gpu.Case("tiny", few, (2,), "cuda")
    _, known = gpu._training_rows(on_gpu, 100.0, 1e12, [2.0, 4.0], [1.0, 1.0], 2)
    assert known.reference == 989e12 and [ours for ours, _ in known.rounds] == [5e11, 2.5e11]
    guess = replace(few, settings=(*few.settings, "images_per_row={captions: 0.1, interleaved: 0.1}"))
    data = gpu.WideWorld(1000)
    stage = base_evaluation(few, data).model
    counts = [gpu._count(replace(on_gpu, amounts=amounts), stage, data) for amounts in (few, guess)]
    assert counts[0] == counts[1], "by the pictures that are there"


def test_the_parts_of_a_step_are_timed() -> None:
    few = replace(TINY, settings=("precision=bf16-mixed", "vocabulary=1000", "attention=varlen"))
    parts, tokens = gpu_parts.measure(gpu.Case("tiny", few, (), "cpu"), micro_batches=2, rounds=2)
    steps, of_a_step = ["step", "step, other pictures"], ["encoder", "connector", "decoder", "loss", "optimiser"]
    assert [part.name for part in parts] == [*steps, *of_a_step]
    assert all(0 < part.launching <= part.milliseconds for part in parts) and tokens > 500


def test_a_machine_without_a_gpu_is_told_so_and_its_rows_resolve(capsys: pytest.CaptureFixture[str]) -> None:
    assert [case.scale.decoders[case.decoder].width for case in gpu.cases(TINY)] == [896, 1536]
    with pytest.raises(SystemExit, match="2"):
        gpu.main()
    assert "there is no GPU on this machine" in capsys.readouterr().err


def test_evaluation_is_measured_and_both_sides_answer_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    ask(monkeypatch, "captions", "vqa")
    few = replace(TINY, settings=("evaluate.questions=8", "evaluate.blocks=8", "evaluate.shots=[4]"))
    rows = evaluation.measure(few)
    assert_sane(rows, 2)
    assert "16 questions against 16" in rows[0].note and "100.0% of the answers are identical" in rows[0].note
    assert rows[1].what == "evaluation at 4 shots"
