"""Builds the benchmarks that a data file or a scale lists, and validates them before anything runs."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import get_args

from mm1_lab.config import (
    LARGEST_PICTURE,
    BenchmarkConfig,
    BenchmarkFiles,
    EvaluationSettings,
    EvaluationStage,
    RequestError,
    digest,
    nearest,
)
from mm1_lab.data.decoding import Shape
from mm1_lab.data.types import BrokenPicture, Picture, Tokenizer
from mm1_lab.evaluate.choosing import LETTERED, choose, format_of
from mm1_lab.evaluate.fitting import too_long
from mm1_lab.evaluate.formats import FORMATS
from mm1_lab.evaluate.image_files import open_images, undecodable
from mm1_lab.evaluate.items import Item, regular
from mm1_lab.evaluate.metrics import METRICS, names_of
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
MEANS = {
    "vqa": "VQA accuracy with the official program's quirks",
    "textvqa": "VQA accuracy with the normalisation of TextVQA's evaluator",
    "answer": "only what follows the last `the answer is` counts",
    "circular": "a question counts only if it is answered correctly in every order of its choices",
    "yes-no": "an answer counts as no if its first sentence contains no or not, else as yes, as in POPE's program",
}
"""Remark on a metric for a benchmark's note."""


def open_benchmark(
    config: BenchmarkConfig, folder: Path, where: str, shape: Shape = "squeeze", largest: int = LARGEST_PICTURE
) -> BenchmarkConfig:
    """Completes a configuration: absolute paths, format, metric and a digest of its files.

    `shape` and `largest` are the data file's settings for images. Raises RequestError for a missing key, an unknown
    metric or format, or a missing file.
    """
    images = {"pictures": shape, "largest_picture": largest}
    not_given = {key: value for key, value in images.items() if key not in config.model_fields_set}
    opened = config.model_copy(update=not_given | _absolute(config, config.name, folder))
    metric = opened.metric or format_of(opened).metric
    missing = [key for key in format_of(opened).needs if not getattr(opened, key)]
    if missing:
        raise RequestError(f"{where}: the format {opened.format} needs the key {missing[0]!r}")
    if metric not in METRICS and metric != "cider":
        raise RequestError(f"{where}: there is no metric {metric!r}{nearest(metric, [*METRICS, 'cider'])}")
    examples = config.demonstrations
    if examples is None and opened.format == "coco":
        examples = BenchmarkFiles(split="train")
    if examples is not None:
        inherited = ["format", "images", "image_name"]
        inherited += ["annotations"] if opened.format == "coco" else []
        given = {key: getattr(opened, key) for key in inherited} | examples.model_dump(exclude_defaults=True)
        examples = BenchmarkFiles(**{"split": "train" if given["format"] == "coco" else ""} | given)
        examples = examples.model_copy(update=_absolute(examples, opened.format, folder))
        # A program may read the images' folder, and need no other file.
        keys = ["format", "questions", "annotations", "split"] + ["images"] * examples.format.endswith(".py")
        if all(getattr(examples, key) == getattr(opened, key) for key in keys):
            raise RequestError(f"{where}.demonstrations: are the same as the questions; name a training split")
    opened = opened.model_copy(update={"metric": metric, "demonstrations": examples})
    return opened.model_copy(update={"digest": _digest(opened)})


def _absolute(files: BenchmarkFiles, name: str, folder: Path) -> dict[str, str]:
    """The format and absolute paths; in a user's own format, images are in the data file's folder by default."""
    kind = files.format or (name if name in FORMATS else "jsonl")
    paths = {key: getattr(files, key) for key in ("questions", "annotations", "images")}
    if kind in ("jsonl", "python") or kind.endswith(".py"):
        paths["images"] = paths["images"] or "."
    absolute = {key: str((folder / Path(path).expanduser()).resolve()) for key, path in paths.items() if path}
    return absolute | {"format": str((folder / kind).resolve()) if kind.endswith(".py") else kind}


def _digest(config: BenchmarkConfig) -> str:
    """Hash of the formats and file contents. Raises RequestError if a file cannot be read."""
    # Benchmarks whose scores changed are not the same as before: in 0.2.0 those with likelihoods of letters, in 0.3.0
    # those where ten equal answers with blanks around them match a prediction without, and those of worked solutions.
    changed = {"choice": "letters", "circular": "letters", "vqa": "blanks", "answer": "solutions"}
    parts = [changed[config.metric]] if config.metric in changed else []
    for files in (config, config.demonstrations) if config.demonstrations else (config,):
        parts.append(Path(files.format).suffix or files.format)
        for path in (files.questions, files.annotations, files.format if files.format.endswith(".py") else ""):
            if path:
                parts.append(_file_digest(path))
    return digest(parts)


def _file_digest(path: str) -> str:
    try:
        with regular(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise RequestError(f"{path}: cannot be read ({error.strerror}); paths are relative to the data file") from None


def check_benchmarks(
    configs: Sequence[BenchmarkConfig],
    settings: EvaluationSettings,
    cache: Path | None = None,
    others: Iterable[str] = (),
) -> list[BenchmarkConfig]:
    """The benchmarks with the number of prompts that will be `asked`.

    Raises RequestError for the first problem that would make an evaluation fail; of the images, `TRIED` are decoded.
    `others` are the names of the data's own benchmarks and of text tasks.
    """
    check_names(config.name for config in configs)
    names = Counter([*others, *(name for config in configs for name in names_of(config.name, config.metric))])
    for name, count in names.items():
        if not name or count > 1:
            raise RequestError(f"{count} benchmarks are named {name!r}; give each a unique name")
    checked = []
    for config in configs:
        if unknown := set(config.shots or ()) - set(settings.shots):
            raise RequestError(
                f"benchmark {config.name!r}: shots {min(unknown)} is not among those of the evaluation, "
                f"{list(settings.shots)}; remove it, or add it there (--set evaluate.shots=[…])"
            )
        questions, examples, _ = choose(config, _settings_of(config, settings), cache)
        _try_pictures(config, _pictures(config, config, questions))
        if config.demonstrations:
            _try_pictures(config, _pictures(config, config.demonstrations, examples))
        checked.append(config.model_copy(update={"prompts_per_shot": _asked(config, questions)}))
    return checked


def check_names(names: Iterable[str]) -> None:
    """Raises RequestError for the name of a family: `vqa 0-shot` would mean the mean over all visual questions."""
    for name in names:
        if name in (*get_args(Family), "imported", "average", "content"):
            raise RequestError(
                f"benchmark {name!r}: the measure `{name} 0-shot` is the mean of a kind of benchmark; rename it"
            )


def _asked(config: BenchmarkConfig, items: Sequence[Item]) -> int:
    """The prompts at each number of shots, as evaluate/run.py makes them."""
    choices = [len(item.choices) for item in items]
    orders = sum(choices) if config.metric == "circular" else len(items)
    return orders + (sum(choices) if all(choices) and items[0].answers else 0)


def build_benchmark(
    config: BenchmarkConfig, settings: EvaluationSettings, tokenizer: Tokenizer, cache: Path | None = None
) -> Benchmark:
    """Builds the benchmark; the selection of its questions is cached in `cache`.

    Raises RequestError if its files have changed since the trial was planned.
    """
    if _digest(config) != config.digest:
        raise RequestError(
            f"the files of the benchmark {config.name!r} changed while the sweep was running; run it again"
        )
    settings = _settings_of(config, settings)
    items, examples, published = choose(config, settings, cache)
    questions = _questions(config, config, items)
    shown = _questions(config, config.demonstrations, examples) if config.demonstrations else []
    longest = {"cider": LONGEST_CAPTION, "answer": LONGEST_SOLUTION}.get(config.metric, LONGEST_ANSWER)
    answers = [len(tokenizer.encode(question.shown)) for question in questions]
    said = [question.shown for question in shown]
    said += [choice for question in (*questions, *shown) for choice in question.choices]
    lengths = (
        [longest] if config.metric in ("yes-no", "answer") else answers + [len(tokenizer.encode(text)) for text in said]
    )
    blocks, demonstrations = in_blocks(questions, shown, settings)
    has_answers = bool(items[0].answers)
    new_tokens = config.new_tokens or min((max(lengths, default=0) or longest) + 1, longest)
    cut = sum(length > new_tokens for length in answers)
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
        submission=None if has_answers else format_of(config).submission,
        note=_note(config, len(questions), published)
        + (f"; answers end after {new_tokens} tokens (`new_tokens`), which {cut} right ones exceed" if cut else ""),
    )


def family_of(config: BenchmarkConfig, settings: EvaluationSettings, cache: Path | None = None) -> Family | None:
    """The family of the benchmark's scores; None if it has none, as its answers are not published."""
    items, _, _ = choose(config, _settings_of(config, settings), cache)
    return _family(config, items) if items[0].answers else None


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
    questions = [
        Question(
            item.key,
            "caption" if config.metric == "cider" and item.kind == "question" else item.kind,
            pictures[item.key],
            _filled_prompt(template, item.question, item.choices),
            item.answers,
            _shown(config, item),
            item.choices,
        )
        for item in items
    ]
    if config.metric != "circular":
        return questions
    pairs = zip(questions, items, strict=True)
    return [with_rotations(question, partial(_filled_prompt, template, item.question)) for question, item in pairs]


def _prompt(config: BenchmarkConfig) -> str:
    """The prompt template, with `{question}`; for captions, empty by default."""
    if config.prompt is not None:
        return config.prompt
    return "" if config.metric == "cider" else format_of(config).prompt


def _filled_prompt(template: str, question: str, choices: Iterable[str]) -> str:
    options = [f"{chr(ord('A') + number)}. {choice}" for number, choice in enumerate(choices)]
    return template.replace("{question}", " ".join([question, *options]))


def _shown(config: BenchmarkConfig, item: Item) -> str:
    """What a demonstration answers: the most common answer, or a caption; if letters count, that of the choice; after a
    worked solution, what the metric `answer` looks for."""
    if not item.answers:
        return ""
    answer = Counter(item.answers).most_common(1)[0][0]
    if item.solution:
        return f"{' '.join(item.solution.split())} The answer is {answer}."
    return chr(ord("A") + item.choices.index(answer)) if config.metric in LETTERED else answer


def _pictures(config: BenchmarkConfig, files: BenchmarkFiles, items: list[Item]) -> dict[str, tuple[Picture, ...]]:
    """The pictures of each question, one object per file: the model encodes it once for all questions about it.

    Raises RequestError for a missing image.
    """
    found: dict[str, Picture] = {}

    def picture(item: Item, name: str) -> Picture:
        one = found.get(name) or open_images(Path(files.images), config.pictures, config.largest_picture).picture(name)
        if one is None:
            raise RequestError(
                f"{files.images}: has no image {name!r} of question {item.key}; fetch it, or set `image_name` to the "
                "pattern of the image names"
            )
        return found.setdefault(name, one)

    return {item.key: tuple(picture(item, name) for name in item.images) for item in items}


def _try_pictures(config: BenchmarkConfig, pictures: dict[str, tuple[Picture, ...]]) -> None:
    try:
        for picture in islice(chain.from_iterable(pictures.values()), TRIED):
            picture.pixels(1)
    except BrokenPicture as error:
        raise RequestError(f"benchmark {config.name!r}: {undecodable(error)}") from None


def _note(config: BenchmarkConfig, asked: int, published: int) -> str:
    """The remarks that tables must show with the scores."""
    prompt = _prompt(config)
    file = Path(config.questions or config.annotations or config.format).name
    parts = [f"{asked:,} of {published:,} questions of {file}" + (f", split {config.split}" if config.split else "")]
    if config.demonstrations:
        shown = config.demonstrations
        parts.append(f"demonstrations from {Path(shown.questions or shown.annotations or shown.format).name}")
    parts.append(f"prompt {prompt!r}" if prompt else "no prompt")
    parts.append("an answer ends at " + " or ".join(map(repr, config.stop)))
    parts += [MEANS[config.metric]] if config.metric in MEANS else []
    if config.format == "okvqa":  # v1.1; OpenFlamingo stems predictions in the same way, with a part-of-speech tagger
        parts.append("answers are word stems (`ride`, `cloth`), predictions are not stemmed, so some do not match")
    if config.metric == "cider" and asked < published:
        parts.append("CIDEr's word weights come from these questions only; not comparable with that of the whole split")
    return "; ".join(parts)
