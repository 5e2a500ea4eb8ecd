"""MM1: images take their places, weights of another model are refused, pictures stay with their texts."""

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


def test_pictures_without_markers_stay_with_their_text():
    processor = MM1Processor(library_tokenizer(World().tokenizer), side=24, image_tokens=4)
    picture = np.zeros((24, 24, 3), np.uint8)
    image = processor.tokenizer.convert_tokens_to_ids("<image>")
    for images in ([[picture, picture], []], [[picture], [picture]], [picture, picture], [None, [picture, picture]]):
        ids = processor(images=images, text=["a red circle", "a"])["input_ids"]
        counts = [len(each) if isinstance(each, list) else int(each is not None) for each in images]
        assert (ids == image).sum(dim=1).tolist() == [4 * count for count in counts]
    for images in ([picture], picture, [picture] * 4):
        with pytest.raises(ValueError, match="pictures for 2 texts; mark where each goes by <image>"):
            processor(images=images, text=["a", "a"])
    with pytest.raises(ValueError, match="knows only the world's words, and 'zebra' is none of them; try: the color"):
        processor(images=[picture], text="<image>a red zebra")


def test_the_library_s_other_arguments_reach_the_decoder(model):
    asked = {"output_hidden_states": True, "return_dict_in_generate": True, "pad_token_id": 0}
    made = MM1ForConditionalGeneration(model.config).generate(torch.ones(1, 4).long(), max_new_tokens=2, **asked)
    assert made.hidden_states[0][-1].shape == (1, 4, 32)
