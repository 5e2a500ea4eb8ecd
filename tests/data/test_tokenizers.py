"""Tokenizers: nothing is lost on the way to ids and back, and text never turns into an image."""

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE
from tokenizers.normalizers import Prepend, Replace
from tokenizers.normalizers import Sequence as Normalizers
from transformers import PreTrainedTokenizerFast

from mm1_lab.config import RequestError
from mm1_lab.data.tokenizers import bpe_tokenizer, folder_tokenizer
from mm1_lab.model import MM1Processor, library_tokenizer
from tests.pretrained import save_tokenizer

TEXTS = [f"The {colour} vase of Chiriqui, plate {n}.\n" for n in range(40) for colour in ("red", "black", "painted")]
ODD = "Vase—½.  two  spaces\n\ntabs\tand 漢字 🙂 <image> <pad> <end>"


def test_bpe_gives_back_every_text_and_is_the_same_for_the_same_text(tmp_path):
    tokenizer = bpe_tokenizer(TEXTS, 320, tmp_path / "a")
    assert tokenizer.size == 320
    assert tokenizer.decode(tokenizer.encode(ODD)) == ODD
    assert len(tokenizer.encode("The red vase")) < len(b"The red vase") / 2
    again = bpe_tokenizer(TEXTS, 320, tmp_path / "b")
    other = bpe_tokenizer([text.upper() for text in TEXTS], 320, tmp_path / "c")
    kept = bpe_tokenizer(iter(()), 320, tmp_path / "a")
    assert tokenizer.digest == again.digest == kept.digest != other.digest
    marked = "काली बिल्ली می\u200cخواهم"
    assert len(bpe_tokenizer([marked] * 9, 400, tmp_path / "d").encode(marked)) == 3, "words with marks are whole"


def test_a_folder_tokenizer_gets_an_image_token_and_keeps_its_own_ids(tmp_path):
    folder = save_tokenizer(tmp_path, bos_token="<s>")
    theirs = PreTrainedTokenizerFast.from_pretrained(folder)
    ours = folder_tokenizer(folder)
    assert ours.encode("The red vase") == theirs.encode("The red vase", add_special_tokens=False)
    assert (ours.begin, ours.end, ours.pad) == (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id)
    assert (ours.image, ours.size) == (len(theirs), len(theirs) + 1)
    assert ours.digest == folder_tokenizer(folder).digest
    bare = folder_tokenizer(save_tokenizer(tmp_path / "bare", pad_token=None))
    assert bare.begin == bare.pad == bare.end, "which stands in for what is missing"


def test_an_image_token_that_is_an_ordinary_one_is_not_found_in_text(tmp_path):
    """As `add_tokens` leaves it; a text that spells it would have an image token without an image."""
    folder = save_tokenizer(tmp_path, pad_token=None)
    theirs = PreTrainedTokenizerFast.from_pretrained(folder)
    theirs.add_tokens(["<image>"])
    theirs.save_pretrained(folder)
    ours = folder_tokenizer(folder)
    assert ours.image == theirs.convert_tokens_to_ids("<image>") in theirs.encode("an <image>")
    assert ours.image not in ours.encode("an <image>")


def test_a_text_s_own_space_is_not_doubled_by_a_tokenizer_that_begins_every_text_with_one(tmp_path):
    """As Mistral's does. An answer has the ids that it has behind its question, also in an export."""
    pieces = ["<unk>", "</s>", *"▁Asitnred?:\n", "▁▁", "▁r", "▁re", "▁red"]
    merges = [("▁", "▁"), ("▁", "r"), ("▁r", "e"), ("▁re", "d")]
    backend = Backend(BPE({piece: number for number, piece in enumerate(pieces)}, merges, unk_token="<unk>"))
    backend.normalizer = Normalizers([Prepend("▁"), Replace(" ", "▁")])
    theirs = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")
    theirs.save_pretrained(tmp_path / "theirs")
    ours = folder_tokenizer(tmp_path / "theirs")
    for text in ("red", "red? red", "red?\n red", "red?  red"):
        assert ours.encode(text) == theirs.encode(text)
    for answer in (" red", "  red"):
        assert ours.encode("red?") + ours.encode(answer) == ours.encode(f"red?{answer}")
    exported = library_tokenizer(ours)
    read = MM1Processor(exported)(text="red?\nAssistant: red</s>")["input_ids"][0]
    assert read[-2:].tolist() == [pieces.index("▁red"), ours.end]
    exported.save_pretrained(tmp_path / "exported")
    assert folder_tokenizer(tmp_path / "exported").digest == ours.digest


def test_a_folder_without_a_usable_tokenizer_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(RequestError, match=r"cannot load a Hugging Face tokenizer .*; save the model's"):
        folder_tokenizer(tmp_path / "empty")
    with pytest.raises(RequestError, match="is not a folder; give `bpe`"):
        folder_tokenizer(tmp_path / "nowhere")
    with pytest.raises(RequestError, match="has no end token"):
        folder_tokenizer(save_tokenizer(tmp_path / "endless", bos_token="<s>", eos_token=None, pad_token=None))
