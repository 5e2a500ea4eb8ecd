"""Few-shot prompts: demonstrations and a question as one document, in which a picture stands before its text.

A prompt with k shots is

    begin, [image tokens, prompt, shown answer, separator] × k, image tokens, prompt

and 0-shot has no demonstration at all, as in the paper. The separator is the benchmark's first stop word, so that
demonstrations show where an answer ends. The part up to the question is the same for all questions of a block.
"""

from dataclasses import dataclass

from mm1_lab.data.types import Picture, Tokenizer
from mm1_lab.evaluate.benchmark import Benchmark, Question


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of a prompt: tokens, and the pictures whose image tokens are among them, in order."""

    tokens: tuple[int, ...]
    pictures: tuple[Picture, ...] = ()

    def __add__(self, other: "Segment") -> "Segment":
        return Segment(self.tokens + other.tokens, self.pictures + other.pictures)


@dataclass(frozen=True, slots=True)
class PromptWriter:
    """Writes prompts for a model whose images take `image_tokens` places each."""

    tokenizer: Tokenizer
    image_tokens: int

    def question(self, question: Question) -> Segment:
        """Pictures and prompt: what the model goes on from."""
        image = (self.tokenizer.image,) * (self.image_tokens * len(question.pictures))
        return Segment(image + tuple(self.tokenizer.encode(question.prompt)), question.pictures)

    def demonstration(self, question: Question, separator: str) -> Segment:
        """The question with its shown answer.

        The answer is tokenized by itself, behind a space where a prompt stands before it, as a model would go on.
        """
        prompt = question.prompt
        space = " " if prompt and not prompt[-1].isspace() else ""
        answer = self.tokenizer.encode(space + question.shown) + self.tokenizer.encode(separator)
        return self.question(question) + Segment(tuple(answer))

    def prefix(self, benchmark: Benchmark, block: int, shots: int) -> Segment:
        """What all questions of a block share: the begin token and the block's first `shots` demonstrations.

        Raises ValueError if the block has fewer.
        """
        demonstrations = benchmark.demonstrations[block][:shots]
        if len(demonstrations) < shots:
            raise ValueError(f"{benchmark.name}: block {block} has {len(demonstrations)} demonstrations, not {shots}")
        prefix = Segment((self.tokenizer.begin,))
        for demonstration in demonstrations:
            prefix += self.demonstration(demonstration, benchmark.stop[0])
        return prefix
