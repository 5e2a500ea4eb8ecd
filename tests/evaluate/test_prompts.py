"""The layout of few-shot prompts."""

from dataclasses import replace
from pathlib import Path

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers

from mm1_lab.config import Recipe, SftRecipe
from mm1_lab.data.packing import Packer
from mm1_lab.data.tokenizers import BackendTokenizer, bpe_tokenizer
from mm1_lab.data.types import Answer, Document
from mm1_lab.evaluate.prompts import PromptWriter
from mm1_lab.evaluate.questions import Question
from tests.conftest import evaluation_of
from tests.evaluate.conftest import make_benchmark


def test_no_space_stands_between_an_answer_and_what_ends_it() -> None:
    """SentencePiece tokenizers begin every text with a space, also that of a separator alone."""
    letters = {piece: number for number, piece in enumerate("<\u2581abcdefghijklmnopqrstuvwxyz\n")}
    backend = Backend(models.BPE(vocab=letters, merges=[], unk_token="<"))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(split=False), decoders.Metaspace()
    tokenizer = BackendTokenizer(backend, *range(100, 104))
    question = make_benchmark("vqa").demonstrations[0][0]
    tokens = PromptWriter(tokenizer, image_tokens=1).demonstration(replace(question, shown="red"), "\n").tokens
    assert "".join(map(backend.id_to_token, tokens[-5:])) == "\u2581red\n"


@pytest.mark.parametrize("sft", [None, SftRecipe()], ids=["pre-trained", "tuned"])
def test_words_of_the_world_are_apart_in_the_tokenizer_of_a_pretrained_decoder(
    tmp_path: Path, sft: SftRecipe | None
) -> None:
    """Training joined a document's texts (`answer :red.`), where prompts have a space."""
    stage = evaluation_of(recipe=Recipe(sft=sft))
    bpe = bpe_tokenizer(["what is it ? answer : red . answer : blue ."] * 9, 400, tmp_path)
    document = Document("a", ("what is it ? answer :", Answer("red ."), "what is it ? answer :", Answer("blue .")))
    row = Packer.of(stage.model, bpe).pack([document])
    read = "".join(bpe.decode([token]) or "|" for token in row.tokens[row.documents == 1].tolist())
    between = "|" if sft else " "  # the end token
    assert read == f"|what is it ? answer : red .{between}what is it ? answer : blue .|"
    shown = Question("a", "colour", (), "what is it ? answer :", ("blue",), "blue")
    asked = PromptWriter.of(stage, bpe).demonstration(shown, ".").tokens
    assert bpe.decode(asked) == "what is it ? answer : blue ."
