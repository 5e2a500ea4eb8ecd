"""What the package `mm1_lab.model` offers."""

from mm1_lab.model.connectors import CONNECTORS, build_connector
from mm1_lab.model.decoder import build_decoder, load_decoder, load_in_team, upcycle
from mm1_lab.model.encoder import Encoder
from mm1_lab.model.export import library_tokenizer, write_code
from mm1_lab.model.lora import add_adapters, merge_adapters
from mm1_lab.model.mm1 import (
    MM1,
    build_encoder,
    build_mm1,
    cast_matrices,
    connector_activations,
    connector_flops,
    count_parameters,
    empty_mm1,
    load_mm1,
)
from mm1_lab.model.modeling_mm1 import MM1Config, MM1ForConditionalGeneration
from mm1_lab.model.own_connectors import explaining
from mm1_lab.model.packed import States, masks_of, read_by_document, read_rows
from mm1_lab.model.processing_mm1 import MM1Processor
from mm1_lab.weights.stored import load_weights, save_weights
