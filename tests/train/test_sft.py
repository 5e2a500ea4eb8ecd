"""Instruction tuning: what it counts, what it sees, from where it starts."""

import json
from collections import Counter
from dataclasses import replace
from random import Random

import numpy as np
import pytest
import torch

from mm1_lab import team
from mm1_lab.config import Recipe, RequestError, SftRecipe, SftStage
from mm1_lab.data.batches import Batch, ConversationBatches, MixtureBatches, make_batch
from mm1_lab.data.packing import Packer
from mm1_lab.data.preprocessing import WHOLE, Grid
from mm1_lab.data.types import Answer, Limits
from mm1_lab.data.world import World
from mm1_lab.data.world.drawing import ScenePicture
from mm1_lab.data.world.scenes import sample_scene
from mm1_lab.evaluate.embedder import PromptEmbedder
from mm1_lab.evaluate.prompts import Segment
from mm1_lab.model import build_mm1, load_weights
from mm1_lab.train.module import LOSS, language_loss
from tests.conftest import Squares, evaluation_of
from tests.train.conftest import shortened, train


def test_the_loss_counts_answers_alone(finished, sft_stage, squares):
    """Against a plain call of the decoder on each conversation by itself, and a sum over the answers' tokens."""
    folder = finished(sft_stage)
    model = build_mm1(sft_stage, squares.tokenizer)
    load_weights(model, folder)
    model.eval()
    documents = [squares.instructions("colours", 5).document(index) for index in range(2)]
    packer = Packer.of(sft_stage, squares.tokenizer)
    names = ["second", "first"]
    batch = make_batch([packer.pack(documents)], names[::-1], sft_stage.image_size, False, True)
    with torch.no_grad():
        found = language_loss(model.decoder, model(batch), batch, names)
        losses, counts = [], []
        for document in documents:
            alone = make_batch([packer.pack([document])], ["colours"], sft_stage.image_size, False)
            (answer,) = [part for part in document.parts if isinstance(part, Answer)]
            counted = [*squares.tokenizer.encode(answer), squares.tokenizer.end]
            length = int((alone.documents > 0).sum())
            embedded = model.embed(alone.tokens[:, :length], alone.images)
            logits = model.decoder(inputs_embeds=embedded).logits[0, length - len(counted) - 1 : length - 1]
            losses.append(torch.nn.functional.cross_entropy(logits, torch.tensor(counted), reduction="sum").item())
            counts.append(len(counted))
    assert found.main.item() == pytest.approx(sum(losses) / sum(counts), rel=1e-4)
    assert found.tally[:, LOSS].tolist() == pytest.approx(losses[::-1], rel=1e-4), "each in its own set"


def test_training_that_is_stopped_early_is_the_start_of_the_whole(finished, multimodal_stage):
    """A checkpoint of one run, not a shorter run: its rate is still that of the long schedule."""
    stopped = multimodal_stage.model_copy(update={"stop_after": 3})
    stages = (multimodal_stage, stopped, shortened(multimodal_stage, 3))
    curves = [(finished(stage) / "training.csv").read_text().splitlines() for stage in stages]
    assert curves[0][: len(curves[1])] == curves[1] != curves[2]


def tuned(**sft: object) -> SftStage:
    return evaluation_of(recipe=Recipe(sft=SftRecipe.model_validate(sft))).model


def test_all_arms_are_tuned_on_the_same_conversations_however_many_views_they_have():
    """The answers of a step are the same multiset, in fewer or more rows; what fits no row is left out alone."""

    def answers(step: int, sequence: int, **sft: object) -> tuple[Counter[tuple[int, ...]], Counter[str], int]:
        stage = tuned(**sft)
        training = stage.training.model_copy(update={"batch_size": 40, "sequence_length": sequence})
        stage = stage.model_copy(update={"training": training})
        sources = {name: world.instructions(name, stage.seed, Limits.of(stage)) for name in stage.shares}
        batch = ConversationBatches.of(stage, sources, world.tokenizer)(step)
        said = [
            tuple(batch.tokens[row][(batch.documents[row] == number) & (batch.weights[row] > 0)].tolist())
            for row in range(len(batch.tokens))
            for number in range(1, int(batch.documents[row].max()) + 1)
        ]
        assert len(said) == len(batch.sources) and (batch.images.amax() > 0)
        return Counter(said), Counter(batch.sources), len(batch.tokens)

    world = World()
    for step in (0, 7):
        one, five = answers(step, 512), answers(step, 512, resolution=1344, views=5)
        assert one[:2] == five[:2] and one[1].total() == 40 and set(one[1].values()) == {5}
        assert five[2] > 1.5 * one[2], "the pictures take their room in more rows"
        short = answers(step, 128, resolution=1344, views=5)
        assert short[0] < one[0] and 0 < 40 - short[1].total() <= 5, "long conversations are left out alone"


def test_replayed_rows_follow_the_conversations_and_are_those_of_pre_training(monkeypatch):
    """Of 40 conversations 5 rows, in which all text counts and no end token follows an answer. Two processes read
    together what one reads."""
    replayed_rows = {"captions": 2.0, "interleaved": 2.0, "text": 1.0}
    stage = tuned()
    training = stage.training.model_copy(update={"batch_size": 40})
    stage = stage.model_copy(update={"training": training, "replay": replayed_rows})
    world = World()
    sources = {name: world.instructions(name, stage.seed, Limits.of(stage)) for name in stage.shares}
    replayed = {name: world.source(name, 77) for name in stage.replay}
    conversations = ConversationBatches.of(stage, sources, world.tokenizer)
    replay = MixtureBatches.of_replay(stage, replayed, world.tokenizer)
    batches = replace(conversations, replay=replay)

    def columns(batch: Batch) -> tuple[torch.Tensor, ...]:
        return batch.tokens, batch.weights, batch.documents, batch.images

    asked = []
    for step in range(8):
        alone, whole = conversations(step), batches(step)
        more = len(whole.tokens) - len(alone.tokens)
        asked += [name for name, _ in replay.chosen(step)]
        assert more == stage.replayed_rows == 5 and whole.step_rows == len(whole.tokens)
        for own, both in zip(columns(alone), columns(whole), strict=True):
            assert torch.equal(both[: len(own)], own)
        packer = Packer(world.tokenizer, Limits.of(stage), drop_overlong=True, between=" ")
        rows = [packer.pack(replayed[name].documents(number)) for name, number in replay.chosen(step)]
        assert torch.equal(whole.tokens[-5:], torch.tensor(np.stack([row.tokens for row in rows])).long())
        assert torch.equal(whole.weights[-5:], torch.tensor(np.stack([row.weights for row in rows])))
        documents = []
        for (name, _), row in zip(replay.chosen(step), rows, strict=True):
            documents += [f"replay.{name}"] * int(row.documents.max())
        assert list(whole.sources) == [*alone.sources, *documents]
        parts = []
        for rank in range(2):
            with monkeypatch.context() as two:
                two.setattr(team, "size", lambda: 2)
                two.setattr(team, "rank", lambda: rank)  # noqa: B023
                parts.append(batches(step))
        for one, both in zip(zip(*map(columns, parts), strict=True), columns(whole), strict=True):
            assert torch.equal(torch.cat(one), both)
    assert Counter(asked) == {"captions": 16, "interleaved": 16, "text": 8}


def test_a_tuning_that_replays_learns_from_both(finished, sft_stage, tmp_path, monkeypatch):
    """Its curve has the losses of each; conversations alone are counted as left out or read. What it replays is not
    what pre-training began with, and it tells what of this fits no row."""
    replaying = sft_stage.model_copy(update={"replay": {"captions": 1.0, "text": 1.0}})
    finished(replaying.model)  # which reads the same sources
    seeds = {}
    source = Squares.source

    def noted(squares: Squares, name: str, seed: int, limits: object = None) -> Squares:
        if limits:  # it is packed for these
            seeds[name] = seed
        return source(squares, name, seed, limits)

    monkeypatch.setattr(Squares, "source", noted)
    monkeypatch.setattr("mm1_lab.train.multimodal.shares_left_out", lambda *_: {"captions": 0.25})
    told = []
    folder = train(replaying, tmp_path / "sft", finished, report=told.append)
    assert "25% of captions documents do not fit" in told[0].note
    assert seeds.keys() == replaying.replay.keys() and replaying.seed not in seeds.values()
    curve = (folder / "training.csv").read_text()
    assert "loss/colours" in curve and "loss/replay.captions" in curve and "loss/replay.text" in curve
    summary, plain = (json.loads((one / "summary.json").read_text()) for one in (folder, finished(sft_stage)))
    assert summary["left_out"] == plain["left_out"] == 0 and summary["epochs"] == plain["epochs"]
    assert summary["tokens"]["colours"] == plain["tokens"]["colours"]
    assert min(summary["tokens"][name] for name in ("replay.captions", "replay.text")) > 0


def test_rates_and_replays_change_tuning_alone():
    plain, replaying = tuned(), tuned(replay={"captions": 0.25, "interleaved": 0.25, "text": 0.15})
    rows = replaying.replay
    assert sum(rows.values()) == pytest.approx(replaying.replayed_rows)
    assert rows["captions"] == rows["interleaved"] == pytest.approx(rows["text"] * 5 / 3)
    assert replaying.inputs == plain.inputs and replaying.fingerprint != plain.fingerprint
    assert tuned(replay={"text": 0}).fingerprint == plain.fingerprint
    assert tuned(replay={"text": 0.0001}).replay == {"text": 1.0}
    mixed = tuned(mixture={"text": 1, "charts": 1}, replay={"text": 0.1, "captions": 0.1})
    told = "the order decides which row is of which set, under one fingerprint"
    assert [*mixed.shares, *mixed.replay] == ["charts", "text", "captions", "text"], told
    assert replaying.positions() - plain.positions() == (
        replaying.steps() * replaying.replayed_rows * replaying.sequence_length
    )
    for replay, message in (
        ({"caption": 0.1}, r"sft\.replay lists caption, which the data do not contain; did you mean 'captions'\?"),
        ({"text": -1}, "greater than or equal to 0"),
    ):
        with pytest.raises((RequestError, ValueError), match=message):
            tuned(replay=replay)
    slow, part = tuned(learning_rate=3e-4), tuned(lr_multipliers={"encoder": 0.1})
    assert part.training == plain.training.model_copy(update={"lr_multipliers": {"encoder": 0.1}})
    assert part.inputs == plain.inputs
    ranks = {"decoder": 8, "encoder": {"rank": 16, "alpha": 3}}  # 16 is the largest
    assert [lora.alpha for lora in tuned(lora=ranks).lora.values()] == [16, 3]
    assert slow.training == plain.training.model_copy(update={"learning_rate": 3e-4})
    assert slow.fingerprint != plain.fingerprint and slow.inputs == plain.inputs


def test_an_overview_is_the_first_of_the_views(finished, sft_stage, squares):
    """Mixed resolution: what is seen is kept by picture and grid."""
    tokens, image = sft_stage.model.connector.image_tokens, squares.tokenizer.image
    model = build_mm1(sft_stage, squares.tokenizer)
    load_weights(model, finished(sft_stage))
    picture = ScenePicture(sample_scene(Random(0), "train"))
    with torch.inference_mode():
        embedder = PromptEmbedder(model.eval(), False, 8)
        embedder.see([(picture, Grid(2, 2)), (picture, WHOLE)])
        whole = embedder.embed(Segment((image,) * 5 * tokens, ((picture, Grid(2, 2)),)))
        overview = embedder.embed(Segment((image,) * tokens, ((picture, WHOLE),)))
    assert torch.allclose(whole[:tokens], overview, atol=1e-5)
