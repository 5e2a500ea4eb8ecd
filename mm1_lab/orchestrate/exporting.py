"""Exports a trained arm as a Hugging Face folder: the whole model, or its decoder alone."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from tokenizers.processors import TemplateProcessing
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    GenerationConfig,
    LlamaConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

from mm1_lab import files
from mm1_lab.config import ALLOWED, PretrainedDecoder, PretrainedMM1, Trial
from mm1_lab.model import MM1Processor, library_tokenizer, write_code
from mm1_lab.model.decoder import sparse_layers
from mm1_lab.model.packed import BALANCE_WEIGHT
from mm1_lab.orchestrate.planning.request import Request
from mm1_lab.weights.pretrained import chat_template, end_tokens
from mm1_lab.weights.stored import quiet_library

CHAT = (
    "{% for message in messages %}{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{% if not loop.last %}{{ '\n' }}{% endif %}{% endfor %}"
)
"""Chat template of pre-trained models: images and texts in order, without roles."""
IN_ORDER = (
    "{% set before = loop.previtem['role'] if loop.previtem else '' %}"
    "{% if message['role'] not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('the model was tuned without the role ' + message['role']) }}"
    "{% elif before == 'user' and message['role'] != 'assistant' or before == message['role'] == 'assistant' %}"
    "{{ raise_exception('two turns of the user or the assistant are not separated by one of the other') }}{% endif %}"
)
"""Refuses conversations such as training refuses: the models would read what they have never seen."""
WORLD_CHAT = (
    f"{{% for message in messages %}}{IN_ORDER}"
    "{% if message['role'] == 'assistant' %} "
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{{ message['content'][0]['text'] }}"
    "{% endif %} .{{ eos_token }}{% else %}"
    "{% if message['content'] is string %}tell : {{ message['content'] }} . say :{% else %}"
    "{% for part in message['content'] if part['type'] == 'image' %}<image>{% endfor %}"
    "tell : {% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }} {% endfor %}. say :"
    "{% endif %}{% endif %}{% endfor %}"
)
"""Chat template of models tuned on the miniature world's instructions."""
USER_CHAT = (
    "{% set early = namespace(images='') %}"
    f"{{% for message in messages %}}{IN_ORDER}"
    "{% set turn = namespace(text='', asks=message['role'] == 'user') %}"
    "{% if turn.asks and loop.previtem and loop.previtem['role'] == 'assistant' %}{{ '\n' }}{% endif %}"
    "{% set parts = [{'type': 'text', 'text': message['content']}] if message['content'] is string "
    "else message['content'] %}"
    "{% for part in parts %}{% set said = '<image>' if part['type'] == 'image' else part['text'] or '' %}"
    "{% for piece in said.split('<image>') %}{% if not loop.first %}"
    "{% if turn.text and message['role'] != 'system' %}{% set turn.text = turn.text + '<image>' %}"
    "{% else %}{% set early.images = early.images + '<image>' %}{% endif %}{% endif %}"
    "{% if piece | trim %}{% set turn.text = turn.text + piece %}{% endif %}{% endfor %}{% endfor %}"
    "{% if turn.asks %}{{ early.images }}{% set early.images = '' %}User: {{ turn.text | trim }}{{ '\nAssistant:' }}"
    "{% elif message['role'] == 'assistant' %} {{ turn.text | trim }}{{ eos_token }}"
    "{% elif turn.text | trim %}{{ turn.text | trim }}{{ '\n' }}{% endif %}{% endfor %}"
)
"""Chat template of models tuned on users' instruction sets (see data/shards/readers.py)."""
SHARED = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "hidden_act", "max_position_embeddings", "rms_norm_eps", "rope_parameters", "tie_word_embeddings",
)  # fmt: skip
"""What the configurations of Qwen 2 and Llama both have."""


def export_trial(request: Request, trial: Trial, form: str, folder: Path, card: str) -> None:
    """Writes the trial's model as `form` with its model card."""
    stage = trial.evaluation.model
    weights = request.weights_of(trial)
    data = request.open_data()
    chat = {"world": WORLD_CHAT, "shards": USER_CHAT}[stage.data.kind] if stage.tuned else CHAT
    processor = MM1Processor(
        library_tokenizer(data.tokenizer),
        side=stage.image_size,
        views=stage.views,
        tiling=stage.tiling,
        tile_marks=stage.tile_marks,
        image_tokens=stage.architecture.connector.image_tokens,
        shape=stage.data.shape,
        blind=stage.architecture.blind,
        tuned=stage.tuned,
        chat_template=chat,
    )
    with quiet_library():
        model = AutoModelForImageTextToText.from_pretrained(weights, dtype=torch.float32)
    _align_experts(model.decoder)
    if sparse_layers(model.decoder):
        model.decoder.config.router_aux_loss_coef = BALANCE_WEIGHT  # whoever trains on gets the training's
    model.generation_config = GenerationConfig(
        do_sample=False,
        bos_token_id=data.tokenizer.begin,
        eos_token_id=data.tokenizer.end,
        pad_token_id=data.tokenizer.pad,
    )
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = TemporaryDirectory(prefix=f"{folder.name}.", dir=folder.parent)
    with beside as temporary, files.naming(folder):
        partial = Path(temporary) / folder.name
        partial.mkdir()
        with quiet_library():
            if form == "decoder":
                tokenizer = processor.tokenizer
                decoder = _with_tokenizer(model.decoder, tokenizer)
                decoder.generation_config = model.generation_config
                source = stage.architecture.decoder
                is_exported = isinstance(stage.architecture, PretrainedMM1)  # whose template is not the decoder's
                if isinstance(source, PretrainedDecoder) and not (is_exported or stage.tuned):
                    _keep_chat(decoder, tokenizer, source)
                decoder.save_pretrained(partial)
                # harnesses call it as it is, and every document of training begins with this token
                begin = tokenizer.bos_token
                begins = TemplateProcessing([begin, "$A"], special_tokens=[(begin, tokenizer.bos_token_id)])
                tokenizer.backend_tokenizer.post_processor = begins
                tokenizer.save_pretrained(partial)
            else:
                model.save_pretrained(partial, save_original_format=False)
                processor.save_pretrained(partial)
                write_code(partial, ALLOWED.get(stage.architecture.connector.kind.partition("@")[2]))
        files.write_text(partial / "README.md", card)
        if folder.exists():
            folder.rmdir()
        files.commit(partial, folder)


def _keep_chat(decoder: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, source: PretrainedDecoder) -> None:
    """Lets the decoder chat in the form of the one from which it was trained, and end where that one ends."""
    tokenizer.chat_template = chat_template(source)
    end = decoder.generation_config.eos_token_id
    ends = [end, *(other for other in end_tokens(source) if other != end)]
    decoder.generation_config.eos_token_id = ends if len(ends) > 1 else end


def _align_experts(decoder: PreTrainedModel) -> None:
    """Widens the experts with zeros to a multiple of 8, which leaves the logits as they are. The library computes them
    as a grouped product of torch, which needs rows of a multiple of 16 bytes."""
    for layer in sparse_layers(decoder):
        experts = layer.mlp.experts
        missing = -experts.down_proj.shape[2] % 8
        gate, up = experts.gate_up_proj.detach().chunk(2, dim=1)
        halves = [nn.functional.pad(half, (0, 0, 0, missing)) for half in (gate, up)]
        experts.gate_up_proj = nn.Parameter(torch.cat(halves, dim=1))
        experts.down_proj = nn.Parameter(nn.functional.pad(experts.down_proj.detach(), (0, missing)))
        decoder.config.moe_intermediate_size = experts.down_proj.shape[2]


def _with_tokenizer(decoder: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """The decoder in a form beside which AutoTokenizer loads this tokenizer. Beside a Qwen 2, as our own decoders are,
    it splits any folder's text as Qwen's. A Llama computes the same."""
    config = decoder.config
    is_qwens = json.dumps(PRETOKENIZE_REGEX) in tokenizer.backend_tokenizer.to_str()
    if config.model_type != "qwen2" or config.sliding_window or is_qwens:
        return decoder
    shared = {name: getattr(config, name) for name in SHARED}
    llama = AutoModelForCausalLM.from_config(LlamaConfig(**shared, attention_bias=True))
    weights = decoder.state_dict()
    for name, initial in llama.state_dict().items():
        if name.endswith("o_proj.bias"):  # Qwen 2 has the other biases only
            weights[name] = torch.zeros_like(initial)
    llama.load_state_dict(weights)
    return llama.eval()
