"""Trained models in the transformers library: after `import mm1_lab.model.parts` the Auto classes load a multimodal
stage's folder or an exported one. The exported folder also holds the code that others need for it (`write_code`).
Experts whose width is no multiple of 8 run in the library only once they are exported.
"""

import json
import re
from importlib.util import decode_source
from pathlib import Path

from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, PreTrainedTokenizerFast

from mm1_lab.config import OwnConnectors
from mm1_lab.data import preprocessing
from mm1_lab.data.preprocessing import IMAGE
from mm1_lab.data.types import Tokenizer
from mm1_lab.files import load_json
from mm1_lab.model import connectors, encoder, modeling_mm1, processing_mm1
from mm1_lab.model.modeling_mm1 import MM1Config, MM1ForConditionalGeneration
from mm1_lab.model.processing_mm1 import MM1Processor
from mm1_lab.weights import families

CODE = (modeling_mm1, processing_mm1, encoder, connectors, families, preprocessing)
"""What an exported model needs. These modules import nothing of this package but each other."""
AUTO_CLASSES = {
    "config.json": {
        "AutoConfig": "modeling_mm1.MM1Config",
        "AutoModelForImageTextToText": "modeling_mm1.MM1ForConditionalGeneration",
    },
    "processor_config.json": {"AutoProcessor": "processing_mm1.MM1Processor"},
}
"""Where the library finds the classes, by file."""


def write_code(folder: Path, own: OwnConnectors | None) -> None:
    """Adds to an exported model what loads it where this package is not installed: a copy of `CODE` and of the user's
    `own` connectors, and the classes' names in its configuration. There the modules stand side by side and import each
    other as such."""
    sources = {}
    for module in CODE:
        sources[module.__name__.rpartition(".")[2]] = Path(str(module.__file__)).read_text(encoding="utf-8")
    if own:
        sources["own_connectors"] = decode_source(own.content)  # in any encoding that Python reads
        # whatever else the file defines: an Encoder of its own must not take the place of the model's
        sources["modeling_mm1"] += "\n\nfrom .own_connectors import __name__ as OWN_CONNECTORS\n"
    for name, source in sources.items():
        source = re.sub(r"^from mm1_lab\.model import", "from . import", source, flags=re.MULTILINE)
        source = re.sub(r"^from mm1_lab(?:\.\w+)*\.(\w+) import", r"from .\1 import", source, flags=re.MULTILINE)
        (folder / f"{name}.py").write_text(source, encoding="utf-8")
    for name, classes in AUTO_CLASSES.items():
        content = load_json(folder / name) | {"auto_map": classes}
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def library_tokenizer(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    backend = tokenizer.backend
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=backend.id_to_token(tokenizer.pad),
        bos_token=backend.id_to_token(tokenizer.begin),
        eos_token=backend.id_to_token(tokenizer.end),
        extra_special_tokens=[IMAGE],
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


AutoConfig.register(MM1Config.model_type, MM1Config)
AutoModelForImageTextToText.register(MM1Config, MM1ForConditionalGeneration)
AutoProcessor.register(MM1Config, MM1Processor)
