"""The whole evaluation stage on a tiny model with random weights."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.distributed.tensor import DTensor

from mm1_lab import team
from mm1_lab.config import WORLD_DATA, EvaluationStage, Pretrained, Recipe, SftRecipe
from mm1_lab.data.batches import make_batch
from mm1_lab.data.packing import Packer
from mm1_lab.data.types import Document, Limits
from mm1_lab.evaluate import benchmarks, metrics
from mm1_lab.evaluate import run as evaluation
from mm1_lab.evaluate.questions import Benchmark
from mm1_lab.evaluate.run import Evaluation, evaluate, held_out_losses
from mm1_lab.model import MM1, build_mm1, save_weights
from mm1_lab.train.progress import Progress
from mm1_lab.weights.pretrained import read_decoder
from tests.conftest import evaluation_of
from tests.evaluate.conftest import Noise, make_benchmark
from tests.pretrained import save_decoder
from tests.train.test_team import in_team


class TinyData:
    """Held-out documents of two sources; of the third none, and the fourth is missing."""

    identity = WORLD_DATA.model_copy(update={"sources": ("captions", "interleaved", "text")})

    def __init__(self, tokenizer) -> None:
        self.tokenizer = tokenizer

    def source(self, name: str, seed: int):
        raise AssertionError

    pretraining_text = pairs = source

    def held_out(self, name: str, count: int) -> list[Document]:
        if name == "captions":
            texts = ("a red circle .", "blue", "a green ring is it ?")
            return [Document(str(n), (Noise(n), texts[n % 3])) for n in range(count)]
        if name == "text":
            return [Document(str(n), ("question : what color ? " * (1 + n % 4),)) for n in range(count)]
        assert name == "interleaved", "there is no such source"
        return []


@pytest.fixture
def chosen(monkeypatch) -> list[Benchmark]:
    """Three small benchmarks in place of the world's, one a metric."""
    made = [make_benchmark(metric, blocks=4, questions=2) for metric in ("cider", "vqa", "exact")]
    monkeypatch.setattr(benchmarks, "world_benchmarks", lambda settings, seed: list(made))
    return made


def make_stage(*settings: str, recipe: Recipe | None = None) -> EvaluationStage:
    return evaluation_of("evaluate.batch_size=5", "evaluate.shots=[0, 2, 4]", *settings, recipe=recipe)


def make_model(stage: EvaluationStage, tokenizer, folder: Path) -> MM1:
    """Random weights, scaled so that what the model writes depends on what it reads and sees."""
    torch.manual_seed(2)
    model = build_mm1(stage.model, tokenizer).eval()
    with torch.no_grad():
        model.decoder.lm_head.weight.mul_(40)
        model.connector.project[-1].weight.mul_(40)
    save_weights(model, folder, stage.model)
    return model


def run(stage: EvaluationStage, folder: Path, data: object) -> tuple[Evaluation, list[Progress]]:
    reports = []
    return evaluate(stage, folder, data, reports.append), reports


def test_every_question_is_scored_at_every_number_of_shots_and_a_loss_is_that_of_each_document_alone(
    tmp_path, tokenizer, chosen
):
    stage, data = make_stage(), TinyData(tokenizer)
    model = make_model(stage, tokenizer, tmp_path)
    result, reports = run(stage, tmp_path, data)
    expected = [
        (one.name, one.metric, shots, at, question.key)
        for one in chosen
        for shots in (0, 2, 4)
        for at, block in enumerate(one.blocks)
        for question in block
    ]
    found = [(row.benchmark, row.metric, row.shots, row.block, row.question) for row in result.scores]
    assert found == expected
    for benchmark in chosen:  # what `generate` writes is compared in test_export.py
        rows = [row for row in result.scores if (row.benchmark, row.shots) == (benchmark.name, 4)]
        assert [row.score for row in rows] == metrics.score(benchmark, [row.prediction for row in rows])
    assert set(result.majority) == {"vqa-test", "exact-test"}
    assert len({row.prediction for row in result.scores}) > 10
    assert [report.step for report in reports] == list(range(1, 11))
    assert {report.steps for report in reports} == {10}
    assert set(result.held_out_loss) == {"captions", "text"}
    for name, loss in result.held_out_loss.items():
        total = tokens = 0.0
        for document in data.held_out(name, 64):
            packer = Packer(tokenizer, Limits(64, stage.model.connector.image_tokens, 16))
            row = packer.pack([document])
            with torch.no_grad():
                states = model(make_batch([row], [name], stage.model.image_size, blind=False))
                chances = model.decoder.lm_head(states.hidden)[0].log_softmax(-1)
            for at, (token, weight) in enumerate(zip(row.tokens, row.weights, strict=True)):
                if weight:
                    total -= float(chances[at - 1, token])
                    tokens += 1
        assert loss == pytest.approx(total / tokens, rel=1e-4)


def test_a_source_whose_documents_all_exceed_a_row_has_no_loss(tokenizer):
    class Long(TinyData):
        def held_out(self, name: str, count: int) -> list[Document]:
            return [Document("0", ("circle " * 999,))] if name == "text" else super().held_out(name, count)

    stage = make_stage(recipe=Recipe(sft=SftRecipe())).model
    losses, left_out = held_out_losses(build_mm1(stage, tokenizer), stage, Long(tokenizer))
    assert list(losses) == ["captions"] and math.isfinite(losses["captions"])
    assert left_out == {"text": 1}


def test_a_team_answers_block_by_block_what_one_process_does(tmp_path, tokenizer, chosen):
    """Three processes for four blocks, and for two, of which one has nothing to do."""
    stage = make_stage("base_decoder=302M-MoE")
    make_model(stage, tokenizer, tmp_path)
    data = TinyData(tokenizer)
    chosen[2] = replace(chosen[2], blocks=chosen[2].blocks[:2], demonstrations=chosen[2].demonstrations[:2])
    alone, reports = run(stage, tmp_path, data)

    def work() -> None:
        result, told = run(stage, tmp_path, data)
        assert result.held_out_loss == pytest.approx(alone.held_out_loss, rel=1e-5)
        assert replace(result, held_out_loss=alone.held_out_loss) == alone
        assert told == reports

    in_team(3, tmp_path, work)


@pytest.mark.parametrize(
    ("decoder", "precision", "size", "shards"),
    [
        ("85M", "32-true", 4, 2),
        ("302M-MoE", "32-true", 3, 3),
        ("302M-MoE", "bf16-mixed", 4, 2),
        ("tied", "bf16-mixed", 2, 2),
    ],
)
def test_a_model_that_processes_divide_answers_as_a_whole_one_does(
    decoder, precision, size, shards, tmp_path, tokenizer, chosen, monkeypatch
):
    """Though in the last of each group other tokens were likelier, as rounding could make them. Three processes divide
    not the four experts but their rows."""
    named = "85M" if decoder == "tied" else decoder
    stage = make_stage(f"base_decoder={named}", f"precision={precision}")
    if decoder == "tied":
        monkeypatch.setattr(type(tokenizer), "decode", lambda _, ids: " ".join(map(str, ids)))  # it has more words
        facts = read_decoder(Pretrained(weights=str(save_decoder("qwen2", tmp_path / "qwen2"))))
        stage = stage.model_copy(update={"model": stage.model.model_copy(update={"decoder": facts})})
    make_model(stage, tokenizer, tmp_path)
    data = TinyData(tokenizer)
    alone, reports = run(stage, tmp_path, data)
    read_sharded = evaluation.read_sharded

    models = []

    def is_last() -> bool:
        return team.rank() % shards == shards - 1

    def holds_its_share(model: MM1) -> bool:
        divided = [weights for weights in model.parameters() if isinstance(weights, DTensor)]
        assert len(divided) == sum(weights.numel() > 0 for weights in model.decoder.model.layers.parameters())
        own = sum(weights.to_local().numel() for weights in divided)
        return own == pytest.approx(sum(weights.numel() for weights in divided) / shards, rel=0.05)

    def read(model: MM1, folder: Path, by: int) -> None:
        read_sharded(model, folder, by)
        assert holds_its_share(model)
        models.append(model)
        if is_last():
            model.decoder.lm_head.weight.neg_()

    monkeypatch.setattr(evaluation, "read_sharded", torch.no_grad()(read))

    def work() -> None:
        told = []
        result = evaluate(stage, tmp_path, data, told.append, shards=shards)
        if not is_last():
            assert result.held_out_loss == pytest.approx(alone.held_out_loss, rel=1e-5)
        assert replace(result, held_out_loss=alone.held_out_loss) == alone
        assert told == reports
        assert holds_its_share(*models), "again"

    in_team(size, tmp_path, work)


def test_a_blind_model_answers_without_the_picture_but_samples_show_it(tmp_path, tokenizer, chosen):
    stage = make_stage(recipe=Recipe(images="blind"))
    make_model(stage, tokenizer, tmp_path)
    result, _ = run(stage, tmp_path, TinyData(tokenizer))
    seeing, _ = run(make_stage(), tmp_path, TinyData(tokenizer))
    zero_shot = {}
    for row in result.scores:
        if row.shots == 0 and row.family != "text":
            zero_shot.setdefault((row.benchmark, row.kind), set()).add(row.prediction)
    assert [len(different) for different in zero_shot.values()] == [1, 1, 1]
    assert result.held_out_loss["text"] == seeing.held_out_loss["text"]
    assert result.held_out_loss["captions"] != pytest.approx(seeing.held_out_loss["captions"], rel=1e-3)


def test_matrices_cast_once_give_the_numbers_of_autocast(tmp_path, tokenizer, chosen, monkeypatch):
    stage = make_stage("precision=bf16-mixed", "base_decoder=302M-MoE")
    make_model(stage, tokenizer, tmp_path)
    data = TinyData(tokenizer)
    once, _ = run(stage, tmp_path, data)
    left_alone = []
    monkeypatch.setattr(evaluation, "cast_matrices", lambda *parts: left_alone.extend(parts))
    assert once == run(stage, tmp_path, data)[0]
    assert len(left_alone) == 2, "encoder and decoder were cast the first time"
