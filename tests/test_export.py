"""A trained arm as a Hugging Face folder: other people's tools get our evaluation's answers, and damage is refused."""

import json
import os
import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

from mm1_lab.cli import main
from mm1_lab.config import ALLOWED, Pretrained, RequestError, Size, load_scale
from mm1_lab.config.own_connectors import read_connectors
from mm1_lab.data.batches import ConversationBatches, make_batch
from mm1_lab.data.packing import Packer
from mm1_lab.data.pixels import ImageDecoder
from mm1_lab.data.tokenizers import folder_tokenizer
from mm1_lab.data.types import Answer, Limits
from mm1_lab.data.world import World
from mm1_lab.evaluate.benchmarks import benchmarks_for
from mm1_lab.evaluate.embedder import PromptEmbedder
from mm1_lab.evaluate.generation import cut_answer
from mm1_lab.evaluate.prompts import PromptWriter
from mm1_lab.evaluate.questions import SHORTEST_LIMIT, Question
from mm1_lab.model import MM1, MM1ForConditionalGeneration, MM1Processor, build_mm1, write_code
from mm1_lab.model.decoder import load_decoder, make_decoder
from mm1_lab.model.mm1 import load_mm1
from mm1_lab.orchestrate.conversation import Chat, open_image
from mm1_lab.orchestrate.exporting import export_trial
from mm1_lab.orchestrate.planning.loading import load_request
from mm1_lab.orchestrate.planning.plan import make_plan
from mm1_lab.orchestrate.planning.request import Request
from mm1_lab.results.trained import what_ran
from mm1_lab.train.stages import run_stage
from mm1_lab.weights.pretrained import HuggingFace, text_config
from mm1_lab.weights.stored import load_weights, save_weights
from tests import pretrained as saved
from tests.conftest import REPOSITORY, Place, Refused, Told, change, make_place, run_python
from tests.data.conftest import Files
from tests.evaluate.published import write_coco
from tests.small import small_mm1
from tests.test_lab import shrunk

ANSWER = "a red circle"
SWEEP = ("data_mix", "--scale", "smoke", "--only", "base")

pytestmark = pytest.mark.usefixtures("unrendered")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, finished: Place) -> Path:
    """Where the base was run at smoke and exported whole and in parts; the folders are not to be changed."""
    place = shutil.copytree(finished.folder, tmp_path_factory.mktemp("exports") / "place")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        for form in ("mm1", "decoder"):
            assert main(["export", *SWEEP, "--as", form, form]) == 0
    return place


@pytest.fixture(scope="module")
def model(place: Path) -> MM1ForConditionalGeneration:
    return AutoModelForImageTextToText.from_pretrained(place / "mm1").eval()


@pytest.fixture(scope="module")
def processor(place: Path) -> MM1Processor:
    return AutoProcessor.from_pretrained(place / "mm1")


def is_of(folder: Path, trial: str) -> bool:
    """Whether a trial's folder is that of this arm and seed."""
    return trial in json.loads((folder / "record.json").read_text(encoding="utf-8"))["trials"]


def pictures(question: Question, side: int) -> list[Image.Image]:
    return [Image.fromarray(picture.pixels(side)) for picture in question.pictures]


def test_a_loaded_folder_gives_the_answers_of_the_evaluation(
    place: Path, model: MM1ForConditionalGeneration, processor: MM1Processor
) -> None:
    """Over a hundred questions of every benchmark, without demonstrations and after four, in padded batches."""
    (base,) = (path for path in place.glob("results/local/trials/*") if is_of(path, "base / seed 0"))
    scores = pd.read_parquet(base / "scores.parquet")
    settings = load_scale("smoke", place / "sweeps" / "scales").evaluate
    compared, told = 0, set()
    for benchmark in benchmarks_for(World(), settings):
        for shots in (0, 4):
            rows = scores[(scores["benchmark"] == benchmark.name) & (scores["shots"] == shots)]
            expected = dict(zip(rows["question"], rows["prediction"], strict=True))
            texts, images, keys = [], [], []
            for block, questions in enumerate(benchmark.blocks):
                shown = benchmark.demonstrations[block][:shots]
                before = "".join(
                    f"{'<image>' * len(one.pictures)} {one.prompt} {one.shown} {benchmark.stop[0]} " for one in shown
                )
                for question in questions:
                    texts.append(f"{before}{'<image>' * len(question.pictures)} {question.prompt}")
                    images.append([image for one in (*shown, question) for image in pictures(one, processor.side)])
                    keys.append(question.key)
            batch = processor(images=images, text=texts)
            out = model.generate(**batch, max_new_tokens=benchmark.new_tokens)
            new = processor.batch_decode(out[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
            found = [cut_answer(f" {text} ", tuple(f" {word} " for word in benchmark.stop)) for text in new]
            assert dict(zip(keys, found, strict=True)) == {key: expected[key] for key in keys}, (benchmark.name, shots)
            compared, told = compared + len(keys), told | set(found)
    assert compared >= 100 and len(told) > 5


@pytest.mark.usefixtures("here")
def test_the_card_s_code_runs(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also that of a model whose evaluation is still missing."""
    Image.new("RGB", (40, 30)).save("picture.jpg")
    store = str(place / "results" / "local" / "store")
    assert main(["export", *SWEEP, "--results", "empty", "--store", store, "trained"]) == 0
    for folder in (place / "mm1", Path("trained")):
        card = (folder / "README.md").read_text(encoding="utf-8")
        assert ("It has not been evaluated." in card) == (folder.name == "trained")
        assert not re.search(r"\| -\d", card), "no score is below 0"
        capsys.readouterr()
        exec(card.split("```python")[1].split("```")[0], {"FOLDER": str(folder.resolve())})
        assert capsys.readouterr().out.startswith("['")


def test_the_library_loads_an_export_by_this_package_s_code_alone(place: Path) -> None:
    """After the import that the card, the documentation and the adapter for lmms-eval name."""
    adapter = (REPOSITORY / "contrib" / "lmms_eval_mm1" / "lmms_eval_mm1" / "model.py").read_text(encoding="utf-8")
    documents = (place / "mm1" / "README.md", REPOSITORY / "docs" / "extending.md")
    texts = [adapter, *(path.read_text(encoding="utf-8") for path in documents)]
    said = [re.findall(r"import\s+mm1_lab\.model[.\w]*", text) for text in texts]
    (statement,) = {" ".join(one.split()) for (one,) in said}
    load = """
import sys
from transformers import AutoModelForImageTextToText, AutoProcessor
for kind in AutoModelForImageTextToText, AutoProcessor:
    print(type(kind.from_pretrained(sys.argv[1])).__module__)
"""
    ran = run_python(statement + load, str(place / "mm1"))
    assert ran.stdout.split() == ["mm1_lab.model.modeling_mm1", "mm1_lab.model.processing_mm1"], ran.stderr


ELSEWHERE = """
import sys
sys.modules["mm1_lab"] = None  # as where the package is not installed
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor
folder, own, picture, out = sys.argv[1:]
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
batch = processor(images=[picture, Image.open(picture)], text=["<image> a", "a large red <image>"])
results = dict(batch)
for dtype in (torch.float32, torch.bfloat16):
    model = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True, dtype=dtype).eval()
    assert {one.dtype for one in model.parameters()} == {dtype}
    assert type(model).__module__.startswith("transformers_modules")
    with torch.inference_mode():
        results[str(dtype)] = model(**batch).logits
        results[f"images {dtype}"] = model.get_image_features(batch["pixel_values"])
        results[f"written {dtype}"] = model.generate(**batch, max_new_tokens=5)
own = AutoModelForImageTextToText.from_pretrained(own, trust_remote_code=True)
with torch.inference_mode():
    results["own"] = own.get_image_features(torch.full((1, 3, 24, 24), 9, dtype=torch.uint8))
torch.save(results, out)
"""
OWN = """
import torch
from torch import nn
from mm1_lab.model.connectors import connector

@connector("own")
class Encoder(nn.Module):
    def __init__(self, config, encoder_width, decoder_width, patches):
        super().__init__()
        self.register_buffer("places", torch.arange(patches) % 7.0, persistent=False)
        self.project = nn.Linear(encoder_width, decoder_width)

    def forward(self, features):
        return self.project(features + self.places[:, None])[:, :4]
"""


def save_own(folder: Path, monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    """A model with a connector from a user's file, as it is exported; gives the features of a grey picture."""
    folder.mkdir()
    (folder / "mine.py").write_text(OWN, encoding="utf-8")
    own = read_connectors(folder / "mine.py")
    monkeypatch.setitem(ALLOWED, own.digest, own)
    size = Size(layers=1, width=16, heads=2)
    model = MM1ForConditionalGeneration(small_mm1(size, size, f"own@{own.digest}", 50, 64, 3).config)
    model.save_pretrained(folder)
    (folder / "processor_config.json").write_text("{}")
    write_code(folder, own)
    with torch.no_grad():
        return model.get_image_features(torch.full((1, 3, 24, 24), 9, dtype=torch.uint8))


def test_a_folder_is_used_where_the_package_is_not_installed(
    place: Path, processor: MM1Processor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own code gives the pixels, logits and answers of this package's, in single and in half precision.

    A user's connector in it may have the name of one of its classes, and buffers that are in no file.
    """
    Image.effect_noise((50, 40), 90).convert("RGB").save(tmp_path / "picture.png")
    folder = shutil.copytree(place / "mm1", tmp_path / "elsewhere")
    features = save_own(tmp_path / "own", monkeypatch)
    given = (str(folder), str(tmp_path / "own"), str(tmp_path / "picture.png"), str(tmp_path / "out.pt"))
    changes = {"HF_HOME": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}
    ran = run_python(ELSEWHERE, *given, folder=tmp_path, **changes)
    assert ran.returncode == 0, ran.stderr
    found = torch.load(tmp_path / "out.pt")
    torch.testing.assert_close(found["own"], features)
    batch = processor(images=[given[2]] * 2, text=["<image> a", "a large red <image>"])
    assert all(torch.equal(batch[name], found[name]) for name in ("input_ids", "attention_mask", "pixel_values"))
    for dtype in (torch.float32, torch.bfloat16):
        ours = AutoModelForImageTextToText.from_pretrained(place / "mm1", dtype=dtype).eval()
        with torch.inference_mode():
            assert torch.allclose(ours(**batch).logits, found[str(dtype)], atol=1e-4)
            written = ours.generate(**batch, max_new_tokens=5)
        assert torch.equal(written, found[f"written {dtype}"])
        assert found[f"images {dtype}"].shape == (2, processor.image_tokens, ours.config.text_config.hidden_size)
        if dtype == torch.float32:
            with torch.inference_mode():  # as training reads them
                expected = MM1.embed(as_trained(ours), batch["input_ids"], batch["pixel_values"])
            images = found[f"images {dtype}"].flatten(0, 1)
            assert torch.allclose(expected[batch["input_ids"] == ours.image_id], images, atol=1e-4)


def test_beams_see_the_pictures_of_their_own_text(model: MM1ForConditionalGeneration, processor: MM1Processor) -> None:
    """The library would repeat pictures one by one, as if each text had one."""
    pictures = [Image.new("RGB", (40, 40), colour) for colour in ("red", "white", "blue")]
    batch = processor(images=pictures, text=["<image> a", "<image> a <image>"])
    _, repeated = model._expand_inputs_for_generation(2, **batch)
    assert torch.equal(repeated["pixel_values"], batch["pixel_values"][[0, 0, 1, 2, 1, 2]])
    assert model.generate(**batch, max_new_tokens=3, num_beams=2).shape[0] == 2


def as_trained(model: MM1ForConditionalGeneration) -> MM1:
    """The model of training with the same weights."""
    trained = MM1(model.config).eval()
    trained.load_state_dict(model.state_dict())
    return trained


def test_an_exported_decoder_is_a_pretrained_model(place: Path, model: MM1ForConditionalGeneration) -> None:
    """Read as others' models are, it computes what it computed within the model."""
    language = HuggingFace().decoder(Pretrained(weights=str(place / "decoder")))
    decoder = make_decoder(text_config(language, language.vocabulary)).eval()
    load_decoder(decoder, language)
    described = "a large red circle is at top-left ."
    tokenizer = folder_tokenizer(place / "decoder")
    assert tokenizer.encode(described) == World().tokenizer.encode(described)
    ids = torch.tensor([tokenizer.encode(described)])
    with torch.no_grad():
        assert torch.equal(decoder(ids).logits, model.decoder(ids).logits)
    library = AutoModelForCausalLM.from_pretrained(place / "decoder").eval()  # as lm-eval loads it
    ids = AutoTokenizer.from_pretrained(place / "decoder")(described, return_tensors="pt")
    assert ids["input_ids"].tolist() == [[tokenizer.begin, *tokenizer.encode(described)]]
    with torch.no_grad():
        assert torch.equal(library(**ids).logits, decoder(ids["input_ids"]).logits)


@pytest.mark.parametrize("tuned", [False, True])
def test_an_instruct_decoder_chats_as_before(tuned: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In its own form and up to any of its end tokens, unless it was tuned on conversations of another form.

    Windows that its family ignores are not exported; versions that kept them trained models in whose configuration they
    are, with which the library's cache forgot what came before.
    """
    monkeypatch.chdir(make_place(tmp_path / "place").folder)
    clip, llama = saved.save_encoder("clip", tmp_path / "clip"), saved.save_decoder("llama", tmp_path / "llama")
    (llama / "chat_template.jinja").write_text("{{ messages[0]['content'] }}</s>")
    (llama / "generation_config.json").write_text('{"eos_token_id": [7, 1]}')
    request = load_request("sft_data_mix" if tuned else "data_mix", "lab", only=("base",), settings=shrunk(clip, llama))
    (trial,) = request.trials
    stage = trial.evaluation.model
    assert stage.tuned == tuned
    save_weights(build_mm1(stage, request.open_data().tokenizer), tmp_path / "stage", stage)
    config = tmp_path / "stage" / "config.json"
    values = json.loads(config.read_text(encoding="utf-8"))
    values["text_config"] |= {"sliding_window": 5, "layer_types": ["sliding_attention"] * 2}
    config.write_text(json.dumps(values))
    monkeypatch.setattr(Request, "weights_of", lambda *_: tmp_path / "stage")
    for form in ("mm1", "decoder"):
        export_trial(request, trial, form, tmp_path / form, "")
        written = (tmp_path / form / "config.json").read_text(encoding="utf-8")
        assert "sliding" not in written and "layer_types" not in written
    ends = AutoModelForCausalLM.from_pretrained(tmp_path / "decoder").generation_config.eos_token_id
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "decoder")
    assert ends == (1 if tuned else [1, 7])
    assert tokenizer.chat_template == (None if tuned else "{{ messages[0]['content'] }}</s>")
    for name in ("chat_template.jinja", "generation_config.json"):  # as of a base model
        (llama / name).unlink()
    export_trial(request, trial, "decoder", tmp_path / "plain", "")
    assert AutoTokenizer.from_pretrained(tmp_path / "plain").chat_template is None


def test_experts_of_any_width_run_in_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its grouped product takes rows of a multiple of 16 bytes only. Tuning and its plan take the exported one, too."""
    monkeypatch.chdir(make_place(tmp_path).folder)
    request = load_request("moe", "smoke", only=("experts",), settings=("decoders.302M-MoE.feed_forward=21",))
    (trial,), tokenizer = request.trials, World().tokenizer
    stage = trial.evaluation.model
    trained = build_mm1(stage, tokenizer).eval()
    save_weights(trained, tmp_path / "stage", stage)
    monkeypatch.setattr(Request, "weights_of", lambda *_: tmp_path / "stage")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # as of a shared expert without weights
        for form in ("mm1", "decoder"):
            export_trial(request, trial, form, tmp_path / form, "")
    ids = torch.tensor([tokenizer.encode("a large red circle is at top-left .")])
    with torch.no_grad():
        expected = trained.decoder(ids).logits
        whole = AutoModelForImageTextToText.from_pretrained("mm1", trust_remote_code=True).eval()
        for model in (whole, AutoModelForCausalLM.from_pretrained("decoder").eval()):
            torch.testing.assert_close(model(input_ids=ids).logits, expected)
            assert model.bfloat16()(input_ids=ids).logits.isfinite().all()
            # the weight of training, and none while nobody asks for it
            text = model.config.get_text_config()
            assert text.router_aux_loss_coef == 0.01 and not text.output_router_logits
    assert AutoTokenizer.from_pretrained("decoder")("red circle")["input_ids"][1:] == tokenizer.encode("red circle")

    (tmp_path / "sweeps" / "tuned.yaml").write_text(TUNED, encoding="utf-8")
    tuned = load_request("sweeps/tuned.yaml", "smoke", only=("exported",)).trials[0].evaluation.model
    assert tuned.parameters() == stage.parameters()
    with torch.no_grad():
        torch.testing.assert_close(load_mm1(tuned, tmp_path / "mm1", tokenizer).decoder(ids).logits, expected)


TUNED = """
title: A model that is there already
recipe: sft
arms:
  exported: {sft: {start: mm1}}
  here: {}
"""


@pytest.mark.usefixtures("few_documents")
def test_a_tuned_model_reads_turns_as_in_training(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits of a conversation in the library's hands are those of the packed row in which tuning reads it."""
    monkeypatch.chdir(place)
    text = TUNED.replace("start: mm1", "start: mm1, mixture: {charts: 1, conversations: 1}")
    (place / "sweeps" / "chatty.yaml").write_text(text, encoding="utf-8")
    given = ("sft.steps=40", "sft.learning_rate=0.005", "evaluate.shots=[0]")
    arm = ("chatty", "--scale", "smoke", "--only", "exported", *(part for text in given for part in ("--set", text)))
    assert main(["run", *arm, "--inline"]) == 0 and main(["export", *arm, "chatty"]) == 0
    model = AutoModelForImageTextToText.from_pretrained(place / "chatty").eval()
    processor = AutoProcessor.from_pretrained(place / "chatty")
    stage, world = load_request("chatty", "smoke", settings=given).trials[0].evaluation.model, World()
    packer, source = Packer.of(stage, world.tokenizer), world.instructions("conversations", 5, Limits.of(stage))
    spoken = next(one for one in map(source.document, range(50)) if len(one.pictures) == 1)
    turns: list[dict[str, Any]] = []
    for part in spoken.parts:
        if isinstance(part, Answer):
            turns.append({"role": "assistant", "content": part.removesuffix(" .")})
        elif isinstance(part, str):
            request = {"type": "text", "text": part.removeprefix("tell : ").removesuffix(" . say :")}
            turns.append({"role": "user", "content": [{"type": "image"}] * (not turns) + [request]})
    images = [Image.fromarray(picture.pixels(stage.image_size)) for picture in spoken.pictures]
    batch = processor(images=images, text=processor.apply_chat_template(turns))
    row = packer.pack_all([source.document(3), spoken], at_least=1)[0][0]
    own = row.documents == (1 if (row.documents == 1).sum() == batch["input_ids"].shape[1] else 2)
    assert batch["input_ids"][0].tolist() == row.tokens[own].tolist()
    packed = make_batch([row], ["conversations"], stage.image_size, False)
    with torch.inference_mode():
        logits = model(**batch).logits[0]
        expected = model.decoder.lm_head(as_trained(model)(packed).hidden[0, own])
    assert torch.allclose(logits, expected, atol=1e-4)

    chart = world.instructions("charts", 9, Limits.of(stage)).document(0)
    asked = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "the count of red"}]}]
    image = Image.fromarray(chart.pictures[0].pixels(stage.image_size))
    batch = processor(images=[image], text=processor.apply_chat_template(asked, add_generation_prompt=True))
    written = model.generate(**batch, max_new_tokens=20)[0, batch["input_ids"].shape[1] :].tolist()
    assert written[-1] == world.tokenizer.end and len(written) < 20, processor.decode(written)


def test_tuning_starts_from_an_export(
    place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, printed: Told
) -> None:
    """As from the stage that was exported, bit by bit; nothing else is left to run."""
    monkeypatch.chdir(place)
    (place / "sweeps" / "tuned.yaml").write_text(TUNED, encoding="utf-8")
    request = load_request("sweeps/tuned.yaml", "smoke")
    tuned, here = (trial.evaluation.model for trial in request.trials)
    shown = printed("show", "sweeps/tuned.yaml", "exported", "--scale", "smoke", "--json")
    recipe = json.loads(shown)["exported"]["recipe"]
    assert list(recipe) == ["sft"] and recipe["sft"]["start"] == "mm1", "what else the recipe says is not done"
    states = {name: planned.state for name, planned in make_plan(request.trials, request.ledger).stages.items()}
    assert states[tuned.fingerprint] == states[here.fingerprint] == "to run"
    assert sum(state in ("to run", "waits") for state in states.values()) == 4, "tuning and evaluation, of two trials"
    assert states[here.model.fingerprint] == "reused", "which was exported"
    assert tuned.parameters() == here.parameters()
    inputs = {"model": request.ledger.weights(here.model.fingerprint)}
    for stage, folders in ((tuned, {}), (here, inputs)):
        folder = tmp_path / stage.fingerprint
        folder.mkdir()
        run_stage(stage, folder, folders, World(), lambda progress: None)
    one, other = ((tmp_path / stage.fingerprint / "model.safetensors").read_bytes() for stage in (tuned, here))
    assert one == other
    finer = load_request("sweeps/tuned.yaml", "smoke", settings=("resolutions.336=48",)).trials[0].evaluation.model
    other = here.model_copy(update={"image_size": 48})
    built = [build_mm1(stage, World().tokenizer) for stage in (finer, other)]
    for model, folder in zip(built, (place / "mm1", inputs["model"]), strict=True):
        load_weights(model, folder)
    one, same = (model.state_dict() for model in built)
    assert built[0].encoder.patches == 64 and all(torch.equal(value, same[name]) for name, value in one.items())


AS_IS = """
title: Models as they were exported
recipe: sft
arms:
  pre-trained: {sft: {start: mm1, steps: 0}}
  tuned: {sft: {start: single, steps: 0}}
"""


@pytest.mark.usefixtures("few_documents")
def test_an_exported_model_evaluated_as_it_is(place: Path, monkeypatch: pytest.MonkeyPatch, refused: Refused) -> None:
    """A pre-trained one, and one tuned in a single stage: weights, scores and losses are those of what was exported."""
    monkeypatch.chdir(place)
    once = TUNED.replace("exported: {sft: {start: mm1}}", "single: {steps: 0}")
    for name, text in (("once", once), ("as_is", AS_IS)):
        (place / "sweeps" / f"{name}.yaml").write_text(text, encoding="utf-8")
    fewer = ("evaluate.shots=[0]",)  # questions than the base was asked before
    single = ("once", "--scale", "smoke", "--only", "single", "--set", *fewer)
    assert main(["run", *single, "--inline"]) == 0 and main(["export", *single, "single"]) == 0
    assert main(["run", *SWEEP, "--inline", "--set", *fewer]) == 0
    assert main(["run", "as_is", "--scale", "smoke", "--inline", "--set", *fewer]) == 0
    card = (place / "single" / "README.md").read_text(encoding="utf-8")
    for hint, text in (("{sft: {start: FOLDER}}", TUNED), ("{sft: {start: FOLDER, steps: 0}}", AS_IS)):
        assert hint in card and hint.replace("FOLDER", "mm1") in text, "what is pasted runs"

    (trial,) = load_request("once", "smoke", only=("single",), settings=fewer).trials
    request = load_request("as_is", "smoke", settings=fewer)
    joined = trial.evaluation.model.model
    whole = load_file(request.ledger.weights(joined.fingerprint) / "model.safetensors")
    for part, stage in joined.inputs.items():
        for name, values in load_file(request.ledger.weights(stage.fingerprint) / "model.safetensors").items():
            assert torch.equal(values, whole[f"{part}.{name}"]), "no step is taken"

    exported = (load_request("data_mix", "smoke", only=("base",), settings=fewer).trials[0], trial)
    for own, as_is in zip(exported, request.trials, strict=True):
        folders = [request.ledger.trial_folder(one.fingerprint) for one in (own, as_is)]
        scores, same = (pd.read_parquet(folder / "scores.parquet") for folder in folders)
        pd.testing.assert_frame_equal(scores, same)
        assert (folders[0] / "held_out.csv").read_text() == (folders[1] / "held_out.csv").read_text()
        records = [json.loads((folder / "record.json").read_text(encoding="utf-8")) for folder in folders]
        weights = [request.weights_of(one) / "model.safetensors" for one in (own, as_is)]
        assert weights[0].read_bytes() == weights[1].read_bytes()
    rows = what_ran(records[1]["config"])
    assert (rows["steps"], rows["trained_on"], rows["as_exported"]) == ("0", "nothing", "single (tuned)")
    assert "untrained connector (0 steps" in what_ran(records[0]["config"])["tuned_from"]
    states = make_plan(request.trials, request.ledger).stages.values()
    assert {planned.state for planned in states} == {"reused"} and len(states) == 4

    Path("asked.jsonl").write_text(json.dumps({"question": "what", "answers": ["red"]}) + "\n", encoding="utf-8")
    Path("asked.yaml").write_text("benchmarks: {asked: {questions: asked.jsonl, metric: exact}}\n")
    told = refused("run", "as_is", "--scale", "smoke", "--data", "asked.yaml")
    assert "mm1 reads the miniature world's words alone; leave out --data" in told


@pytest.mark.usefixtures("few_documents")
def test_two_towers_trained_exported_and_evaluated_as_exported(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the decoder of a model that is evaluated as exported is the one that was exported."""
    monkeypatch.chdir(place)
    towers = [str(saved.save_encoder(family, place / family)) for family in ("clip", "dinov2")]
    arms = {"two": {"encoder": towers, "resolution": "native", "image_tokens": 64}}
    again = {"again": {"sft": {"start": "both", "steps": 0}}}
    smoke = ("--scale", "smoke", "--set", "evaluate.shots=[0]")
    found = []
    for name, recipe, own in (("two", "base", arms), ("again", "sft", again)):
        sweep = {"title": "Two towers", "recipe": recipe, "arms": own}
        (place / "sweeps" / f"{name}.yaml").write_text(json.dumps(sweep))
        assert main(["run", name, *smoke, "--inline"]) == 0
        assert main(["export", name, *smoke, "--as", "decoder", f"decoder of {name}"]) == 0
        if name == "two":
            assert main(["export", name, *smoke, "both"]) == 0
        (trial,) = load_request(name, "smoke", settings=("evaluate.shots=[0]",)).trials
        found.append(pd.read_parquet(place / "results" / "local" / "trials" / trial.fingerprint / "scores.parquet"))
    pd.testing.assert_frame_equal(*found)
    decoders = [(place / f"decoder of {name}" / "model.safetensors").read_bytes() for name in ("two", "again")]
    assert decoders[0] == decoders[1]

    exported = AutoModelForImageTextToText.from_pretrained("./both").eval()
    processor = AutoProcessor.from_pretrained("./both")
    benchmark = next(one for one in benchmarks_for(World(), trial.evaluation.settings) if one.name == "vqa")
    expected = found[0][found[0]["benchmark"] == "vqa"].set_index("question")["prediction"]
    for question in benchmark.questions:
        images = pictures(question, processor.side)
        batch = processor(images=images, text=f"{'<image>' * len(images)} {question.prompt}")
        out = exported.generate(**batch, max_new_tokens=benchmark.new_tokens)[0, batch["input_ids"].shape[1] :]
        said = f" {processor.decode(out, skip_special_tokens=True)} "
        assert cut_answer(said, tuple(f" {word} " for word in benchmark.stop)) == expected[question.key]
    assert expected.nunique() > 1


BY_SEED = """
title: A further stage
recipe: sft
arms:
  each: {sft: {start: "models/base/seed-{seed}", steps: 0}}
  one: {sft: {start: models/base/seed-0, steps: 0}}
contrasts:
  - {claim: one is another, first: each, second: one, measure: average, expect: greater}
"""


@pytest.mark.usefixtures("few_documents")
def test_each_seed_starts_from_a_model_of_its_own(
    place: Path, monkeypatch: pytest.MonkeyPatch, printed: Told, refused: Refused
) -> None:
    """And tables say of arms that start from one model what their intervals do not cover."""
    monkeypatch.chdir(place)
    assert main(["export", *SWEEP[:3], "--only", "base,captions", "models"]) == 0
    shutil.move("models/captions/seed-0", "models/base/seed-1")
    Path("sweeps/by_seed.yaml").write_text(BY_SEED, encoding="utf-8")
    asked = ("by_seed", "--scale", "smoke", "--set", "evaluate.shots=[0]")
    assert "models/base/seed-2: there is no such folder" in refused("run", *asked, "--seeds", "3", "--inline")
    missing = (
        "models/base/seed-7: there is no such folder, and it is not a hub name (OWNER/NAME); this is of seed 7, and"
    )
    assert missing in refused("status", *asked, "--seeds", "7,")
    note = "One exported model at every seed: one (models/base/seed-0)."
    planned = printed("plan", *asked, "--seeds", "2")
    assert note in planned and "the same trials" not in planned, "which they are at seed 0 alone"
    assert "One exported model" not in printed("plan", *asked, "--only", "each", "--seeds", "2")
    assert main(["run", *asked, "--seeds", "2", "--inline"]) == 0

    request = load_request("by_seed", "smoke", seeds=2, settings=["evaluate.shots=[0]"])
    started = {trial.name: (request.weights_of(trial) / "model.safetensors").read_bytes() for trial in request.trials}
    assert started["each / seed 0"] == started["one / seed 0"] == started["one / seed 1"] != started["each / seed 1"]
    (exported,) = load_request("data_mix", "smoke", only=("captions",)).trials
    assert started["each / seed 1"] == (request.weights_of(exported) / "model.safetensors").read_bytes()
    assert request.at_seeds([1, 0]).rows == request.rows, "also where the seeds of results are added"
    for page in ("contrasts.md", "table.md"):
        assert note in (request.folder / page).read_text(encoding="utf-8")
    compared = printed("compare", "by_seed", "each", "one", *asked[1:])
    assert note in compared and "the same trials" not in compared


def test_where_tuning_cannot_start(place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(place / "sweeps", "sweeps")

    def told(start: str, *settings: str, arm: str = "") -> str:
        text = TUNED.replace("start: mm1", f"start: {start}").replace("here: {}", arm or "here: {}")
        Path("sweeps/tuned.yaml").write_text(text, encoding="utf-8")
        with pytest.raises(RequestError) as error:
            load_request("sweeps/tuned.yaml", "smoke", settings=settings)
        (line,) = str(error.value).splitlines()
        assert "exported" in line or Path(start).name in line
        return line

    def damaged(name: str, damage: Callable[[Path], object]) -> str:
        damage(shutil.copytree(place / "mm1", tmp_path / name))
        return told(f"./{name}")

    def without_connector(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        kept = {name: value for name, value in weights.items() if not name.startswith("connector")}
        save_file(kept, folder / "model.safetensors")

    blind = shutil.copytree(place / "mm1", tmp_path / "blind")
    change(blind / "processor_config.json", '"blind": false', '"blind": true')
    change(blind / "processor_config.json", '"tile_marks": "none"', '"more": 0')  # as version 0.4.0 exported it
    assert HuggingFace().whole(str(blind)).blind and not HuggingFace().whole(str(place / "mm1")).blind
    assert "there is no such folder" in told("./nowhere")
    assert "is not a model written by this version's `mm1-lab export`" in damaged(
        "bare", lambda at: (at / "config.json").unlink()
    )
    assert "model_type is 'clip'" in told(str(saved.save_encoder("clip", tmp_path / "clip")))
    bare = damaged("early", lambda at: change(at / "config.json", '"connector":', '"conector":'))
    assert "is not a model written by this version's `mm1-lab export` (KeyError: 'connector'); export it again" in bare
    torn = damaged("cut", lambda at: os.truncate(at / "model.safetensors", 9999))
    assert "is not a model written by this version's `mm1-lab export` (SafetensorError" in torn
    assert "its weights lack connector" in damaged("parts", without_connector)
    as_decoder = told(str(place / "mm1"), arm=f"other: {{decoder: {place / 'mm1'}}}")
    assert as_decoder.endswith("by `sft: {start: …}`, or export its decoder alone (--as decoder)")
    whole = str(place / "mm1")
    assert "was made for 256 positions, the scale" in told(whole, "sft.sequence_length=300")


def test_several_trials_are_exported_to_folders_of_their_own(
    place: Path, monkeypatch: pytest.MonkeyPatch, printed: Told, refused: Refused
) -> None:
    monkeypatch.chdir(place)
    both = ("export", *SWEEP[:3], "--only", "base,captions")
    assert printed(*both, "several") == "several/base/seed-0\nseveral/captions/seed-0\n"
    assert (place / "several/base/seed-0/model.safetensors").read_bytes() == (
        place / "mm1/model.safetensors"
    ).read_bytes()
    card = (place / "several/captions/seed-0/README.md").read_text(encoding="utf-8")
    assert "data_mix at smoke: captions / seed 0" in card
    shutil.rmtree("several/base")
    assert "several/captions/seed-0: already exists; give a new folder" in refused(*both, "several")
    assert not Path("several/base").exists(), "nothing is written"
    arms = "title: Names\nrecipe: base\narms: {a/b: {}, base: {}}\n"
    Path("sweeps/names.yaml").write_text(arms, encoding="utf-8")
    assert "arm 'a/b': no folder has such a name" in refused("export", "names", "--scale", "smoke", "named")
    assert printed("export", "names", "--scale", "smoke", "--only", "a/b", "named") == "named\n"


def test_what_cannot_be_exported(place: Path, monkeypatch: pytest.MonkeyPatch, refused: Refused) -> None:
    monkeypatch.chdir(place)
    export = ("export", *SWEEP)
    assert "base / seed 1: there are no weights for it" in refused(*export, "--seeds", "2", "new")
    error = refused(*export, "--seeds", "7,", "new")
    assert "there are no weights for it" in error and "; there are some at seed 0: add --seeds 0," in error
    assert "mm1: already exists" in refused(*export, "mm1")
    (place / "another").mkdir()
    monkeypatch.chdir(place / "another")  # empty
    results = place / "results" / "local"
    assert ".: already exists" in refused(*export, "--results", str(results), "--store", str(results / "store"), ".")
    assert f": add --store {results / 'store'}\n" in refused(*export, "--results", str(results), "new")


@pytest.mark.slow
@pytest.mark.usefixtures("few_documents")
def test_the_whole_way(tmp_path: Path, finished: Place, monkeypatch: pytest.MonkeyPatch, printed: Told) -> None:
    """CLIP and Llama from folders, own shards and benchmarks, lab's settings: trained, evaluated, exported, loaded."""
    results = make_place(tmp_path).results
    results.mkdir(parents=True)
    shutil.copy(finished.results / "mlflow.db", results)  # to make one takes as long as to train
    monkeypatch.chdir(tmp_path)
    clip, llama = saved.save_encoder("clip", tmp_path / "clip"), saved.save_decoder("llama", tmp_path / "llama")
    backend = Tokenizer.from_file(str(llama / "tokenizer.json"))
    backend.decoder = ByteLevel()  # so that prompts can be shown as they were
    backend.save(str(llama / "tokenizer.json"))
    files = Files(tmp_path)
    files.captions("captions.tar", range(60))
    files.jsonl("text.jsonl", [files.prose(90, number) for number in range(15)])
    for name, numbers in (("asked", range(10)), ("shown", range(10, 15))):
        rows = []
        for number in numbers:
            (tmp_path / f"{number}.png").write_bytes(files.png(number * 6))
            asked = files.prose(1 + number, number) if number % 2 else ""  # then the answer begins behind the picture
            rows.append({"id": f"{number}", "image": f"{number}.png", "question": asked, "answers": [ANSWER]})
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    own = {"questions": "asked.jsonl", "metric": "exact", "prompt": "{question}"}
    own |= {"demonstrations": {"questions": "shown.jsonl"}}
    coco = write_coco(tmp_path) | {"shots": [0]}
    listed = {"captions": "captions.tar", "text": "text.jsonl", "pictures": "crop"}
    files.yaml(**listed, benchmarks={"own": own, "coco": coco})
    more = ("evaluate.shots=[0,4]", "precision=32-true", "train.steps=4", "resolutions={336: 28}")
    settings = [part for text in shrunk(clip, llama, *more) for part in ("--set", text)]
    arm = ("data_mix", "--scale", "lab", "--only", "captions+text", "--data", "data.yaml", *settings)
    assert main(["run", *arm, "--inline"]) == 0
    assert main(["export", *arm, "model"]) == 0
    scores = pd.read_parquet(next(tmp_path.glob("results/local/trials/*/scores.parquet")))
    asked = scores[scores["benchmark"] == "own"]
    assert sorted(asked.groupby("shots").size().items()) == [(0, 8), (4, 8)]
    card = Path("model/README.md").read_text(encoding="utf-8")
    assert "| own | exact | 4 | 8 |" in card
    assert "| learning rate | 0.0005 (encoder × 0.1, decoder × 0.1) |" in card
    assert set(scores[scores["benchmark"] == "coco"]["shots"]) == {0}
    model = AutoModelForImageTextToText.from_pretrained("./model").eval()
    processor = AutoProcessor.from_pretrained("./model")
    assert processor.shape == "crop"
    processor.shape = "squeeze"  # as benchmarks have it
    zero = asked[asked["shots"] == 0]
    assert zero["prediction"].nunique() > 1, "a model that always says the same would prove nothing"
    rows = {row["id"]: row for row in map(json.loads, Path("asked.jsonl").read_text().splitlines())}
    new_tokens = max(len(folder_tokenizer(llama).encode(ANSWER)) + 1, SHORTEST_LIMIT)
    for key, prediction in zip(zero["question"], zero["prediction"], strict=True):
        row = rows[key]
        batch = processor(images=row["image"], text=f"<image>{row['question']}")
        out = model.generate(**batch, max_new_tokens=new_tokens)[0, batch["input_ids"].shape[1] :]
        assert cut_answer(processor.decode(out, skip_special_tokens=True), ("\n",)) == prediction

    turns = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": ANSWER}]
    said = [{"id": f"{number}", "image": f"{number}.png", "conversations": turns} for number in range(10)]
    Path("llava.json").write_text(json.dumps(said))
    padded = listed | {"pictures": "pad", "instructions": {"mine": {"files": "llava.json"}}}
    files.yaml(**padded, benchmarks={"own": own, "coco": coco})
    text = TUNED.replace("mm1", "model").replace("here: {}", "here: {data_mix: {interleaved: 0}}")
    Path("sweeps/tuned.yaml").write_text(text, encoding="utf-8")
    tuned = ("sweeps/tuned.yaml", "--scale", "lab", "--only", "exported", "--data", "data.yaml", *settings)
    small = ("--set", "sft.steps=2", "--set", "sft.batch_size=2", "--set", "sft.sequence_length=1024")
    other = "model was trained with `pictures: crop`, and the data file has `pad`\n"
    assert printed("run", *tuned, *small, "--inline").startswith(other)
    assert printed("plan", *tuned, *small).endswith(other)
    assert main(["export", *tuned, *small, "tuned"]) == 0
    card = Path("tuned/README.md").read_text(encoding="utf-8")
    assert "An answer ends at the end token; the chat template" in card
    assert "| learning rate | 1e-05, Adafactor |" in card and "| frozen | nothing |" in card
    asking = [word for word in (*tuned, *small) if word not in ("sweeps/tuned.yaml", "--only", "exported")]
    shown = printed("answers", tuned[0], "exported", *asking, "--measure", "own 4-shot", "--prompt", "--json")
    processor = AutoProcessor.from_pretrained("./tuned")
    given = [word for word in (*settings, *small) if word != "--set"]
    request = load_request(tuned[0], "lab", only=["exported"], data="data.yaml", settings=given)
    stage, data = request.trials[0].evaluation, request.open_data()
    writer = PromptWriter.of(stage, data.tokenizer)
    benchmark = next(one for one in benchmarks_for(data, stage.settings, named=stage.benchmarks) if one.name == "own")
    read = {}  # as the model read it
    for block, questions in enumerate(benchmark.blocks):
        read |= {one.key: writer.prefix(benchmark, block, 4) + writer.question(one) for one in questions}
    for one in json.loads(shown)["questions"]:
        (answer,) = one["answers"]
        batch = processor(images=answer["pictures"], text=answer["prompt"])
        assert batch["input_ids"][0].tolist() == list(read[one["question"]].tokens)
        assert answer["prompt"].count(processor.tokenizer.eos_token) == 4 and one["new_tokens"] == benchmark.new_tokens
    change(tmp_path / "data.yaml", "pad", "crop")
    (llama / "chat_template.jinja").write_text("{{ messages }}")
    whole = [word.replace("exported", "here") for word in (*tuned, *small)]
    assert "\nllama: its chat template is not used; " in printed("plan", *whole).replace(f"{tmp_path}/", "")
    out = printed("plan", *tuned, *small)
    assert "was trained with" not in out and "chat template" not in out
    (trial,) = (path for path in results.glob("trials/*") if is_of(path, "exported / seed 0"))
    record = json.loads((trial / "record.json").read_text(encoding="utf-8"))
    assert set(record["fingerprints"]) == {"sft", "evaluation"}
    assert record["config"]["model"]["model"]["family"] == "mm1"
    assert record["config"]["data"]["tokenizer"] == folder_tokenizer(Path("model")).digest

    assert [HuggingFace().whole(f"./{name}").tuned for name in ("model", "tuned")] == [False, True]
    files.yaml(benchmarks={"own": own})
    as_is = AS_IS.replace("start: mm1", "start: model").replace("start: single", "start: tuned")
    Path("sweeps/as_is.yaml").write_text(as_is, encoding="utf-8")
    asked = ["tuned" if word == "exported" else word for word in (*tuned[1:], *small)]
    assert main(["run", "sweeps/as_is.yaml", *asked, "--inline"]) == 0, "without training data"


TILED = "{encoder: {loss: none}, steps: 0, sft: {resolution: native, views: 7, tiling: ratio}}"
LAID_OUT = ("V:V,V,V;", "V:V;V;", "V", "V:V,V,V;V,V,V;", "V:V,V,V;")
"""The marked views (V) of a wide, a tall and a small picture, of one of 2 × 3 tiles and of one that is turned."""


@pytest.mark.usefixtures("few_documents")
def test_an_exported_model_tiles_and_marks_pictures_by_their_shapes_as_training_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Refused
) -> None:
    """Pictures of one's own: what is read and computed in tuning, benchmarks and chats."""
    monkeypatch.chdir(make_place(tmp_path).folder)
    files = Files(tmp_path)
    sizes = [(120, 40), (50, 110), (20, 20), (90, 60), (40, 120)]
    said = []
    for number, size in enumerate(sizes):
        noise = torch.randint(256, (*size[::-1], 3), generator=torch.Generator().manual_seed(number))
        exif = Image.Exif()
        exif[0x112] = 6 if number == 4 else 1
        Image.fromarray(noise.byte().numpy()).save(f"{number}.jpg", exif=exif)
        said.append({"id": f"{number}", "image": f"{number}.jpg", "question": "what is it?", "answers": [ANSWER]})
    both = ["0.jpg", "2.jpg"]
    turns = [{"from": "human", "value": "<image><image>alike?"}, {"from": "gpt", "value": "no"}]
    files.rows("llava.jsonl", [{"image": both, "conversations": turns}] * 5)
    files.rows("asked.jsonl", said)
    files.rows("shown.jsonl", [one | {"question": "and this?"} for one in said[::-1]])
    own = {"questions": "asked.jsonl", "metric": "exact", "demonstrations": {"questions": "shown.jsonl"}}
    text = files.jsonl("text.jsonl", [files.prose(60, number) for number in range(9)]).name
    files.yaml(text=text, instructions={"mine": {"files": "llava.jsonl"}}, benchmarks={"own": own | {"shots": [0, 4]}})
    Path("sweeps/recipes/tiled.yaml").write_text(TILED, encoding="utf-8")
    settings = ("sft.sequence_length=512", "evaluate.shots=[0,4]")
    options = ("--scale", "smoke", "--data", "data.yaml", *(word for one in settings for word in ("--set", one)))
    assert main(["run", "tiled", "--vary", "sft.tile_marks=none,text", *options, "--inline"]) == 0
    sweep = "tiled_by_sft.tile_marks_none_text"
    for arm, folder in (("tiled", "bare"), ("sft.tile_marks text", "tiled")):
        assert main(["export", sweep, *options, "--only", arm, folder]) == 0
    card = Path("tiled/README.md").read_text(encoding="utf-8")
    assert "36 px, up to 7 views with marks" in card and "| image tokens | up to 63 |" in card
    assert "it takes up to 70 places" in card
    model = AutoModelForImageTextToText.from_pretrained("./tiled").eval()
    bare, processor = (AutoProcessor.from_pretrained(f"./{folder}") for folder in ("bare", "tiled"))
    assert (processor.tiling, processor.views) == ("ratio", 7)

    request = load_request(sweep, "smoke", data="data.yaml", settings=settings)
    stage, data = request.trials[1].evaluation, request.open_data()
    said_of = {"mine": data.instructions("mine", 0, Limits.of(stage.model))}
    batch = ConversationBatches.of(stage.model, said_of, data.tokenizer)(0)
    asked = [{"role": "user", "content": "<image><image>alike?"}, {"role": "assistant", "content": "no"}]
    given = processor(images=both, text=processor.apply_chat_template(asked))
    own_places = batch.documents[0] == 1
    view = [data.tokenizer.image] * 9
    signs = {sign: view if sign == "V" else data.tokenizer.encode(sign) for sign in "V:,;"}
    laid_out = [[token for sign in one for token in signs[sign]] for one in LAID_OUT]
    shown = [*laid_out[0], *laid_out[2]]
    assert given["input_ids"][0].tolist() == batch.tokens[0, own_places].tolist()
    assert batch.tokens[0, 1 : len(shown) + 1].tolist() == shown and not batch.weights[0, : len(shown) + 1].any()
    assert len(given["pixel_values"]) == 4 + 1 and torch.equal(given["pixel_values"], batch.images[:5])
    trained = as_trained(model)
    with torch.inference_mode():
        expected = model.decoder.lm_head(trained(batch).hidden[0, own_places])
        assert torch.allclose(model(**given).logits[0], expected, atol=1e-4)

    writer, embedder = PromptWriter.of(stage, data.tokenizer), PromptEmbedder(trained, False, 2)
    (benchmark,) = benchmarks_for(data, stage.settings, named=stage.benchmarks)[-1:]
    prompts = [writer.prefix(benchmark, 0, 4) + writer.question(one) for one in benchmark.blocks[0]]
    with torch.inference_mode():
        embedder.see([one for prompt in prompts for one in prompt.pictures])
        for prompt in prompts:
            given = processor(images=[picture.name for picture, _ in prompt.pictures], text=writer.text(prompt))
            assert given["input_ids"][0].tolist() == list(prompt.tokens)
            read = model.embed(given["input_ids"], given["pixel_values"])[0]
            assert torch.allclose(embedder.embed(prompt), read, atol=1e-5)
    chat = Chat(stage.model, trained, data)
    chat.say("what is it?", [open_image(Path(f"{number}.jpg"), ImageDecoder()) for number in range(5)])
    images = [f"{number}.jpg" for number in range(5)]
    asked = [{"role": "user", "content": [{"type": "image"}] * 5 + [{"type": "text", "text": "what is it?"}]}]
    text = processor.apply_chat_template(asked)
    given = processor(images=images, text=text)["input_ids"][0].tolist()
    assert list(chat.so_far.tokens[: len(given)]) == given
    words = given[1 + sum(map(len, laid_out)) :]
    assert given == [data.tokenizer.begin, *(token for one in laid_out for token in one), *words]
    unmarked = bare(images=images, text=text)["input_ids"][0].tolist()
    assert unmarked == [data.tokenizer.begin, *view * (4 + 3 + 1 + 7 + 4), *words]

    arms = "{title: Again, recipe: sft, arms: {again: {sft: {start: ./tiled, steps: 0}}}}"
    Path("sweeps/again.yaml").write_text(arms, encoding="utf-8")
    assert main(["run", "again", *options, "--inline"]) == 0
    again = load_request("again", "smoke", data="data.yaml", settings=settings).trials[0]
    trials = (request.trials[1], again)
    scores = [pd.read_parquet(request.ledger.trial_folder(one.fingerprint) / "scores.parquet") for one in trials]
    pd.testing.assert_frame_equal(*scores)
    assert "sft.tile_marks: none and sft.resolution" in refused("plan", "again", *options, "--set", "sft.views=10")
