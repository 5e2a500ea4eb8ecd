"""Runs text-only tasks of EleutherAI's lm-eval on the decoder inside MM1, like the paper's TextCore.

A data file lists lm-eval's own task files (`text_tasks: [arc.yaml]`), whose `dataset_kwargs.data_files` must be local,
with paths relative to the task file. lm-eval writes the prompts and scores the answers; we report its first metric.
"""

import hashlib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mm1_lab.config import EvaluationStage, RequestError, TextTask, nearest, read_yaml
from mm1_lab.data.types import Tokenizer
from mm1_lab.evaluate.embedder import PromptEmbedder
from mm1_lab.evaluate.fitting import context_length
from mm1_lab.evaluate.generation import Group, answer_each, generate
from mm1_lab.evaluate.prompts import Segment
from mm1_lab.model import MM1
from mm1_lab.rows import ScoreRow

METRICS = {"multiple_choice": ("acc", "acc_norm"), "generate_until": ("exact_match",)}
"""Supported metrics by type of output: those that are means over questions."""
NEW_TOKENS = 64
"""Maximum tokens of an answer, if the task sets no limit."""


def open_task(path: Path) -> TextTask:
    """A task with a digest of its files. Raises RequestError if it is not supported or lm-eval is not installed."""
    if not find_spec("lm_eval"):
        raise RequestError(f"{path}: text tasks need lm-eval, which is not installed: pip install 'lm-eval>=0.4.9'")
    values = _read(path)
    listed = values.get("metric_list") or [{}]
    if not isinstance(listed, list) or not isinstance(listed[0], dict):
        raise RequestError(f"{path}: metric_list: must be a list of mappings, such as [{{metric: acc}}]")
    kind, metric = str(values.get("output_type")), listed[0].get("metric")
    for key, value, known in (("output_type", kind, METRICS), ("metric_list", metric, METRICS.get(kind, ()))):
        if value not in known:
            raise RequestError(f"{path}: {key}: {value!r} is not one of {', '.join(known)}{nearest(str(value), known)}")
    if not values.get("task"):
        raise RequestError(f"{path}: has no key `task`; add the task's name")
    digest = hashlib.sha256(path.read_bytes())
    for file in values["dataset_kwargs"]["data_files"].values():
        try:
            digest.update(Path(file).read_bytes())
        except OSError as error:
            raise RequestError(f"{file}: cannot be read ({error.strerror}); correct its path in {path}") from None
    shots = values.get("num_fewshot")  # lm-eval checks it when it builds the task
    return TextTask(
        name=str(values["task"]),
        file=str(path),
        digest=digest.hexdigest()[:16],
        shots=shots if isinstance(shots, int) else 0,
    )


def _read(path: Path) -> dict[str, Any]:
    """The content of the task file, with absolute paths of its data."""
    values = read_yaml(path)
    given = values.get("dataset_kwargs")
    kwargs: dict[str, Any] = given if isinstance(given, dict) else {}
    files = kwargs.get("data_files")
    if not isinstance(files, dict) or not all(isinstance(file, str) for file in files.values()):
        raise RequestError(f"{path}: needs `dataset_kwargs: {{data_files: {{test: FILE}}}}`, as nothing is downloaded")
    whole = {split: str((path.parent / file).resolve()) for split, file in files.items()}
    return values | {"dataset_kwargs": kwargs | {"data_files": whole}}


def ask_text_tasks(stage: EvaluationStage, model: MM1, tokenizer: Tokenizer) -> Iterator[ScoreRow]:
    """Yields a row per question: the first `settings.questions` of each task, at the task's number of shots."""
    from lm_eval import simple_evaluate
    from lm_eval.api.model import LM
    from lm_eval.api.task import ConfigurableTask

    settings, longest = stage.settings, context_length(stage.model)
    embedder = PromptEmbedder.of(stage.model, model, 1)
    begin = Segment((tokenizer.begin,))

    def read(text: str, room: int) -> Segment:
        """The text, truncated on the left so that it fits the decoder with the begin token and `room` more tokens."""
        return begin + Segment(tuple(tokenizer.encode(text)[-max(1, longest - room - 1) :]))

    class Decoder(LM):
        """lm-eval's interface to the decoder, for text without images."""

        def loglikelihood(self, requests: Any, disable_tqdm: bool = True) -> list[tuple[float, bool]]:
            """A question is read once for its choices. None is said to be the greedy answer: only exact_match asks for
            that, which is not among the METRICS of choices."""
            choices: dict[Segment, dict[int, tuple[int, ...]]] = {}
            for number, (context, end) in enumerate(request.args for request in requests):
                answer = tuple(tokenizer.encode(end))
                choices.setdefault(read(context, len(answer)), {})[number] = answer
            groups = [Group(Segment(()), (prompt,), (tuple(own.values()),)) for prompt, own in choices.items()]
            _, scores = generate(embedder, groups, tokenizer, (), 0, settings.batch_size)
            found: dict[int, float] = {}
            for own, (logs,) in zip(choices.values(), scores, strict=True):
                found |= dict(zip(own, logs, strict=True))
            return [(found[number], False) for number in range(len(requests))]

        def generate_until(self, requests: Any, disable_tqdm: bool = True) -> list[str]:
            """Requests with the same limits are answered together."""
            limits = [_limits(request.args[1]) for request in requests]
            answers: dict[int, str] = {}
            for own in dict.fromkeys(limits):
                stop, most = own
                asked = [number for number, limit in enumerate(limits) if limit == own]
                prompts = [(Segment(()), read(requests[number].args[0], most)) for number in asked]
                # a task's filters may read the answer line by line
                texts = answer_each(embedder, prompts, tokenizer, stop, most, settings.batch_size, lines=True)
                answers |= dict(zip(asked, texts, strict=True))
            return [answers[number] for number in range(len(requests))]

        def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = True) -> list[float]:
            raise RequestError("text_tasks: rolling likelihood (perplexity) is not supported; choose other tasks")

    for task in stage.text_tasks:
        if open_task(Path(task.file)) != task:
            raise RequestError(f"{task.file}: the task changed while the sweep was running; run it again")
        lm_task = ConfigurableTask(config=_read(Path(task.file)))
        results = simple_evaluate(Decoder(), tasks=[lm_task], limit=settings.questions, bootstrap_iters=0)
        samples, shots = results["samples"][task.name], int(results["n-shot"][task.name] or 0)
        samples = [sample for sample in samples if sample["filter"] == samples[0]["filter"]]
        metric = lm_task.config.metric_list[0]["metric"]
        for number, sample in enumerate(samples):
            yield ScoreRow(
                benchmark=task.name,
                family="text",
                metric=metric,
                shots=shots,
                block=number * min(settings.blocks, len(samples)) // len(samples),
                question=str(sample["doc_id"]),
                kind=task.name,
                score=100.0 * float(sample[metric]),
                prediction=_prediction(lm_task, sample, metric),
                parsed=True,
            )


def _limits(arguments: dict[str, Any]) -> tuple[tuple[str, ...], int]:
    """Stop words and the maximum tokens of an answer."""
    until = arguments.get("until") or ()
    return (until,) if isinstance(until, str) else tuple(until), int(arguments.get("max_gen_toks") or NEW_TOKENS)


def _prediction(lm_task: Any, sample: dict[str, Any], metric: str) -> str:
    """The answer as its filter leaves it, or the choice that lm-eval scores."""
    answers = sample["filtered_resps"]  # a text, or for each choice its likelihood and whether it is the greedy answer
    if isinstance(answers[0], str):
        return str(answers[0]).strip()
    choices = list(map(str, lm_task.doc_to_choice(sample["doc"])))
    lengths = [len(choice) if metric == "acc_norm" else 1 for choice in choices]
    scores = [float(log) / length for (log, _), length in zip(answers, lengths, strict=True)]
    return choices[scores.index(max(scores))].strip()
