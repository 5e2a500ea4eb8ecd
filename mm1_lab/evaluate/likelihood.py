"""Multiple choice by likelihood: picks the choice to which the model assigns the highest probability."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from string import ascii_uppercase

import torch

from mm1_lab.evaluate.choosing import LETTERED
from mm1_lab.evaluate.embedder import PromptEmbedder
from mm1_lab.evaluate.generation import Group, generate
from mm1_lab.evaluate.prompts import PromptWriter, Segment
from mm1_lab.evaluate.questions import Benchmark, Question
from mm1_lab.evaluate.shared_prefix import LOGITS

BATCH = 24
"""Number of (prompt, answer) sequences per forward pass."""


def by_likelihood(benchmark: Benchmark) -> Benchmark | None:
    """The benchmark under the name and family of its likelihood variant; None if not all questions have choices."""
    if benchmark.submission or not all(question.choices for question in benchmark.questions):
        return None
    metric = "choice" if benchmark.metric == "circular" else benchmark.metric  # choices in one order only
    return replace(benchmark, name=f"{benchmark.name} by likelihood", family="likelihood", metric=metric)


def likeliest_choices(
    embedder: PromptEmbedder,
    writer: PromptWriter,
    benchmark: Benchmark,
    shots: int,
    block: int,
    batch: int,
) -> list[str]:
    """For each question of a block, the choice with the highest probability, including that of the answer's end: of its
    letter if demonstrations answer with letters, otherwise of its words.

    After demonstrations, these are read once for all questions with `batch` choices in total, and a question once for
    its choices. Without demonstrations prompts are short: a prompt is read with each choice, in a single pass.
    """
    questions, prefix = benchmark.blocks[block], writer.prefix(benchmark, block, shots)
    prompts = tuple(writer.question(question) for question in questions)
    answers = tuple(
        tuple(writer.answer(question, said, benchmark.stop[0]) for said in _answers(benchmark, question))
        for question in questions
    )
    if shots:
        at_once = max(1, batch // max(map(len, answers)))
        (scores,) = generate(embedder, [Group(prefix, prompts, answers)], writer.tokenizer, (), 0, at_once)[1]
    else:
        pairs = zip(prompts, answers, strict=True)
        found = iter(log_probabilities(embedder, [(prefix + prompt, one) for prompt, own in pairs for one in own]))
        scores = [[next(found) for _ in own] for own in answers]
    return [question.choices[own.index(max(own))] for question, own in zip(questions, scores, strict=True)]


def _answers(benchmark: Benchmark, question: Question) -> Sequence[str]:
    """The choices as a demonstration would give them."""
    lettered = benchmark.official and benchmark.metric in LETTERED
    return ascii_uppercase[: len(question.choices)] if lettered else question.choices


def log_probabilities(embedder: PromptEmbedder, options: Sequence[tuple[Segment, tuple[int, ...]]]) -> list[float]:
    """For each (prompt, answer), the answer's log-probability in nats."""
    batches = (options[start : start + BATCH] for start in range(0, len(options), BATCH))
    return [result for batch in batches for result in _batch_log_probabilities(embedder, batch)]


@torch.inference_mode()
def _batch_log_probabilities(
    embedder: PromptEmbedder, options: Sequence[tuple[Segment, tuple[int, ...]]]
) -> list[float]:
    """Sequences are padded on the right, where causal attention never sees the padding."""
    embedder.see(picture for prompt, _ in options for picture in prompt.pictures)
    inputs = [embedder.embed(prompt + Segment(answer)) for prompt, answer in options]
    padded = torch.nn.utils.rnn.pad_sequence(inputs, batch_first=True)
    lengths = torch.tensor([len(one) for one in inputs], device=padded.device)
    mask = torch.arange(padded.shape[1], device=padded.device) < lengths[:, None]
    tail = max(int(lengths.max()) - len(one) + len(answer) for one, (_, answer) in zip(inputs, options, strict=True))
    outputs = embedder.decoder.model(inputs_embeds=padded, attention_mask=mask.long(), use_cache=False)
    hidden, head = outputs.last_hidden_state[:, -(tail + 1) :], embedder.decoder.lm_head
    rows = hidden.split(max(1, LOGITS // (hidden.shape[1] * head.out_features)))
    results = []
    for logits, length, (_, answer) in zip(
        chain.from_iterable(map(head, rows)), lengths.tolist(), options, strict=True
    ):
        first = length - len(answer) - 1 - (padded.shape[1] - hidden.shape[1])
        own = logits[first : first + len(answer)].float().log_softmax(dim=-1)
        ids = torch.tensor(answer, device=own.device)
        results.append(float(own.gather(1, ids[:, None]).sum()))
    return results
