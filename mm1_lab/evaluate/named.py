"""Checks the benchmarks that a data file or a scale lists before anything runs, and builds them."""

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from string import ascii_uppercase
from typing import get_args

from mm1_lab.config import (
    BenchmarkConfig,
    BenchmarkFiles,
    EvaluationSettings,
    EvaluationStage,
    RequestError,
)
from mm1_lab.data.types import BrokenPicture, Picture, Tokenizer
from mm1_lab.evaluate.benchmark_files import files_digest
from mm1_lab.evaluate.choosing import LETTERED, choose, format_of
from mm1_lab.evaluate.fitting import too_long
from mm1_lab.evaluate.image_files import open_images, undecodable
from mm1_lab.evaluate.items import Item
from mm1_lab.evaluate.metrics import names_of
from mm1_lab.evaluate.questions import (
    LONGEST_ANSWER,
    LONGEST_CAPTION,
    LONGEST_SOLUTION,
    Benchmark,
    Family,
    Question,
    in_blocks,
    with_rotations,
)

TRIED = 16
"""Images of the questions, and of the demonstrations, that are decoded before a run."""
PROMPT = "Question: {question} Short answer:"
"""The prompt of OpenFlamingo; the paper does not state its prompts. Captions have none."""
MEANS = {
    "vqa": "VQA accuracy with the official program's quirks",
    "textvqa": "VQA accuracy with the normalisation of TextVQA's evaluator",
    "answer": "only what follows the last `the answer is` counts",
    "circular": "a question counts only if it is answered correctly in every order of its choices",
    "yes-no": "an answer counts as no if its first sentence contains no or not, else as yes, as in POPE's program",
}
"""Remark on a metric for a benchmark's note."""


def check_benchmarks(
    configs: Sequence[BenchmarkConfig],
    settings: EvaluationSettings,
    cache: Path | None = None,
    others: Iterable[str] = (),
) -> list[BenchmarkConfig]:
    """The benchmarks with their number of prompts. `others` are the names of the data's own benchmarks.

    Raises RequestError for the first problem that would make an evaluation fail; of the images, `TRIED` are decoded.
    """
    names = Counter(others)
    for config in configs:
        if config.name in (*get_args(Family), "average", "content"):
            raise RequestError(
                f"benchmark {config.name!r}: the measure `{config.name} 0-shot` is the mean of a kind of benchmark; "
                "rename it"
            )
        names.update(names_of(config.name, config.metric))
    for name, count in names.items():
        if not name or count > 1:
            raise RequestError(f"{count} benchmarks are named {name!r}; give each a unique name")
    return [_checked(config, settings, cache) for config in configs]


def _checked(config: BenchmarkConfig, settings: EvaluationSettings, cache: Path | None) -> BenchmarkConfig:
    for count in config.shots or ():
        if count not in settings.shots:
            raise RequestError(
                f"benchmark {config.name!r}: shots {count} is not among those of the evaluation, "
                f"{list(settings.shots)}; remove it, or add it there (--set evaluate.shots=[…])"
            )
    questions, examples, _ = choose(config, _settings_of(config, settings), cache)
    _try_pictures(config, _pictures(config, config, questions))
    if config.demonstrations:
        _try_pictures(config, _pictures(config, config.demonstrations, examples))
    # as evaluate/run.py asks: each order of the choices, and each choice's likelihood
    choices = [len(item.choices) for item in questions]
    prompts = sum(choices) if config.metric == "circular" else len(questions)
    if all(choices):
        prompts += sum(choices)
    return config.model_copy(update={"prompts_per_shot": prompts})


def build_benchmark(
    config: BenchmarkConfig, settings: EvaluationSettings, tokenizer: Tokenizer, cache: Path | None = None
) -> Benchmark:
    """Builds the benchmark; the selection of its questions is cached in `cache`.

    Raises RequestError if its files have changed since the trial was planned.
    """
    if files_digest(config) != config.digest:
        raise RequestError(
            f"the files of the benchmark {config.name!r} changed while the sweep was running; run it again"
        )
    settings = _settings_of(config, settings)
    items, examples, published = choose(config, settings, cache)
    questions = _questions(config, config, items)
    shown = _questions(config, config.demonstrations, examples) if config.demonstrations else []
    blocks, demonstrations = in_blocks(questions, shown, settings)
    new_tokens = config.new_tokens or _new_tokens(config, questions, shown, tokenizer)
    note = _note(config, len(questions), published)
    cut = sum(len(tokenizer.encode(question.shown)) > new_tokens for question in questions)
    if cut:
        note += f"; answers end after {new_tokens} tokens (`new_tokens`), which {cut} right ones exceed"
    return Benchmark(
        name=config.name,
        family=_family(config, items),
        mirrors=format_of(config).mirrors,
        metric=config.metric,
        blocks=blocks,
        demonstrations=demonstrations,
        shots=config.shots,
        stop=config.stop,
        new_tokens=new_tokens,
        official=True,
        note=note,
    )


def _new_tokens(config: BenchmarkConfig, questions: list[Question], shown: list[Question], tokenizer: Tokenizer) -> int:
    """Room for the longest answer or choice, and one token more; at most the limit of its kind of answer."""
    limit = {"cider": LONGEST_CAPTION, "answer": LONGEST_SOLUTION}.get(config.metric, LONGEST_ANSWER)
    if config.metric in ("yes-no", "answer"):  # models answer in sentences where demonstrations do not
        return limit
    longest = 0
    for question in (*questions, *shown):
        for text in (question.shown, *question.choices):
            longest = max(longest, len(tokenizer.encode(text)))
    return min(longest + 1, limit) if longest else limit


def family_of(config: BenchmarkConfig, settings: EvaluationSettings, cache: Path | None = None) -> Family:
    """The family of the benchmark's scores."""
    items, _, _ = choose(config, _settings_of(config, settings), cache)
    return _family(config, items)


def _family(config: BenchmarkConfig, items: Sequence[Item]) -> Family:
    if config.metric == "cider":
        return "captioning"
    return "vqa" if any(item.images for item in items) else "text"


def check_lengths(stages: Sequence[EvaluationStage], tokenizer: Tokenizer, cache: Path | None = None) -> None:
    """Raises RequestError if a prompt with its demonstrations and answer exceeds the context length of a model."""

    def named(stage: EvaluationStage) -> list[Benchmark]:
        return [build_benchmark(config, stage.settings, tokenizer, cache) for config in stage.benchmarks]

    for found in too_long(stages, named, tokenizer):
        raise RequestError(str(found))


def _settings_of(config: BenchmarkConfig, settings: EvaluationSettings) -> EvaluationSettings:
    return settings.model_copy(update={"shots": config.shots}) if config.shots else settings


def _questions(config: BenchmarkConfig, files: BenchmarkFiles, items: list[Item]) -> list[Question]:
    template, pictures = _prompt(config), _pictures(config, files, items)
    questions = []
    for item in items:
        is_caption = config.metric == "cider" and item.kind == "question"
        question = Question(
            key=item.key,
            kind="caption" if is_caption else item.kind,
            pictures=pictures[item.key],
            prompt=_filled_prompt(template, item.question, item.choices),
            references=item.answers,
            shown=_shown(config, item),
            choices=item.choices,
        )
        if config.metric == "circular":
            question = with_rotations(question, partial(_filled_prompt, template, item.question))
        questions.append(question)
    return questions


def _prompt(config: BenchmarkConfig) -> str:
    """The prompt template, with `{question}`; for captions, empty by default."""
    if config.prompt is not None:
        return config.prompt
    return "" if config.metric == "cider" else PROMPT


def _filled_prompt(template: str, question: str, choices: Sequence[str]) -> str:
    options = [f"{chr(ord('A') + place)}. {choice}" for place, choice in enumerate(choices)]
    return template.replace("{question}", " ".join([question, *options]))


def _shown(config: BenchmarkConfig, item: Item) -> str:
    """What a demonstration answers: the most common answer, or a caption; if letters count, that of the choice; after a
    worked solution, what the metric `answer` looks for."""
    if not item.answers:
        return ""
    answer = Counter(item.answers).most_common(1)[0][0]
    if item.solution:
        return f"{' '.join(item.solution.split())} The answer is {answer}."
    return ascii_uppercase[item.choices.index(answer)] if config.metric in LETTERED else answer


def _pictures(config: BenchmarkConfig, files: BenchmarkFiles, items: list[Item]) -> dict[str, tuple[Picture, ...]]:
    """The pictures of each question, one object per file: the model encodes it once for all questions about it.

    Raises RequestError for a missing image.
    """
    opened: dict[str, Picture] = {}
    found = {}
    for item in items:
        for name in item.images:
            if name in opened:
                continue
            images = open_images(Path(files.images), config.pictures, config.largest_picture)
            picture = images.picture(name)
            if picture is None:
                raise RequestError(
                    f"{files.images}: has no image {name!r} of question {item.key}; fetch it, or set `image_name` to "
                    "the pattern of the image names"
                )
            opened[name] = picture
        found[item.key] = tuple(opened[name] for name in item.images)
    return found


def _try_pictures(config: BenchmarkConfig, found: dict[str, tuple[Picture, ...]]) -> None:
    pictures = [picture for own in found.values() for picture in own]
    try:
        for picture in pictures[:TRIED]:
            picture.pixels(1)
    except BrokenPicture as error:
        raise RequestError(f"benchmark {config.name!r}: {undecodable(error)}") from None


def _note(config: BenchmarkConfig, asked: int, published: int) -> str:
    """The remarks that tables must show with the scores."""
    asked_of = f"{asked:,} of {published:,} questions of {_file_name(config)}"
    if config.split:
        asked_of += f", split {config.split}"
    parts = [asked_of]
    if config.demonstrations:
        parts.append(f"demonstrations from {_file_name(config.demonstrations)}")
    prompt = _prompt(config)
    parts.append(f"prompt {prompt!r}" if prompt else "no prompt")
    parts.append("an answer ends at " + " or ".join(map(repr, config.stop)))
    if config.metric in MEANS:
        parts.append(MEANS[config.metric])
    if config.format == "okvqa":  # v1.1; OpenFlamingo stems predictions in the same way, with a part-of-speech tagger
        parts.append("answers are word stems (`ride`, `cloth`), predictions are not stemmed, so some do not match")
    if config.metric == "cider" and asked < published:
        parts.append("CIDEr's word weights come from these questions only; not comparable with that of the whole split")
    return "; ".join(parts)


def _file_name(files: BenchmarkFiles) -> str:
    return Path(files.questions or files.annotations or files.format).name
