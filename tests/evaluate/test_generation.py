"""Few-shot prompts; generation with shared prefixes: its cache, each picture once, stop words (words: test_export)."""

from dataclasses import replace

import pytest
import torch
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers
from transformers import DynamicCache

from mm1_lab.config import Recipe, SftRecipe, Size
from mm1_lab.data.packing import Packer
from mm1_lab.data.preprocessing import WHOLE, Grid, GridRule
from mm1_lab.data.tokenizers import BackendTokenizer, bpe_tokenizer
from mm1_lab.data.types import Answer, Document
from mm1_lab.evaluate import shared_prefix
from mm1_lab.evaluate.embedder import PromptEmbedder
from mm1_lab.evaluate.generation import PromptGroup, generate
from mm1_lab.evaluate.prompts import PromptWriter
from mm1_lab.evaluate.questions import Question
from mm1_lab.evaluate.shared_prefix import SharedPrefixDecoding
from mm1_lab.model import MM1
from tests.conftest import evaluation_of
from tests.evaluate.conftest import Letters, make_benchmark
from tests.small import small_mm1

SIDE, IMAGE_TOKENS = 12, 4


@pytest.fixture
def model(tokenizer) -> MM1:
    """Random weights, with a sharp head, so that what it writes depends on what it reads."""
    torch.manual_seed(5)
    encoder, decoder = Size(layers=1, width=16, heads=2), Size(layers=2, width=24, heads=2)
    model = small_mm1(encoder, decoder, "average-pooling", tokenizer.size, 256, tokenizer.image, SIDE)
    with torch.no_grad():
        model.decoder.lm_head.weight.mul_(30)
    return model.eval()


@pytest.fixture
def groups(tokenizer) -> list[PromptGroup]:
    """Blocks of unequal size, shots, and lengths of question, with pictures and without."""
    writer = PromptWriter(tokenizer, IMAGE_TOKENS)
    result = []
    for metric, shots in (("vqa", 3), ("exact", 4), ("cider", 0), ("vqa", 0)):
        benchmark = make_benchmark(metric, blocks=2, questions=5)
        for block, questions in enumerate(benchmark.blocks):
            asked = tuple(map(writer.question, questions[: 5 - 2 * block]))
            result.append(PromptGroup(writer.prefix(benchmark, block, shots), asked))
    return result


def embedder_of(model: MM1, blind: bool = False) -> PromptEmbedder:
    return PromptEmbedder(model, blind, batch=3)


def test_the_cache_has_the_precision_of_the_attention_that_reads_it(model, groups, tokenizer, monkeypatch):
    """Half precision under autocast, where the library's keeps keys in single precision; and no number changes."""
    embedder, given = embedder_of(model), torch.tensor(tokenizer.encode("red . the ring"))

    def read() -> tuple[torch.Tensor, set[torch.dtype]]:
        """Logits, and the types of what the cache holds."""
        decoding = SharedPrefixDecoding(
            model.decoder,
            [embedder.embed(group.prefix) for group in groups],
            [[embedder.embed(question) for question in group.questions] for group in groups],
        )
        logits = [decoding.logits]
        logits += [decoding.advance(token.expand(logits[0].shape[:2])) for token in given]
        parts = [part for layer in decoding._cache.layers for part in (layer.keys, layer.values)]
        return torch.stack(logits), {part.dtype for part in parts}

    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        embedder.see(p for group in groups for part in (group.prefix, *group.questions) for p in part.pictures)
        logits, types = read()
        monkeypatch.setattr(shared_prefix, "AutocastCache", DynamicCache)
        expected, of_library = read()
    assert types == {torch.bfloat16} and torch.float32 in of_library
    torch.testing.assert_close(logits, expected, rtol=0, atol=0)


def test_each_picture_is_encoded_once(model, groups, tokenizer):
    encoded = []
    model.encoder.register_forward_pre_hook(lambda _, inputs: encoded.append(len(inputs[0])))
    embedder = embedder_of(model)
    for _ in range(2):
        generate(embedder, groups, tokenizer, ["."], 2)
    pictures = [p for group in groups for part in (group.prefix, *group.questions) for p in part.pictures]
    assert sum(encoded) == len({id(picture) for picture in pictures}) < len(pictures) * 2


def test_features_that_do_not_fit_are_computed_again(model, groups, tokenizer, monkeypatch):
    whole = generate(embedder_of(model), groups, tokenizer, ["."], 4)
    most = 10 * IMAGE_TOKENS * 24  # ten pictures; a batch has at most eight
    monkeypatch.setattr("mm1_lab.evaluate.embedder.KEPT_FEATURES", most)
    embedder, kept = embedder_of(model), []
    hook = lambda *_: kept.append(sum(one.numel() for one in embedder._features.values()))  # noqa: E731
    model.decoder.register_forward_hook(hook)
    for _ in range(2):
        assert generate(embedder, groups, tokenizer, ["."], 4) == whole
    assert 0 < max(kept) <= most


def test_a_stop_word_may_span_tokens(model, groups):
    """With a tokenizer of characters, an answer ends with the token that completes `ab`, and not with `a`."""

    characters = Letters("a")

    def written(*stop: str) -> list[str]:
        answers = generate(embedder_of(model), groups, characters, stop, 12)
        return [characters.decode(ids) for group in answers for ids in group]

    free = written()
    word = next(text[at : at + 2] for text in free for at in range(1, len(text) - 3) if text[at] != text[at + 1])
    ends = [text.find(word) for text in free]
    expected = [text if at < 0 else text[: at + 2] for text, at in zip(free, ends, strict=True)]
    assert written(word) == expected != free


def test_no_space_stands_between_an_answer_and_what_ends_it_nor_between_tiles_and_marks():
    """SentencePiece tokenizers begin every text with a space, also that of a separator or mark alone."""
    letters = {piece: number for number, piece in enumerate("<\u2581abcdefghijklmnopqrstuvwxyz\n:,;")}
    backend = Backend(models.BPE(vocab=letters, merges=[], unk_token="<"))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(split=False), decoders.Metaspace()
    tokenizer = BackendTokenizer(backend, *range(100, 104))
    question = make_benchmark("vqa").demonstrations[0][0]
    tokens = PromptWriter(tokenizer, image_tokens=1).demonstration(replace(question, shown="red"), "\n").tokens
    assert "".join(map(backend.id_to_token, tokens[-5:])) == "\u2581red\n"
    tokens = PromptWriter(tokenizer, 1, GridRule(5, marked=True)).question(question).tokens
    assert "".join(backend.id_to_token(token) or "V" for token in tokens[:10]) == "V:V,V;V,V;"


def test_early_demonstrations_show_overviews_alone(tokenizer):
    """Mixed resolution: with one sharp demonstration, the last before the question and the question in five views."""
    benchmark = make_benchmark()
    writer = PromptWriter(tokenizer, image_tokens=4, rule=GridRule(5), sharp_demonstrations=1)
    quarters = Grid(2, 2)
    for shots, grids in {0: [], 1: [quarters], 3: [WHOLE, WHOLE, quarters]}.items():
        prefix = writer.prefix(benchmark, 2, shots)
        pictures = [shown.pictures[0] for shown in benchmark.demonstrations[2][:shots]]
        assert list(prefix.pictures) == list(zip(pictures, grids, strict=True))
        assert prefix.tokens.count(tokenizer.image) == 4 * sum(grid.views for grid in grids)
        assert writer.text(prefix).count("<image>") == shots, "one of each picture, however many views it has"
    assert writer.question(benchmark.blocks[2][0]).pictures[0][1] == quarters
    every = replace(writer, sharp_demonstrations=None).prefix(benchmark, 2, 3)
    assert [grid for _, grid in every.pictures] == [quarters] * 3


@pytest.mark.parametrize("sft", [None, SftRecipe()], ids=["pre-trained", "tuned"])
def test_words_of_the_world_are_apart_in_the_tokenizer_of_a_pretrained_decoder(tmp_path, sft):
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
