"""The model: encoder, connector, decoder, and MM1, which joins them (section 3)."""

from mm1_lab.model.connectors import CONNECTORS, build_connector
from mm1_lab.model.decoder import build_decoder
from mm1_lab.model.encoder import Encoder, build_encoder, normalise
from mm1_lab.model.mm1 import MM1, build_mm1, count_parameters, hidden_states
from mm1_lab.model.outside import PretrainedViT, load_pretrained_decoder, load_pretrained_encoder
from mm1_lab.model.weights import load_weights, save_weights

__all__ = [
    "CONNECTORS",
    "MM1",
    "Encoder",
    "PretrainedViT",
    "build_connector",
    "build_decoder",
    "build_encoder",
    "build_mm1",
    "count_parameters",
    "hidden_states",
    "load_pretrained_decoder",
    "load_pretrained_encoder",
    "load_weights",
    "normalise",
    "save_weights",
]
