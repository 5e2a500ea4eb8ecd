"""MM1: images take their places, weights of another model and unreadable texts are refused."""

import numpy as np
import pytest
import torch

from mm1_lab.config import RequestError, Size
from mm1_lab.data.world import World
from mm1_lab.model import MM1, MM1ForConditionalGeneration, MM1Processor, library_tokenizer, load_weights
from tests.small import small_mm1

SIZE = Size(layers=2, width=32, heads=2)


@pytest.fixture
def model(squares) -> MM1:
    torch.manual_seed(0)
    return small_mm1(SIZE, SIZE, "average-pooling", squares.tokenizer.size, 64, squares.tokenizer.image).eval()


def test_weights_of_another_model_are_refused(model, squares, tmp_path):
    model.save_pretrained(tmp_path)
    other = small_mm1(SIZE, SIZE, "attention-pooling", squares.tokenizer.size, 64, squares.tokenizer.image)
    with pytest.raises(RequestError, match=r"its weights do not fit the model \(connector\.attention\.in_proj_bias\)"):
        load_weights(other, tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="does not contain a valid checkpoint"):
        load_weights(model, tmp_path)


def test_texts_that_a_processor_cannot_read():
    processor = MM1Processor(library_tokenizer(World().tokenizer), side=24, image_tokens=4)
    picture = np.zeros((24, 24, 3), np.uint8)
    with pytest.raises(ValueError, match="0 <image> in the text, but 1 pictures; mark where each goes"):
        processor(images=picture, text="a red circle")
    with pytest.raises(ValueError, match="knows only the world's words, and 'zebra' is none of them; try: the color"):
        processor(images=[picture], text="<image>a red zebra")


def test_the_library_s_other_arguments_reach_the_decoder(model):
    asked = {"output_hidden_states": True, "return_dict_in_generate": True, "pad_token_id": 0}
    made = MM1ForConditionalGeneration(model.config).generate(torch.ones(1, 4).long(), max_new_tokens=2, **asked)
    assert made.hidden_states[0][-1].shape == (1, 4, 32)
