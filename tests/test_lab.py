"""Trials on models that others have trained, at the lab scale's settings, shrunk; and what is refused beforehand."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from mm1_lab.cli import main
from mm1_lab.config import WORLD_DATA, MultimodalStage, Recipe, RequestError, Scale, load_scale, load_sweep, resolve
from mm1_lab.data import open_data
from mm1_lab.evaluate.run import evaluate
from mm1_lab.model import build_mm1, load_mm1
from mm1_lab.orchestrate.planning.doubts import doubts
from mm1_lab.orchestrate.planning.loading import load_request
from mm1_lab.orchestrate.planning.request import Request
from mm1_lab.train.stages import run_stage
from mm1_lab.weights.pretrained import HuggingFace
from tests import pretrained as saved

SWEEPS = Path(__file__).parents[1] / "sweeps"
SHRUNK = (
    "base_decoder=tiny", "resolutions={224: 28, 336: 42, 378: 28}", "image_tokens={64: 4, 144: 9}",
    "connector_width=16", "sequence_length=1536", "train.steps=2", "train.batch_size=2", "evaluate.questions=8",
    "evaluate.blocks=8",
    "evaluate.batch_size=16", "evaluate.shots=[0]", "compile=false", "resources={cpus: 1, gpus: 0}",
    "resources.gradient_checkpointing=true",
)  # fmt: skip
BASE = load_sweep(SWEEPS / "data_mix.yaml").base
Refused = Callable[..., str]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with small models; not to be changed."""
    folder = tmp_path_factory.mktemp("models")
    for family in ("aimv2", "clip", "dinov2", "siglip"):
        saved.save_encoder(family, folder / family)
    for family in ("gemma3", "llama", "qwen2"):
        saved.save_decoder(family, folder / family)
    return folder


def shrunk(encoder: Path, decoder: Path, *more: str) -> tuple[str, ...]:
    models = f"pretrained_encoders={{ViT-L: {encoder}}}", f"pretrained_decoders={{tiny: {decoder}}}"
    return (*SHRUNK, *models, *more)


def lab(encoder: Path, decoder: Path, *more: str) -> Scale:
    return load_scale("lab", SWEEPS / "scales", settings=shrunk(encoder, decoder, *more))


@pytest.mark.usefixtures("few_documents")
def test_a_trial_runs_on_pretrained_models(models: Path, tmp_path: Path) -> None:
    """Two towers and a decoder, all of which train; tests/test_export.py: on one tower."""
    scale = lab(models / "dinov2", models / "gemma3")
    data = open_data(None, tmp_path, scale, models / "gemma3")
    change = {"resolution": 336, "image_tokens": 64, "encoder": ["ViT-L", str(models / "siglip")]}
    recipe = Recipe.model_validate(BASE.model_dump() | change)
    trial = resolve("base", recipe, scale, 0, data.identity, HuggingFace())
    stage = trial.evaluation.model
    folder = tmp_path / "stage"
    folder.mkdir()
    run_stage(stage, folder, {}, data, lambda progress: None)
    trained, start = load_file(folder / "model.safetensors"), started(stage, data.tokenizer)
    moved = {name.split(".")[0] for name, value in trained.items() if not torch.equal(value, start[name])}
    assert moved == {"encoder", "connector", "decoder"}
    result = evaluate(trial.evaluation, folder, data, lambda progress: None)
    assert len(result.scores) == (9 + 2 * 3) * 8 and set(result.held_out_loss) == set(data.identity.sources)


def started(stage: MultimodalStage, tokenizer: object) -> dict[str, torch.Tensor]:
    """The weights with which training begins, by the names that a file of them has."""
    model = build_mm1(stage, tokenizer)  # type: ignore[arg-type]
    model.load_parts(stage, {})
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def test_image_tokens_start_as_large_as_the_decoders_embeddings(models: Path, tmp_path: Path) -> None:
    """Whatever that is: here ten times the size that a connector gives by itself."""
    large = shutil.copytree(models / "qwen2", tmp_path / "large")
    weights = load_file(large / "model.safetensors")
    weights["model.embed_tokens.weight"] *= 10 / weights["model.embed_tokens.weight"].std()
    save_file(weights, large / "model.safetensors", {"format": "pt"})
    scale = lab(models / "clip", large, "train.lr_multipliers={connector: 1e-9, decoder: 1e-9}")
    data = open_data(None, tmp_path, scale, large)
    stage = resolve("base", BASE, scale, 0, data.identity, HuggingFace())
    folder = tmp_path / "stage"
    folder.mkdir()
    run_stage(stage.evaluation.model, folder, {}, data, lambda progress: None)
    model = load_mm1(stage.evaluation.model, folder, data.tokenizer)
    assert model.decoder.get_output_embeddings().weight is model.decoder.get_input_embeddings().weight
    tokens = torch.full((1, 9), data.tokenizer.image)
    pictures = torch.randint(256, (1, 3, 42, 42), dtype=torch.uint8)
    with torch.no_grad():
        bare = model.connector(model.encoder(pictures))
        assert torch.allclose(model.embed(tokens, pictures), 10 * bare, rtol=1e-3)


def test_where_the_scale_has_the_papers_numbers_others_stand_for_themselves(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arms = {
        "native": {"encoder": str(models / "clip"), "resolution": "native", "image_tokens": 4},
        "given": {"encoder": str(models / "siglip"), "resolution": 28, "image_tokens": 4},
        "finer": {"encoder": str(models / "siglip"), "resolution": 70, "image_tokens": 25},
        "tiles": {"sft": {"resolution": 84, "views": 10}},
        "many": {"image_tokens": 169, "connector": "average-pooling"},
    }
    claims = [
        {"claim": f"better than {arm}", "first": "native", "second": arm, "measure": "0-shot", "expect": "greater"}
        for arm in ("given", "finer")
    ]
    own = [
        setting for setting in shrunk(models / "clip", models / "llama") if not setting.startswith(("res", "image_"))
    ]
    settings = [
        word
        for setting in (*own, "sft.sequence_length=1536", "resolution=28", "image_tokens=4")
        for word in ("--set", setting)
    ]

    def planned(arms: dict[str, object], code: int = 0) -> str:
        shown = claims if "finer" in arms else []
        sweep = {"title": "T", "recipe": "base", "arms": arms, "contrasts": shown}
        (tmp_path / "own.yaml").write_text(yaml.safe_dump(sweep), encoding="utf-8")
        capsys.readouterr()
        assert main(["plan", str(tmp_path / "own.yaml"), "--scale", "lab", *settings]) == code
        return "".join(capsys.readouterr())

    told = planned(arms)
    assert "'better than finer' will not tell encoder, resolution, image_tokens apart" in told
    assert "'better than given'" not in told, "both have 28 pixels"
    assert "Rows of their own, and so other numbers of epochs in as many steps: many (169 image tokens)" in told
    request = load_request(tmp_path / "own.yaml", "lab", settings=settings[1::2])
    stages = {trial.arm: trial.evaluation.model for trial in request.trials}
    assert [stages[arm].architecture.image_size for arm in arms] == [28, 28, 70, 28, 28]
    assert stages["tiles"].image_size == 28 and stages["finer"].picture_tokens == 25
    for change, refusal in (
        ({"resolution": 29}, "29 pixels (resolution 29) are not divisible by the patch of 7"),
        ({"image_tokens": 5}, "5 image tokens are not a square number"),
        ({"resolution": 0}, "this scale has no resolution 0"),
        ({"resolution": 7 * 10**12}, "this scale has no resolution 7000000000000"),
        ({"image_tokens": -4}, "this scale has no number of image tokens -4"),
        ({"sft": {"resolution": 85, "views": 10}}, "needs an sft.resolution of 672, 1008"),
    ):
        assert refusal in planned({"arm": change}, code=2)


def test_identity_is_content_not_place(models: Path, tmp_path: Path) -> None:
    """A moved folder gives the same trial; another layer, other weights or other numbers for its images another one."""

    def fingerprint(encoder: Path, *more: str) -> str:
        scale = lab(encoder, models / "llama", *more)
        return resolve("base", BASE, scale, 0, WORLD_DATA, HuggingFace()).fingerprint

    moved = shutil.copytree(models / "clip", tmp_path / "moved")
    assert fingerprint(moved) == fingerprint(models / "clip")
    chosen = f"pretrained_encoders={{ViT-L: {{weights: {moved}, layer: -2}}}}"
    assert fingerprint(moved, chosen) != fingerprint(moved)
    weights = bytearray((moved / "model.safetensors").read_bytes())
    weights[-3] ^= 1
    (moved / "model.safetensors").write_bytes(weights)
    other = fingerprint(moved)
    assert other != fingerprint(models / "clip")
    preprocessor = moved / "preprocessor_config.json"
    preprocessor.write_text(preprocessor.read_text().replace("0.48", "0.5"))
    assert fingerprint(moved) != other


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Runs a base trial at lab with two models; it must refuse in one line, before anything is written."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))

    def check(encoder: Path | str, decoder: Path | str, command: str = "run") -> str:
        capsys.readouterr()
        settings = [part for text in shrunk(Path(encoder), Path(decoder)) for part in ("--set", text)]
        assert main([command, str(SWEEPS / "data_mix.yaml"), "--scale", "lab", "--only", "base", *settings]) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert lines[-1].startswith("mm1-lab: ") and all("fetching" in line for line in lines[:-1])
        assert not list(tmp_path.glob("results/**/sweep.json")) and not list(tmp_path.glob("results/**/*.partial"))
        return lines[-1]

    return check


def test_a_hub_name_without_network(models: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def away(name: str, local_files_only: bool = False, **_: object) -> str:
        raise LocalEntryNotFoundError("Got: ConnectError: Name or service not known\nPlease check")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", away)
    error = refused("google/siglip-base-patch16-224", models / "llama")
    assert "google/siglip-base-patch16-224: is neither a folder here nor complete in the hub's cache" in error
    assert "(ConnectError: Name or service not known); give the folder of a local copy" in error


def test_what_cannot_be_a_part(models: Path, tmp_path: Path, refused: Refused) -> None:
    clip, llama = models / "clip", models / "llama"
    assert "vision towers of family 'llama' are not supported; known: clip_vision_model" in refused(llama, llama)
    assert "decoders of family 'clip' are not supported: causal attention" in refused(clip, clip)
    (tmp_path / "empty").mkdir()
    assert "empty: has no config.json; give a folder that save_pretrained" in refused(tmp_path / "empty", llama)
    bare = shutil.copytree(models / "aimv2", tmp_path / "bare")
    (bare / "preprocessor_config.json").unlink()
    assert "bare: preprocessor_config.json, or else processor_config.json, must contain" in refused(bare, llama)
    other = shutil.copytree(llama, tmp_path / "other")
    saved.save_tokenizer(other, more=saved.ROWS)
    assert f"but its decoder's embedding has only {saved.ROWS} rows" in refused(clip, other)
    pickled = shutil.copytree(clip, tmp_path / "pickled")
    (pickled / "model.safetensors").unlink()
    torch.save({}, pickled / "pytorch_model.bin")
    assert "no weights in the folder (*.safetensors; pickled ones could run code)" in refused(pickled, llama)
    broken = shutil.copytree(llama, tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    lack = "broken: its weights lack lm_head.weight: incomplete, or saved from another class"
    assert refused(clip, broken).endswith(lack) and refused(clip, broken, command="plan").endswith(lack)


def test_all_arms_of_a_sweep_read_one_tokenizer_whichever_are_asked_for(models: Path, tmp_path: Path) -> None:
    """Otherwise `--only base` trained another base, which no table shows beside the arm with the decoder."""
    path, decoder = tmp_path / "sweeps" / "mixed.yaml", shutil.copytree(models / "llama", tmp_path / "llama")
    shutil.copytree(SWEEPS, path.parent)
    text = f"title: t\nrecipe: base\narms:\n  base: {{}}\n  llama: {{decoder: {decoder}}}\n"
    path.write_text(text, encoding="utf-8")

    def ask(*only: str) -> Request:
        settings, results = ("sequence_length=512",), tmp_path / "results"
        return load_request(path, "smoke", only=only, settings=settings, results=results, store=tmp_path / "store")

    both, base, llama = ask(), ask("base"), ask("llama")
    assert both.trials == (*base.trials, *llama.trials) and both.folder == base.folder == llama.folder
    other = saved.save_decoder("qwen3", tmp_path / "other", eos_token="<pad>")
    path.write_text(f"{text}  other: {{decoder: {other}}}\n")
    with pytest.raises(RequestError, match=r"have different tokenizers.* `mm1-lab judge` one table"):
        ask()
    path.write_text(text, encoding="utf-8")
    (decoder / "model.safetensors").rename(tmp_path / "weights")
    with pytest.raises(RequestError, match=r"^arm 'llama': .* no weights in the folder"):
        ask("base")
    decoder.rename(tmp_path / "elsewhere")
    with pytest.raises(RequestError, match=r"--only: all arms read the tokenizer of arm 'llama', but .* no such fold"):
        ask("base")


def test_base_and_instruct_are_arms_of_one_sweep(models: Path, tmp_path: Path) -> None:
    """Their tokenizers differ in the end token, and the data file says which counts: also for each one alone."""
    sweep, file = tmp_path / "sweeps" / "decoders.yaml", tmp_path / "data.yaml"
    shutil.copytree(SWEEPS, sweep.parent)
    for name, end in (("base", "</s>"), ("instruct", "<pad>")):
        shutil.copytree(models / "llama", tmp_path / name)
        saved.save_tokenizer(tmp_path / name, eos_token=end)
    (tmp_path / "text.jsonl").write_text('{"text": "a large red circle"}\n' * 4, encoding="utf-8")
    (tmp_path / "asked.jsonl").write_text('{"question": "a", "answers": ["red"]}\n')
    data = "text: text.jsonl\nbenchmarks: {asked: {questions: asked.jsonl, metric: exact, shots: [0]}}\n"

    def ask(*arms: str, tokenizer: str = "bpe") -> Request:
        changes = [f"{arm}: {{decoder: {tmp_path / arm}, data_mix: {{captions: 0, interleaved: 0}}}}" for arm in arms]
        sweep.write_text(f"title: t\nrecipe: base\narms: {{{', '.join(changes)}}}\n")
        file.write_text(f"{data}tokenizer: {tokenizer}\n")
        folders = {"results": tmp_path / "results", "store": tmp_path / "store"}
        settings = (f"pretrained_encoders={{ViT-L: {models / 'clip'}}}", "resolutions.336=28")
        return load_request(sweep, "smoke", settings=settings, data=file, **folders)

    with pytest.raises(RequestError, match=r"base and .* begin or end texts differently; name one tokenizer in the"):
        ask("base", "instruct")
    both = ask("base", "instruct", tokenizer="base")
    assert both.trials == (*ask("base", tokenizer="base").trials, *ask("instruct", tokenizer="base").trials)
    assert both.trials[0] == ask("base").trials[0] and both.trials[1] != ask("instruct").trials[0]
    (told,) = [doubt for doubt in doubts(both) if "texts begin" in doubt]
    assert told == f"{tmp_path / 'instruct'}: its texts begin and end as those of the data file's tokenizer"
