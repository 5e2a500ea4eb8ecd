"""A golden micro-run: a few steps of each kind of stage, each connector, the world's samples, and what a model answers
and scores are as stored.

A change of behaviour without a new VERSION would let old results pass for new ones. `UPDATE_GOLDEN=1 pytest
tests/test_golden.py` rewrites what is stored after a change that was meant.
"""

import csv
import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any, get_args

import numpy as np
import pytest
import torch
from PIL import Image

from mm1_lab.config import (
    SOURCES,
    WORLD_DATA,
    BenchmarkConfig,
    BenchmarkFiles,
    ConnectorConfig,
    DataIdentity,
    DecoderStage,
    DecoderTraining,
    EncoderStage,
    EncoderTraining,
    EvaluationSettings,
    MultimodalStage,
    MultimodalTraining,
    Phase,
    Recipe,
    SftRecipe,
    SftStage,
    SftTraining,
    Shape,
    Size,
    Stage,
    load_scale,
)
from mm1_lab.config.recipe import INSTRUCTIONS, Lora
from mm1_lab.data.packing import Packer, first_fit
from mm1_lab.data.pixels import DECODING_VERSION, ImageDecoder, StoredPicture
from mm1_lab.data.shards import Shards
from mm1_lab.data.shards.datafile import Entry
from mm1_lab.data.shards.index import INDEX_VERSION, index_file
from mm1_lab.data.shards.readers import READERS
from mm1_lab.data.shards.rows import ROWS_VERSION
from mm1_lab.data.shards.shards import CONVERSATIONS_VERSION
from mm1_lab.data.types import Data, Limits
from mm1_lab.data.world import World
from mm1_lab.data.world.words import NUMBERS, WorldTokenizer
from mm1_lab.evaluate.benchmarks import benchmarks_for
from mm1_lab.evaluate.chosen import CHOSEN_VERSION
from mm1_lab.evaluate.metrics import METRICS, further, score
from mm1_lab.evaluate.named import build_benchmark, open_benchmark
from mm1_lab.evaluate.questions import Benchmark, Question
from mm1_lab.evaluate.run import evaluate
from mm1_lab.evaluate.world import world_benchmarks
from mm1_lab.model import CONNECTORS, build_connector, build_mm1, save_weights
from mm1_lab.train.stages import run_stage
from tests.conftest import SCALES, evaluation_of

GOLDEN = Path(__file__).parent / "golden"
TOLERANCE = 1e-4
"""Relative: other processors and versions of torch stay within it, another formula does not."""

SIZE = Size(layers=2, width=16, heads=2)
SHARED = {"seed": 3, "data": DataIdentity(digest="squares"), "precision": "32-true", "compile": False}
RATE = {"learning_rate": 3e-3, "steps": 5, "warmup_fraction": 0.2}
ENCODER = EncoderStage(
    **SHARED,
    size=SIZE,
    patch=6,
    image_size=24,
    synthetic_share=0.5,
    training=EncoderTraining(**RATE, batch_size=6, text=Size(layers=1, width=16, heads=2)),
)
DECODER = DecoderStage(
    **SHARED,
    size=SIZE,
    training=DecoderTraining(
        **RATE,
        prompt_loss_weight=0.1,
        phases=(Phase(share=0.6, sequence_length=24, batch_size=3), Phase(share=0.4, sequence_length=48, batch_size=2)),
    ),
)
MULTIMODAL = MultimodalStage(
    **SHARED,
    encoder=ENCODER,
    decoder=DECODER,
    image_size=36,
    connector=ConnectorConfig(kind="c-abstractor", image_tokens=4, width=16),
    shares={"captions": 0.6, "text": 0.4},
    sequence_length=48,
    max_images=3,
    frozen=(),
    blind=False,
    training=MultimodalTraining(**RATE, batch_size=3),
)
SFT = SftStage(
    **SHARED,
    model=MULTIMODAL,
    shares={"colours": 0.6, "shapes": 0.4},
    image_size=36,
    views=5,
    frozen=(),
    training=SftTraining(**RATE, batch_size=5, sequence_length=96, max_images=20),
)


def stored(name: str, found: dict[str, Any]) -> Any:
    path = GOLDEN / f"{name}.json"
    if os.environ.get("UPDATE_GOLDEN") == "1":
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    golden = json.loads(path.read_text(encoding="utf-8"))
    assert golden.get("version") == found.get("version"), f"{name}: a new version; store it with UPDATE_GOLDEN=1"
    return golden


def unless_meant(what: str, version: str, where: str = "mm1_lab/config/stages") -> str:
    told = f"{what} otherwise than before; if that is meant, raise {version} in {where}"
    return f"{told} and store it with UPDATE_GOLDEN=1"


def digests_of(found: dict[str, Any]) -> dict[str, str]:
    return {name: hashlib.sha256(repr(value).encode()).hexdigest()[:16] for name, value in found.items()}


@pytest.fixture
def micro_run(squares: Data, tmp_path: Path) -> Callable[[Stage], Path]:
    """Runs a stage after its inputs and gives its folder."""

    def run(stage: Stage) -> Path:
        inputs = {name: run(needed) for name, needed in stage.inputs.items()}
        folder = tmp_path / stage.KIND
        folder.mkdir()
        run_stage(stage, folder, inputs, squares, lambda progress: None)
        return folder

    return run


SINGLE = SIZE.model_copy(update={"experts": 4, "experts_per_token": 1})
RUNS = {
    "encoder": (ENCODER, "VERSION"),
    "reconstructive": (ENCODER.model_copy(update={"objective": "reconstructive"}), "RECONSTRUCTIVE_VERSION"),
    "decoder": (DECODER, "VERSION"),
    "single": (DECODER.model_copy(update={"size": SINGLE}), "SINGLE_VERSION"),
    "multimodal": (MULTIMODAL, "VERSION"),
    "sft": (SFT, "VERSION"),
}
"""Stages, and which of their versions is raised if nothing else changes."""


@pytest.mark.parametrize("name", RUNS)
def test_micro_run(name: str, micro_run: Callable[[Stage], Path]) -> None:
    stage, version = RUNS[name]
    with (micro_run(stage) / "training.csv").open() as file:
        losses = {f"{row['step']} {row['name']}": float(row["value"]) for row in csv.DictReader(file)}

    golden = stored(name, {"version": getattr(stage, version), "losses": losses})
    kept = {name: losses.get(name) for name in golden["losses"]}  # a diagnostic may be new
    told = unless_meant(f"a {name} stage behaves", f"{type(stage).__name__}.{version}")
    assert kept == pytest.approx(golden["losses"], rel=TOLERANCE), told


OTHER = {
    "learning_rate": 1e-3,
    "steps": 4,
    "warmup_fraction": 0.6,
    "min_lr_ratio": 0.5,
    "weight_decay": 9.0,
    "max_grad_norm": 0.01,
    "betas": (0.5, 0.6),
    "optimiser": "adafactor",
    "batch_size": 4,
    "lr_multipliers": {"decoder": 0.5},
    "text": SIZE,
    "phases": (Phase(share=1, sequence_length=24, batch_size=3),),
    "prompt_loss_weight": 0.9,
}
"""Another value of each setting of training (`config/scale.py`)."""
OF_PRETRAINING = {
    "shares": {"captions": 1.0},
    "frozen": ("decoder",),
    "lora": {"decoder": Lora(rank=2, alpha=4.0)},
    "blind": True,
    "shuffled": True,
    "data_order": 1,
    "stop_after": 3,
}
"""The same of a stage's own fields, without parts, rows, kernels and whatever else the other tests are about."""
OTHERS = "encoder decoder connector image_size sequence_length max_images drop_overlong attention start aligns training"


@pytest.mark.parametrize("stage", [ENCODER, DECODER, MULTIMODAL], ids=lambda stage: stage.KIND)
def test_every_setting_changes_what_is_trained(stage: Any, squares: Data, tmp_path: Path) -> None:
    """Arms that differ in what training ignores would be one model under two names."""

    def curve(one: Stage, name: str) -> str:
        folder = tmp_path / name
        folder.mkdir()
        run_stage(one, folder, {field: tmp_path / field for field in one.inputs}, squares, lambda progress: None)
        return (folder / "training.csv").read_text(encoding="utf-8")

    for field, needed in stage.inputs.items():
        curve(needed, field)
    usual = curve(stage, "usual")
    changed = {}
    for name in type(stage.training).model_fields:
        if name != "synthetic_share":  # which the stage has from its recipe
            assert name in OTHER, f"a new setting: another value of {name} in OTHER"
            training = stage.training.model_copy(update={name: OTHER[name]})
            changed[name] = stage.model_copy(update={"training": training})
    if stage is MULTIMODAL:
        known = {*OF_PRETRAINING, *OTHERS.split(), *Stage.model_fields}
        assert known == set(MultimodalStage.model_fields), "a new field: another value of it in OF_PRETRAINING"
        changed |= {name: stage.model_copy(update={name: value}) for name, value in OF_PRETRAINING.items()}
    for name, other in changed.items():
        assert curve(other, name) != usual, f"nothing in mm1_lab/train reads {name}"


def test_connectors() -> None:
    """The image tokens of each; stages run the C-Abstractor alone."""
    found = {}
    for kind in CONNECTORS:
        patches = 4 if kind == "mlp" else 16
        connector = build_connector(ConnectorConfig(kind=kind, image_tokens=4, width=12), 8, 8, patches)
        random = np.random.default_rng(0)  # whose numbers other versions of torch do not change
        for parameter in connector.parameters():
            parameter.data = torch.tensor(random.normal(size=parameter.shape), dtype=torch.float32)
        features = torch.tensor(random.normal(size=(1, patches, 8)), dtype=torch.float32)
        found[kind] = connector(features)[0].mean(dim=1).tolist()
    golden = stored("connectors", found)
    assert golden.keys() == found.keys(), "a connector is new: store its tokens with UPDATE_GOLDEN=1"
    for kind, tokens in golden.items():
        told = unless_meant(f"{kind} computes", "the VERSION of MultimodalStage and of SftStage")
        assert found[kind] == pytest.approx(tokens, rel=TOLERANCE), told


def test_samples_of_the_world() -> None:
    world = World()
    questions = world_benchmarks(EvaluationSettings(questions=16, batch_size=1), seed=3)
    samples: dict[str, Any] = {name: [world.source(name, 3).document(index) for index in range(30)] for name in SOURCES}
    short, long = (world.pretraining_text(3, length) for length in (64, 256))
    samples["pretraining"] = [*short.documents(0, 0.1), *long.documents(1, 0.9)]
    pairs = [world.pairs(3).pair(index, dense=index % 2 > 0) for index in range(30)]
    samples["pairs"] = pairs
    for name in INSTRUCTIONS:
        source = world.instructions(name, 3, Limits(256, 9, 16))
        samples[f"instructions {name}"] = [source.document(index) for index in range(30)]
    samples |= {f"questions of {one.name}": [one.blocks, one.demonstrations] for one in questions}
    digests = digests_of(samples)
    light = [float(picture.pixels(36).mean()) for picture, _ in pairs]
    golden = stored("world", {"version": WORLD_DATA.digest, "samples": digests, "light": light})
    told = unless_meant("the world draws its samples", "PAIRS_VERSION or REST_VERSION")
    assert {name: digests.get(name) for name in golden["samples"]} == golden["samples"], told
    assert light == pytest.approx(golden["light"], rel=TOLERANCE), told


def test_rows_and_conversations_of_users_data(tmp_path: Path) -> None:
    """What is held out, how documents are cut and which share a row; what counts in the loss of conversations."""
    random = np.random.default_rng(0)
    texts = [" ".join(map(str, random.integers(0, 10, size=size))) for size in random.integers(3, 160, size=80)]
    turns = [{"from": "human", "value": "How many?"}, {"from": "gpt", "value": "Three."}] * 2
    chats = [{"conversations": [*turns, {"from": "human", "value": f"{n}?"}, turns[1]]} for n in range(9)]
    for name, content in {"text": [{"text": text} for text in texts], "chat": chats}.items():
        lines = "".join(json.dumps({"id": str(number), **row}) + "\n" for number, row in enumerate(content))
        (tmp_path / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    path = tmp_path / "data.yaml"
    path.write_text("text: text.jsonl\ninstructions: [chat.jsonl]\n", encoding="utf-8")
    data = Shards(path, tmp_path / "cache", load_scale("smoke", SCALES))
    packed = data.rows("text", data.limits)
    tuning = data.instructions("chat", 0, data.limits)
    packer = Packer(data.tokenizer, data.limits, prompt_loss_weight=0.0, ends_answers=True, is_planned=True)
    conversation = packer.pack([tuning.document(0)])
    sizes = [tuple(pair) for pair in random.integers(1, (99, 5), size=(60, 2)).tolist()]
    rows = [[document.key for document in packed.documents(row)] for row in range(len(packed))]
    held_out = [document.key for document in data.held_out("text", 99)]
    with_images = first_fit(range(60), sizes, Limits(100, 1, 6), most_open=4)
    counted = conversation.weights[conversation.documents > 0].tolist()
    found = {"rows": rows, "held out": held_out, "rows with images": with_images, "loss of a conversation": counted}
    golden = stored("rows", {"version": [ROWS_VERSION, CONVERSATIONS_VERSION], "digests": digests_of(found)})
    told = unless_meant("rows are packed", "CHUNKS_, ROWS_ or CONVERSATIONS_VERSION", "mm1_lab/data/shards")
    assert digests_of(found) == golden["digests"], told


def test_evaluation(tmp_path: Path) -> None:
    """A tuned model of fixed weights writes what it wrote before, and made answers score what they scored."""
    stage = evaluation_of("evaluate.questions=12", "evaluate.shots=[0, 2]", recipe=Recipe(sft=SftRecipe()))
    world = World()
    model = build_mm1(stage.model, world.tokenizer)
    random = np.random.default_rng(0)
    for parameter in model.parameters():
        parameter.data = torch.tensor(random.normal(size=parameter.shape), dtype=torch.float32)
    save_weights(model, tmp_path, stage.model)
    result = evaluate(stage, tmp_path, world, lambda progress: None)
    rows, made = defaultdict(list), {}
    for row in result.scores:
        rows[f"{row.benchmark} {row.shots}-shot"].append(row.prediction)
    written = digests_of(rows)
    for benchmark in benchmarks_for(world, stage.settings, stage.seed, tuned=True):
        references = [question.references[0] for question in benchmark.questions]
        # some right, some with words too many or too few, and some of another question
        answers = [
            references,
            [f"{one} there" for one in references],
            [one[:-2] for one in references],
            references[::-1],
        ]
        for one in (benchmark, *further(benchmark)):
            made[one.name] = [fmean(score(one, some)) for some in answers]
    found = {"version": [stage.VERSION, stage.TUNED_VERSION], "written": written, "scores": made}
    golden = stored("evaluation", found | {"losses": result.held_out_loss})
    told = unless_meant("an evaluation answers or scores", "EvaluationStage.VERSION")
    assert written == golden["written"], told
    assert result.held_out_loss == pytest.approx(golden["losses"], rel=TOLERANCE), told
    assert made.keys() == golden["scores"].keys(), told
    for name, scores in golden["scores"].items():
        assert made[name] == pytest.approx(scores, rel=TOLERANCE), f"{name}: {told}"


def test_points_of_users_answers() -> None:
    """By each metric, of answers that are right, nearly so, in other words, and wrong."""
    choices = ("red", "dark blue", "5 %")
    said = ("red", "Red.", "B", "the answer is 5 %", "5.2", "a dark blue", "not sure", "no, never", "", "１２", "ride")
    wanted = ("red", "red", "dark blue", "5 %", "5", "dark blue", "yes", "no", "red", "12", "rides")
    questions = []
    for number, answer in enumerate(wanted):
        offered = choices if answer in choices else (answer, "no")
        questions.append(Question(str(number), "question", (), "?", (answer,) * 10, answer, offered))
    versions, points = {}, {}
    for name, metric in METRICS.items():
        benchmark = Benchmark(name, "vqa", "own", name, (tuple(questions),), ((),), ("\n",), 8, official=True)
        versions[name] = metric.scored_anew
        points[name] = " ".join(f"{one:.4g}" for one in score(benchmark, said))
    golden = stored("metrics", {"version": versions, "points": points})
    told = unless_meant("a metric scores users' answers", "its `scored_anew`", "mm1_lab/evaluate/metrics.py")
    assert points == golden["points"], told


def test_what_is_read_of_users_files(tmp_path: Path) -> None:
    """Samples of each reader, the questions of a benchmark, the pixels of a picture."""
    noise = np.random.default_rng(0).integers(0, 256, (30, 48, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "1.png")
    turns = [{"from": "human", "value": "<image>Which?"}, {"from": "gpt", "value": " Red. "}]
    rows = {
        "text": {"text": " One text. "},
        "pairs": {"image": "1.png", "captions": ["Noise", " Grey "]},
        "pages": {"images": ["1.png", None, None], "texts": [None, "This", "and that"]},
        "conversations": {"image": "1.png", "conversations": turns},
    }
    samples = {}
    for reader, row in rows.items():
        path = tmp_path / f"{reader}.jsonl"
        path.write_text(json.dumps({"id": "7", **row}) + "\n", encoding="utf-8")
        (file,) = Entry(file=path.name).find(tmp_path, reader)
        samples[reader] = index_file(file, tmp_path / "cache").samples.to_pylist()
    assert samples.keys() == READERS.keys(), "a reader is new: a row for it"
    lines = [{"image": "1.png", "question": f"what is {n}", "answers": [str(n)], "id": f"{n}"} for n in NUMBERS]
    for name, some in (("asked", lines[:12]), ("shown", lines[12:])):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, some)), encoding="utf-8")
    files = BenchmarkFiles(questions="shown.jsonl")
    prompt = "question : {question} ? answer :"
    config = BenchmarkConfig(name="b", questions="asked.jsonl", metric="exact", demonstrations=files, prompt=prompt)
    settings = EvaluationSettings(questions=10, batch_size=1, shots=(0, 2))
    built = build_benchmark(open_benchmark(config, tmp_path, "b", "squeeze"), settings, WorldTokenizer())
    asked = [[question.key, question.prompt] for question in (*built.questions, *sum(built.demonstrations, ()))]
    light = {}
    for shape in get_args(Shape):
        picture = StoredPicture("1", (tmp_path / "1.png").read_bytes, ImageDecoder(shape), key=1)
        light[shape] = picture.pixels(24).mean(axis=(1, 2)).tolist()
    version = {"INDEX_": INDEX_VERSION, "CHOSEN_": CHOSEN_VERSION, "DECODING_": DECODING_VERSION}
    digests = digests_of({"INDEX_": samples, "CHOSEN_": [asked, built.new_tokens, built.note]})
    golden = stored("files", {"version": version, "digests": digests, "light": light})
    for name, found in digests.items():
        assert found == golden["digests"][name], unless_meant("users' files are read", f"{name}VERSION", "mm1_lab")
    for shape, rows_of_light in golden["light"].items():
        told_of_pixels = unless_meant("pixels are made", "DECODING_VERSION", "mm1_lab/data/pixels.py")
        assert light[shape] == pytest.approx(rows_of_light, rel=0.01), told_of_pixels
