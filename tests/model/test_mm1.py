"""MM1: images take their places, weights of another model are refused, pictures stay with their texts."""

from pathlib import Path

import numpy as np
import pytest
import torch

from mm1_lab.config import RequestError, Size
from mm1_lab.data.batches import Batch, make_batch
from mm1_lab.data.packing import Packer
from mm1_lab.data.types import Data, Document, Limits
from mm1_lab.data.world import World
from mm1_lab.model import MM1, MM1ForConditionalGeneration, MM1Processor, library_tokenizer, load_weights
from tests.small import small_mm1

SIZE = Size(layers=2, width=32, heads=2)


@pytest.fixture
def model(squares: Data) -> MM1:
    torch.manual_seed(0)
    return small_mm1(SIZE, SIZE, "average-pooling", squares.tokenizer.size, 64, squares.tokenizer.image).eval()


def documents(squares: Data) -> list[Document]:
    captions, text = squares.held_out("captions", 9), squares.held_out("text", 2)
    return [captions[0], text[0], captions[1], captions[2]]


def pack(squares: Data, rows: list[list[Document]]) -> Batch:
    packer = Packer(squares.tokenizer, Limits(64, 4, 4))
    return make_batch([packer.pack(row) for row in rows], ["captions"] * len(rows), 24, blind=False)


def test_image_features_stand_where_image_tokens_do(model: MM1, squares: Data) -> None:
    batch = pack(squares, [documents(squares)])
    embedded = model.embed(batch.tokens, batch.images)
    features = model.connector(model.encoder(batch.images))
    # begin, four image tokens, …; the second caption follows a caption and a text of ten tokens each
    torch.testing.assert_close(embedded[0, 1:5], features[0])
    torch.testing.assert_close(embedded[0, 21:25], features[1])
    words = batch.tokens[0] != squares.tokenizer.image
    torch.testing.assert_close(embedded[0, words], model.decoder.get_input_embeddings()(batch.tokens[0, words]))


def test_weights_of_another_model_are_refused(model: MM1, squares: Data, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    other = small_mm1(SIZE, SIZE, "attention-pooling", squares.tokenizer.size, 64, squares.tokenizer.image)
    with pytest.raises(RequestError, match=r"its weights do not fit the model \(connector\.attention\.in_proj_bias\)"):
        load_weights(other, tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="does not contain a valid checkpoint"):
        load_weights(model, tmp_path)


def test_pictures_without_markers_stay_with_their_text() -> None:
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


def test_the_library_s_other_arguments_reach_the_decoder(model: MM1) -> None:
    asked = {"output_hidden_states": True, "return_dict_in_generate": True, "pad_token_id": 0}
    made = MM1ForConditionalGeneration(model.config).generate(torch.ones(1, 4).long(), max_new_tokens=2, **asked)
    assert made.hidden_states[0][-1].shape == (1, 4, 32)
