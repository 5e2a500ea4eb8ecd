"""The layout of few-shot prompts."""

from collections.abc import Callable

from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers

from mm1_lab.data.tokenizers import BackendTokenizer
from mm1_lab.evaluate.prompts import PromptWriter
from mm1_lab.evaluate.questions import Benchmark


def test_an_answer_stands_behind_a_space_after_its_prompt(benchmark_of: Callable[..., Benchmark]) -> None:
    class Characters:
        pad, begin, end, image = range(4)
        size = 1 << 20

        def encode(self, text: str) -> list[int]:
            return [ord(letter) for letter in text]

        def decode(self, ids: object) -> str:
            raise AssertionError

    writer = PromptWriter(Characters(), image_tokens=1)
    for metric, written in (("vqa", "answer : green."), ("cider", "\x03a blue circle.")):
        tokens = writer.demonstration(benchmark_of(metric).demonstrations[0][0], ".").tokens
        assert "".join(map(chr, tokens)).endswith(written)


def test_no_space_stands_between_an_answer_and_what_ends_it(benchmark_of: Callable[..., Benchmark]) -> None:
    """SentencePiece tokenizers begin every text with a space, also that of a separator alone."""
    letters = {piece: number for number, piece in enumerate("<\u2581abcdefghijklmnopqrstuvwxyz\n")}
    backend = Backend(models.BPE(vocab=letters, merges=[], unk_token="<"))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(split=False), decoders.Metaspace()
    tokenizer = BackendTokenizer(backend, *range(100, 104))
    question = benchmark_of("vqa").demonstrations[0][0]
    tokens = PromptWriter(tokenizer, image_tokens=1).answer(question, "red", "\n")
    assert "".join(map(backend.id_to_token, tokens)) == "\u2581red\n"
