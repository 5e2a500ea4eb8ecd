"""Pre-trained models of others: the same features and logits as the library's own."""

import json
import logging
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from huggingface_hub.utils import filter_repo_objects
from safetensors.torch import load_file, save_file
from transformers import (
    Aimv2VisionModel,
    AutoModel,
    AutoModelForCausalLM,
    CLIPVisionModel,
    SiglipVisionModel,
)
from transformers.utils import logging as library_logging

from mm1_lab.config import NotHere, Pretrained, RequestError
from mm1_lab.evaluate.shared_prefix import SharedPrefixDecoding
from mm1_lab.model import Encoder, load_decoder, read_by_document, read_rows
from mm1_lab.model.decoder import make_decoder
from mm1_lab.model.mm1 import load_encoder, pretrained_encoder_config
from mm1_lab.weights.library import check_weights, library_weights
from mm1_lab.weights.pretrained import (
    FILES,
    chat_template,
    find_folder,
    read_decoder,
    read_encoder,
    text_config,
    weights_digest,
)
from tests import pretrained as saved
from tests.small import rows_of


def tower(folder: Path, side: int = saved.SIDE, layer: int | None = None) -> Encoder:
    facts = read_encoder(Pretrained(weights=str(folder), layer=layer))
    encoder = Encoder(pretrained_encoder_config(facts, side))
    load_encoder(encoder, facts)
    return encoder.eval()


def pictures(side: int = saved.SIDE) -> torch.Tensor:
    return torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))


def by_hand(images: torch.Tensor) -> torch.Tensor:
    channels = [(images[:, c] / 255 - saved.MEAN[c]) / saved.STD[c] for c in range(3)]
    return torch.stack(channels, dim=1)


@torch.no_grad()
def library_features(family: str, folder: Path, images: torch.Tensor, layer: int | None) -> torch.Tensor:
    """What the library's own model gives, its own interpolation included."""
    models = {"clip": CLIPVisionModel, "siglip": SiglipVisionModel, "aimv2": Aimv2VisionModel}
    model = models.get(family, AutoModel).from_pretrained(folder).eval()
    model = model.vision_model if family == "aimv2-whole" else model
    how = {"interpolate_pos_encoding": True} if family in ("clip", "siglip") else {}
    states = model(by_hand(images), output_hidden_states=True, **how)
    chosen = states.last_hidden_state if layer is None else states.hidden_states[layer]
    if family == "clip" and layer is None:
        chosen = model.post_layernorm(chosen)
    if family in ("siglip", "aimv2", "aimv2-whole"):
        return chosen
    return chosen[:, 1 + getattr(model.config, "num_register_tokens", 0) :]


@pytest.mark.parametrize(
    ("family", "layer", "side"),
    [
        *((family, -2, saved.SIDE) for family in saved.ENCODERS),
        *((family, None, 42) for family in saved.ENCODERS if family != "aimv2"),
        ("aimv2", None, saved.SIDE),
        ("aimv2-whole", None, saved.SIDE),  # the library's class of the tower does not find it there
    ],
)
def test_features_are_the_library_s_at_any_size(family, layer, side, tmp_path):
    folder = saved.save_encoder(family, tmp_path)
    images = pictures(side)
    encoder = tower(folder, side=side, layer=layer)
    assert (encoder.width, encoder.patches) == (saved.WIDTH, (side // saved.PATCH) ** 2)
    features = encoder(images)
    torch.testing.assert_close(features, library_features(family, folder, images, layer), rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("family", saved.ENCODERS)
def test_features_are_not_random_in_training(family, tmp_path):
    folder = saved.save_encoder(family, tmp_path)
    for name in ("attention_dropout", "attention_probs_dropout_prob", "hidden_dropout_prob", "drop_path_rate"):
        change(folder, "config.json", name, 0.5)
    for name in ("shift", "jitter", "rescale"):
        change(folder, "config.json", f"pos_embed_{name}", 2.0)
    encoder, images = tower(folder), pictures()
    assert torch.equal(encoder.train()(images), encoder.eval()(images))


def test_the_library_does_not_warn_of_a_text_tower_that_is_not_used(tmp_path):
    folder = saved.save_encoder("siglip", tmp_path)
    values = json.loads((folder / "config.json").read_text())
    values["text_config"]["vocab_size"] = 777  # it warns once of each
    (folder / "config.json").write_text(json.dumps(values))
    told: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = told.append
    library_logging.add_handler(handler)
    read_encoder(Pretrained(weights=str(folder)))
    library_logging.remove_handler(handler)
    assert not told


@torch.no_grad()
def test_two_towers_are_both_side_by_side(tmp_path):
    """Each with its own normalisation and its own layer, also as an exported folder holds them."""
    folders = [saved.save_encoder(family, tmp_path / family) for family in ("dinov2", "siglip")]
    change(folders[1], "preprocessor_config.json", "image_mean", (0.5, 0.5, 0.5))
    change(folders[1], "preprocessor_config.json", "image_std", (0.5, 0.5, 0.5))
    first, second = (read_encoder(Pretrained(weights=str(folder), layer=-2)) for folder in folders)
    pair = first.model_copy(update={"beside": second})
    encoder = Encoder(pretrained_encoder_config(pair, saved.SIDE)).eval()
    load_encoder(encoder, pair)
    images = pictures()
    expected = torch.cat([tower(folder, layer=-2)(images) for folder in folders], dim=2)
    assert torch.equal(encoder(images), expected) and encoder.width == 2 * saved.WIDTH
    encoder.save_pretrained(tmp_path / "both")
    again = Encoder.from_pretrained(tmp_path / "both")
    assert torch.equal(again(images), expected)
    assert pair.features.parameters() == first.features.parameters() + second.features.parameters()
    assert pair.features.width == encoder.width and pair.identity["beside"] == second.identity


@torch.no_grad()
@pytest.mark.parametrize("family", saved.DECODERS)
def test_logits_and_sliding_windows_are_the_library_s(family, tmp_path):
    """Packed documents longer than the window by masks and by blocks, and questions after a shared prefix, each as the
    library reads them alone. Layers of Gemma and Llama have no window, whatever their configuration says."""
    folder = saved.save_decoder(family, tmp_path, windowed=True)
    facts = read_decoder(Pretrained(weights=str(folder)))
    assert facts.longest == 2048
    assert facts.identity["longest"] == (saved.WINDOW if family == "mistral" else 2048)
    decoder = make_decoder(text_config(facts, saved.ROWS + 5)).eval()
    load_decoder(decoder, facts)
    embedding = decoder.get_input_embeddings().weight
    torch.testing.assert_close(embedding[-1], embedding[: saved.ROWS].mean(dim=0))
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokens = torch.arange(40) * 7
    embedded = decoder.get_input_embeddings()(tokens)
    alone = [theirs.model(part[None]).last_hidden_state[0] for part in tokens.split([16, 4, 20])]
    batch = rows_of(torch.tensor([[1] * 16 + [2] * 4 + [3] * 20]))
    for _ in range(2):
        hidden = read_rows(decoder, embedded[None], batch).hidden[0]
        torch.testing.assert_close(hidden, torch.cat(alone), rtol=1e-4, atol=1e-5)
        read_by_document(decoder)
    decoder.set_attn_implementation("sdpa")
    prefix, questions = embedded[:12], [embedded[12:15], embedded[15:25]]
    decoding = SharedPrefixDecoding(decoder, [prefix], [questions])
    expected = [theirs(torch.cat([tokens[:12], part])[None]).logits[:, -1] for part in (tokens[12:15], tokens[15:25])]
    torch.testing.assert_close(decoding.logits[0, :, : saved.ROWS], torch.cat(expected), rtol=1e-4, atol=1e-5)
    following = decoding.advance(torch.tensor([[3, 6]]))
    both = [[*tokens[:15], 3], [*tokens[:12], *tokens[15:25], 6]]
    expected = [theirs(torch.tensor([ids])).logits[:, -1] for ids in both]
    torch.testing.assert_close(following[0, :, : saved.ROWS], torch.cat(expected), rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("family", saved.DECODERS)
def test_dropout_of_attention_is_left_out_by_masks_and_by_documents(family, tmp_path):
    change(saved.save_decoder(family, tmp_path), "config.json", "attention_dropout", 0.5)
    decoder = make_decoder(text_config(read_decoder(Pretrained(weights=str(tmp_path))), saved.ROWS))
    batch = rows_of(torch.tensor([[1] * 16 + [2] * 4]))
    embedded = decoder.get_input_embeddings()(torch.arange(20)[None])
    expected = decoder.eval().model(inputs_embeds=embedded[:, :16]).last_hidden_state
    decoder.train()
    for _ in range(2):
        torch.testing.assert_close(read_rows(decoder, embedded, batch).hidden[:, :16], expected, rtol=1e-4, atol=1e-5)
        read_by_document(decoder)


@pytest.mark.parametrize("family", [*saved.ENCODERS, "dinov2-swiglu", "dinov3-gated"])
def test_a_tower_s_parameters_are_counted_as_the_library_makes_them(family, tmp_path):
    """With a feed-forward of 2 to 3 times the width, of two matrices or three."""
    folder = saved.save_encoder(family.partition("-")[0], tmp_path)
    change(folder, "config.json", "mlp_ratio", 3)
    change(folder, "config.json", "use_swiglu_ffn", family.endswith("swiglu"))
    change(folder, "config.json", "use_gated_mlp", family.endswith("gated"))
    facts = read_encoder(Pretrained(weights=str(folder), layer=-2))
    with torch.device("meta"):
        network = Encoder(pretrained_encoder_config(facts, saved.SIDE)).vision
    counted = sum(
        parameter.numel()
        for name, parameter in network.named_parameters()
        if parameter.ndim == 2 and "layer" in name and "embed" not in name
    )
    assert facts.features.layers == saved.LAYERS - 1
    assert facts.features.parameters().dense == facts.features.parameters().total == counted


ROPE = {"rope_theta": 1e4, "factor": 4.0}
LONG = {"factor": 4.0, "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
PIXELS = r"preprocessor_config\.json: pixels are divided by 255, then normalised"


def change(folder: Path, file: str, key: str, value: object) -> None:
    values = json.loads((folder / file).read_text())
    values.get("vision_config", values)[key] = value
    (folder / file).write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("family", "key", "value", "message"),
    [
        ("clip", "do_normalize", False, PIXELS),
        ("clip", "do_rescale", False, PIXELS),
        ("clip", "rescale_factor", 1 / 127.5, PIXELS),
        ("clip", "patch_size", 0, r"config\.json: patch: Input should be greater than 0"),
        ("clip", "hidden_size", 10**12, r"config\.json: size.width: Input should be less than"),
        ("clip", "intermediate_size", -1, r"config\.json: shape.feed_forward: Input should be greater than 0"),
        ("llama", "max_position_embeddings", -1, r"config\.json: .* should be greater than 0"),
        ("dinov2", "quantization_config", {"bits": 8}, "its weights are quantised, so it cannot be trained"),
        ("llama", "quantization_config", {"bits": 8}, "its weights are quantised, so it cannot be trained"),
        ("llama", "rope_parameters", ROPE | {"rope_type": "dynamic"}, "with rope type dynamic .* are not supported"),
        ("llama", "rope_scaling", {"type": "longrope", **LONG}, "with rope type longrope .* are not supported"),
        ("gemma3", "rope_parameters", {"full_attention": ROPE | {"rope_type": "dynamic"}}, "decoders with rope type"),
        ("smollm3", "layer_types", ["full_attention", "sliding_attention"], "but use_sliding_window is false; set it"),
        ("gemma3", "use_bidirectional_attention", True, "decoders with use_bidirectional_attention .* are not supp"),
        ("gemma3", "final_logit_softcapping", 30.0, "decoders with final_logit_softcapping .* are not supported"),
    ],
)
def test_a_configuration_of_what_cannot_be_computed_is_refused(family, key, value, message, tmp_path):
    is_encoder = family in saved.ENCODERS
    folder = (saved.save_encoder if is_encoder else saved.save_decoder)(family, tmp_path)
    change(folder, "preprocessor_config.json" if message == PIXELS else "config.json", key, value)
    with pytest.raises(RequestError, match=message):
        (read_encoder if is_encoder else read_decoder)(Pretrained(weights=str(folder)))


def test_an_encoder_whose_normalisation_is_damaged(tmp_path):
    folder = saved.save_encoder("clip", tmp_path)
    strange = [f'{{"image_mean": [{one}, 0, 0], "image_std": [1, 1, 1]}}' for one in ("NaN", "9" * 400)]
    for text in ("[" * 100_000, *strange):
        (folder / "preprocessor_config.json").write_text(text)
        with pytest.raises(RequestError, match="must contain image_mean and image_std") as refused:
            read_encoder(Pretrained(weights=str(folder)))
        assert len(str(refused.value)) - len(str(folder)) < 300


@pytest.mark.parametrize("family", ["llama", "siglip", "clip"])
def test_weights_that_are_not_finite(family, tmp_path):
    """They are named as in the library's class, which has no `vision_model` in front."""
    is_encoder = family in saved.ENCODERS
    folder = (saved.save_encoder if is_encoder else saved.save_decoder)(family, tmp_path)
    path = folder / "model.safetensors"
    values = load_file(path)
    name = next(name for name in values if "layers.1.self_attn.q_proj.weight" in name and "text_model" not in name)
    for damage in ((math.nan,), (math.inf, -math.inf)):
        values[name].view(-1)[: len(damage)] = torch.tensor(damage)
        save_file(values, path, metadata={"format": "pt"})
        model = (read_encoder if is_encoder else read_decoder)(Pretrained(weights=str(folder)))
        check_weights(model)
        with pytest.raises(RequestError, match=r"layers.1.self_attn.q_proj.weight in model.safetensors has NaN or inf"):
            library_weights(model)
    values[name].view(-1)[:2] = 2e38  # finite, but their sum is not
    save_file(values, path, metadata={"format": "pt"})
    library_weights(model)


Weights = dict[str, torch.Tensor]
UNNAMED = {"architectures": None}
LACKS = ": incomplete, or saved from another class$"


def with_weights(folder: Path, change: Callable[[Weights], Weights]) -> None:
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


def without(part: str) -> Callable[[Weights], Weights]:
    return lambda weights: {name: value for name, value in weights.items() if part not in name}


def adding(name: str, *shape: int) -> Callable[[Weights], Weights]:
    return lambda weights: weights | {name: torch.zeros(shape)}


@pytest.mark.parametrize(
    ("family", "weights", "config", "message"),
    [
        ("llama", without("lm_head"), {}, f"lack lm_head.weight{LACKS}"),
        ("llama", without("layers.1.mlp"), {}, f"lack model.layers.1.mlp.down_proj.weight{LACKS}"),
        ("dinov2", without("layer.2"), {}, f"lack encoder.layer.2.*{LACKS}"),
        ("siglip", without("vision_model"), {}, f"lack embeddings.*{LACKS}"),
        ("llama", None, {"model_type": "qwen2", **UNNAMED}, r"lack model.layers.0.self_attn.k_proj.bias: incomplete,"),
        ("llama", None, {"intermediate_size": 48}, r"down_proj.weight has the shape \(16, 32\), and by .* \(16, 48\)"),
        ("clip", None, {"image_size": 56}, r"position_embedding.weight has the shape \(17, 16\), .* \(65, 16\)"),
        ("llama", None, {"num_hidden_layers": 1}, r"have model.layers.1.input_layernorm.weight, for which .* no"),
        ("qwen3", adding("model.layers.0.mlp.up_proj.lora_A.weight", 2, 16), {}, r"have model.layers.0.mlp.*lora_A"),
        ("qwen2", adding("score.weight", 2, 16), {}, r"have score.weight, for which its config.json \(qwen2, 2 layers"),
        ("llama", None, {"model_type": "gemma", "tie_word_embeddings": True, **UNNAMED}, "a lm_head.weight that diffe"),
        ("aimv2", None, {"num_hidden_layers": 2}, r"have encoder.layers.2.*, for .* \(aimv2.*, 2 layers\)"),
    ],
)
def test_weights_that_do_not_fit_the_configuration(family, weights, config, message, tmp_path):
    """Found by the files' headers alone, before anything is loaded."""
    is_encoder = family in saved.ENCODERS
    folder = (saved.save_encoder if is_encoder else saved.save_decoder)(family, tmp_path)
    if weights:
        with_weights(folder, weights)
    for key, value in config.items():
        change(folder, "config.json", key, value)
    model = (read_encoder if is_encoder else read_decoder)(Pretrained(weights=str(folder)))
    for check in (check_weights, library_weights):
        with pytest.raises(RequestError, match=f"its weights .*{message}"):
            check(model)


def test_a_decoder_of_two_families(tmp_path):
    """Gemma's tensors have the names and shapes of Llama's, which compute something else; Mistral's do not."""
    change(saved.save_decoder("llama", tmp_path), "config.json", "model_type", "mistral")
    check_weights(read_decoder(Pretrained(weights=str(tmp_path))))
    change(tmp_path, "config.json", "model_type", "gemma")
    with pytest.raises(RequestError, match="names model_type gemma, but architectures LlamaForCausalLM, of another fa"):
        check_weights(read_decoder(Pretrained(weights=str(tmp_path))))


@pytest.mark.parametrize(
    ("family", "more"),
    [
        ("qwen2", {"lm_head.weight": "model.embed_tokens.weight"}),  # tied, and saved twice
        # the library itself leaves out Llama's
        ("gemma3", {"model.layers.0.self_attn.rotary_emb.inv_freq": "model.norm.weight"}),
        ("llama", {"model.layers.0.self_attn.k_proj.k_scale": "model.norm.weight"}),
        ("llama", {"mtp.layers.0.norm.weight": "model.norm.weight"}),
        ("clip", {"vision_model.embeddings.position_ids": "logit_scale"}),
    ],
)
def test_tensors_that_change_nothing_are_left_out(family, more, tmp_path):
    """As are text towers, pooling heads and, of an encoder, layers after the one whose features are used."""
    is_encoder = family in saved.ENCODERS
    folder = (saved.save_encoder if is_encoder else saved.save_decoder)(family, tmp_path)
    with_weights(folder, lambda weights: weights | {name: weights[of].clone() for name, of in more.items()})
    layers = (None, -2) if is_encoder else (None,)
    for layer in layers:
        check_weights((read_encoder if is_encoder else read_decoder)(Pretrained(weights=str(folder), layer=layer)))


@pytest.mark.parametrize(("embedding", "head"), [(torch.float32, torch.bfloat16), (torch.float16, torch.float32)])
def test_a_tied_head_in_another_precision(embedding, head, tmp_path):
    name = "model.embed_tokens.weight"
    folder = saved.save_decoder("qwen2", tmp_path)
    with_weights(folder, lambda own: own | {"lm_head.weight": own[name].to(head), name: own[name].to(embedding)})
    model = read_decoder(Pretrained(weights=str(folder)))
    check_weights(model)
    for other in (torch.zeros(saved.ROWS, saved.WIDTH), torch.zeros(())):
        with_weights(folder, lambda own, other=other: own | {"lm_head.weight": other})
        with pytest.raises(RequestError, match=f"a lm_head.weight that differs from {name}"):
            check_weights(model)


def test_of_several_chat_templates_the_default_is_taken(tmp_path):
    decoder = read_decoder(Pretrained(weights=str(saved.save_decoder("llama", tmp_path))))
    assert chat_template(decoder) is None
    named = {"tool_use": "tools", "default": "plain"}
    for several in (named, [{"name": name, "template": text} for name, text in named.items()]):
        change(tmp_path, "tokenizer_config.json", "chat_template", several)
        assert chat_template(decoder) == "plain"
    change(tmp_path, "tokenizer_config.json", "chat_template", {"tool_use": "tools"})
    assert chat_template(decoder) is None


def test_files_that_are_no_weights(tmp_path):
    path = saved.save_decoder("llama", tmp_path) / "model.safetensors"
    model = read_decoder(Pretrained(weights=str(tmp_path)))
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4665\nsize 988097824\n"
    for content in (path.read_bytes()[:-9], pointer):
        path.write_bytes(content)
        with pytest.raises(RequestError, match=r"cannot be loaded \(model.safetensors: .*; fetch it again .*lfs pull"):
            check_weights(model)


def test_folders_that_are_no_decoder(tmp_path):
    folder = saved.save_decoder("llama", tmp_path)
    model = Pretrained(weights=str(folder))
    (folder / "tokenizer.json").rename(folder / "tokens.json")
    with pytest.raises(RequestError, match=r": cannot load a Hugging Face tokenizer \(.*; save the model's fast"):
        read_decoder(model)
    change(folder, "config.json", "model_type", "llamma")
    with pytest.raises(RequestError, match=r"its config.json cannot be used .*has model type `llamma`"):
        read_decoder(model)
    change(folder, "config.json", "auto_map", {"AutoConfig": "a.B"})
    with pytest.raises(RequestError, match=r"custom code .*; mend it, or give .* code from a folder is not run"):
        read_decoder(model)
    (folder / "config.json").unlink()
    with pytest.raises(RequestError, match=r": has no config.json; give a folder .* LoRA adapter .* GGUF"):
        read_decoder(model)


def test_a_file_in_place_of_its_folder_and_names_that_no_folder_can_have(tmp_path):
    (tmp_path / "a.gguf").touch()
    with pytest.raises(RequestError, match=r"a\.gguf: is a file; give a folder"):
        find_folder(str(tmp_path / "a.gguf"))
    for name in ("~nobody-here/model", "a" * 300):
        with pytest.raises(NotHere, match="there is no such folder"):
            find_folder(name)


def test_files_that_are_fetched_from_the_hub():
    """The names under which transformers saves weights, in one file or several, and everything about texts."""
    weights = ["model.safetensors", "model.safetensors.index.json", "model-00001-of-00002.safetensors"]
    texts = ["tokenizer.json", "tokenizer.model", "merges.txt", "chat_template.jinja"]
    others = ["model.fp16.safetensors", "consolidated.safetensors", "open_clip_model.safetensors", "pytorch_model.bin"]
    others += ["original/model.safetensors", "adapter_model.safetensors"]
    assert [*filter_repo_objects([*weights, *texts, *others], allow_patterns=FILES)] == [*weights, *texts]


def test_a_model_that_is_only_partly_in_the_hubs_cache(tmp_path, monkeypatch):
    """A tool that wanted only the configuration or the tokenizer leaves a folder without weights. What an index names
    is fetched, whatever its name."""
    fetched = []

    def download(name: str, local_files_only: bool = False, *, allow_patterns: list[str], **_: object) -> str:
        fetched.extend([] if local_files_only else [allow_patterns])
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    (tmp_path / "config.json").write_text("{}")
    index = {"weight_map": {"a": "model-1-of-2.safetensors", "b": "part-2-of-2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    save_file({"a": torch.zeros(1)}, tmp_path / "model-1-of-2.safetensors")
    assert find_folder("owner/name") == tmp_path and fetched == [FILES, ["part-2-of-2.safetensors"]]
    with pytest.raises(RequestError, match=r"lacks part-2-of-2\.safetensors; the copy is incomplete, or holds a LoRA"):
        weights_digest(tmp_path, "owner/name")
    save_file({"b": torch.zeros(1)}, tmp_path / "part-2-of-2.safetensors")
    assert find_folder("owner/name") == tmp_path and len(fetched) == 2
