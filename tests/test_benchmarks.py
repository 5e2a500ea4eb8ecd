"""The benchmarks work and compare like with like; how fast anything is, no test says."""

from dataclasses import replace
from math import isfinite
from pathlib import Path

import pytest
import torch

from benchmarks import evaluation, gpu, gpu_parts, stock_sweep, sweeping, training
from benchmarks.llava import IGNORED, build_llava, padded_loss, unpack
from benchmarks.measure import Row
from benchmarks.report import text_table
from benchmarks.setting import Amounts, base_evaluation, mixture_batches, real_tokens
from mm1_lab.data.world import World

SETTINGS = ("evaluate.questions=8", "train.lr_multipliers={encoder: 0.5}")
TINY = Amounts(1, "smoke", SETTINGS, warmup_steps=1, steps=2, trials=2, seeds=1, most_seeds=3)


def assert_sane(rows: list[Row], count: int) -> None:
    assert len(rows) == count
    assert all(isfinite(row.ours) and isfinite(row.reference) for row in rows)
    assert len(text_table(rows).splitlines()) == count + 1


@pytest.mark.usefixtures("few_documents")
def test_the_stock_trial_is_the_same_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mm1_lab.evaluate.run import evaluate
    from mm1_lab.train.stages import run_stage

    monkeypatch.chdir(tmp_path)
    sweeping.make_parts(tmp_path / "parts")
    stage, data = stock_sweep.trial_stage(sweeping.rates(1)[0]), World()
    inputs = {name: tmp_path / "parts" / part.fingerprint for name, part in stage.model.inputs.items()}
    (tmp_path / "ours").mkdir()
    run_stage(stage.model, tmp_path / "ours", inputs, data, lambda progress: None)
    ours = evaluate(stage, tmp_path / "ours", data, lambda progress: None)
    stock = stock_sweep.train_and_evaluate(stage, tmp_path / "parts", tmp_path / "trial.started")
    assert (tmp_path / "trial.stepped").exists()
    assert stock.held_out_loss == pytest.approx(ours.held_out_loss, rel=1e-5)
    assert len(stock.scores) == len(ours.scores)


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
def test_training_is_measured() -> None:
    rows = training.measure(TINY)
    assert_sane(rows, 5)
    assert all(row.ratio <= 1 for row in rows if row.reference_is == "positions, padding included")


def test_what_a_gpu_is_asked_works_on_a_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the sizes of `smoke`; its peak is not known, and its settings are those of a GPU but for compilation."""
    settings = ("evaluate.questions=8", "evaluate.blocks=8", "evaluate.shots=[0]", "attention=varlen")
    few = replace(TINY, settings=(*settings, "precision=bf16-mixed", "vocabulary=1000"), steps=3)
    speed, peak, memory, asked = gpu.measure_case(gpu.Case("tiny", few, (16, 32), "cpu"), asked=True)
    assert_sane([speed, asked], 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H100")
    data = gpu.WideWorld(1000)
    stage = base_evaluation(few, data).model
    on_gpu = gpu.Case("tiny", few, (2,), "cuda")
    tokens, cost = gpu._count(on_gpu, stage, data)
    flops = cost.flops / stage.training.steps
    _, known = gpu._training_rows(on_gpu, tokens, flops, [2.0, 4.0], [1.0, 1.0], 2)
    seen = [mixture_batches(stage, data)(step) for step in (1, 2, 3)]
    images = sum(len(batch.images) for batch in seen) / 3
    encoder = 6 * stage.encoder.size.parameters().total * images * ((stage.image_size // stage.encoder.patch) ** 2 + 1)
    decoder = 6 * stage.decoder.size.parameters().total * seen[0].tokens.numel()
    assert known.reference == 989e12 and known.rounds[0][0] == 2 * known.rounds[1][0]
    assert 2 * known.rounds[0][0] == flops > encoder + decoder, "attention, connector and vocabulary too"
    guess = replace(few, settings=(*few.settings, "images_per_row={captions: 0.1, interleaved: 0.1}"))
    assert gpu._count(replace(on_gpu, amounts=guess), stage, data) == (tokens, cost), "by the pictures that are there"
    assert memory.ours is None and memory.reference_is == gpu.PLANNED
    assert "16, 32;" in speed.note and peak.ours is None and "unknown" in peak.note
    assert "questions against" in asked.note


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


@pytest.mark.usefixtures("few_documents")
def test_evaluation_is_measured_and_both_sides_answer_alike() -> None:
    few = replace(TINY, settings=("evaluate.questions=8", "evaluate.blocks=8", "evaluate.shots=[4]"))
    rows = evaluation.measure(few)
    assert_sane(rows, 2)
    assert "72 questions against 72" in rows[0].note and "100.0% of the answers are identical" in rows[0].note
    assert rows[1].what == "evaluation at 4 shots"
