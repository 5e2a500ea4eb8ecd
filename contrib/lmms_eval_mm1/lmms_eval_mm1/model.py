"""An exported MM1 that answers lmms-eval's requests."""

import warnings
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby, islice
from typing import Any

import torch
from lmms_eval.api.instance import GenerationResult
from lmms_eval.api.model import lmms
from transformers import AutoModelForImageTextToText, AutoProcessor

import mm1_lab.model.parts  # noqa: F401  tells transformers of MM1

IMAGE = "<image>"
NEW_TOKENS = 64
"""Where a task does not say how long an answer may be; the longest in chat form have 40."""


class ExportedMM1(lmms):
    """`--model mm1 --model_args pretrained=FOLDER[,device=cuda][,dtype=bfloat16] --batch_size 8`"""

    is_simple = True

    def __init__(
        self, pretrained: str, device: str | None = None, dtype: str = "auto", batch_size: int | str = 1
    ) -> None:
        super().__init__()
        # read by lmms-eval's evaluator where several processes divide the questions; `cuda` is then each one's own GPU
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        if not str(batch_size).isdecimal():
            raise SystemExit(f"mm1: --batch_size {batch_size}: is not a number; give one, such as --batch_size 8")
        self._batch = int(batch_size)
        self._processor = AutoProcessor.from_pretrained(pretrained)
        self._model = AutoModelForImageTextToText.from_pretrained(pretrained, dtype=dtype).to(self.device).eval()

    def generate_until(self, requests: list[Any]) -> list[str]:
        """The answer to each request, up to the first of its stop words."""
        answers: list[str] = []
        asked = (request.args for request in requests)
        for settings, group in groupby(asked, key=lambda arguments: arguments[1]):
            while part := list(islice(group, self._batch)):
                answers += self._answer(part, settings)
        return answers

    def loglikelihood(self, requests: list[Any]) -> list[GenerationResult]:
        """Of each continuation, the mean loss per token in nats, and whether greedy decoding would give it.

        The pairs are wrapped as answers are: lmms-eval 0.7 makes text of bare ones, and its tasks then fail.
        """
        return [GenerationResult(self._loss(*request.args)) for request in requests]

    def generate_until_multi_round(self, requests: list[Any]) -> list[str]:
        raise NotImplementedError("tasks of several rounds are not answered; choose others")

    @torch.inference_mode()
    def _answer(self, asked: list[tuple[Any, ...]], settings: dict[str, Any]) -> list[str]:
        prompts = [
            self._prompt(context, see, document, task, split) for context, _, see, document, task, split in asked
        ]
        batch = self._inputs([text for text, _ in prompts], [pictures for _, pictures in prompts])
        written = self._model.generate(
            **batch, max_new_tokens=int(settings.get("max_new_tokens") or NEW_TOKENS), do_sample=False
        )
        texts = self._processor.batch_decode(written[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
        until = settings.get("until") or []
        stop = [until] if isinstance(until, str) else until
        return [_cut(text, stop) for text in texts]

    @torch.inference_mode()
    def _loss(
        self,
        context: str,
        target: str | Callable[[Any], str],
        see: Callable[[Any], Any],
        document: int,
        task: str,
        split: str,
    ) -> tuple[float, bool]:
        continuation = target if isinstance(target, str) else target(self.task_dict[task][split][document])
        text, pictures = self._prompt(context, see, document, task, split)
        batch = self._inputs([text], [pictures])
        ids = self._processor.tokenizer(_spaced(text, continuation), add_special_tokens=False, return_tensors="pt")[
            "input_ids"
        ]
        ids = ids.to(self.device)
        batch["input_ids"] = torch.cat([batch["input_ids"], ids], dim=1)
        batch["attention_mask"] = torch.ones_like(batch["input_ids"])
        logits = self._model(**batch).logits[0, -ids.shape[1] - 1 : -1].float()
        loss = torch.nn.functional.cross_entropy(logits, ids[0])
        return float(loss), bool((logits.argmax(-1) == ids[0]).all())

    def _prompt(
        self, context: str, see: Callable[[Any], Any], document: int, task: str, split: str
    ) -> tuple[str, list[Any]]:
        """What the model reads of a question in the form that it was trained on, and its pictures."""
        pictures = list(_flat(see(self.task_dict[task][split][document])))
        image = {"type": "image"}
        before, *behind = context.split(IMAGE)
        content = [*([] if behind else [image] * len(pictures)), {"type": "text", "text": before}]
        for piece in behind:
            content += [image, {"type": "text", "text": piece}]
        message = {"role": "user", "content": content}
        return self._processor.apply_chat_template([message], tokenize=False), pictures

    def _inputs(self, texts: list[str], pictures: list[list[Any]]) -> dict[str, torch.Tensor]:
        batch = self._processor(text=texts, images=pictures)
        longest, read = batch["input_ids"].shape[1], self._model.config.text_config.max_position_embeddings
        if longest > read:
            warnings.warn(f"mm1: a prompt of {longest} tokens, where training had {read} at most", stacklevel=2)
        return {name: tensor.to(self.device) for name, tensor in batch.items()}


def _flat(seen: Any) -> Iterator[Any]:
    """Pictures, however deep in lists they are."""
    if isinstance(seen, list | tuple):
        for one in seen:
            yield from _flat(one)
    elif seen is not None:
        yield seen


def _spaced(prompt: str, answer: str) -> str:
    """The answer with the space before it that it has in training, unless prompt or answer bring one."""
    return answer if not prompt or prompt[-1].isspace() or answer[:1].isspace() else f" {answer}"


def _cut(text: str, until: Iterable[str]) -> str:
    ends = [at for word in until if word and (at := text.find(word)) >= 0]
    return text[: min(ends, default=len(text))].strip()
