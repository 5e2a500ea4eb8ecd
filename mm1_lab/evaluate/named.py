"""Benchmarks that a data file or a scale lists, published or a user's own: opened, checked before a run, built."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from string import ascii_uppercase
from typing import TypeVar, get_args

from mm1_lab.config import BenchmarkConfig, BenchmarkFiles, EvaluationSettings, RequestError, Shape, digest, nearest
from mm1_lab.data.pixels import ImageDecoder, StoredPicture, files_apart, read_file
from mm1_lab.data.shards.readers import chat_prompt
from mm1_lab.data.types import BrokenPicture, Tokenizer
from mm1_lab.evaluate.chosen import CHOSEN_VERSION, choose, prompt_of, settings_of
from mm1_lab.evaluate.formats import FORMATS, Item, format_of, main_file
from mm1_lab.evaluate.metrics import METRICS, names_of
from mm1_lab.evaluate.questions import SHORTEST_LIMIT, Benchmark, Question, in_blocks, longer_captions, with_rotations
from mm1_lab.files import expanded, spelt_otherwise
from mm1_lab.rows import Family

Files = TypeVar("Files", bound=BenchmarkFiles)

TRIED = 16
"""Images of the questions, and of the demonstrations, that are decoded before a run."""


def open_benchmark(config: BenchmarkConfig, folder: Path, where: str, shape: Shape) -> BenchmarkConfig:
    """Completes a configuration: absolute paths, format, metric and a digest of its files.

    `shape` is how the data file has images made square. Raises RequestError for what is missing or unknown.
    """
    kind = config.format or (config.name if config.name in FORMATS else "jsonl")
    opened = _located(config.model_copy(update={"format": kind}), folder, where)
    metric = opened.metric or format_of(opened).metric
    known = [name for name, one in METRICS.items() if one.named]
    if not metric:
        raise RequestError(
            f"{where}: is read as {opened.format}, which needs the key 'metric' (benchmarks in no built-in format run "
            "in lmms-eval, docs/your-own-model.md)"
        )
    if metric not in known:
        raise RequestError(f"{where}: there is no metric {metric!r}{nearest(metric, known)}")
    examples = _open_demonstrations(opened, folder, f"{where}.demonstrations")
    update = {"metric": metric, "demonstrations": examples}
    if config.prompt == "chat":
        update["prompt"] = chat_prompt("{question}")
    if "pictures" not in config.model_fields_set:
        update["pictures"] = shape
    opened = opened.model_copy(update=update)
    return opened.model_copy(update={"digest": files_digest(opened)})


def _open_demonstrations(opened: BenchmarkConfig, folder: Path, where: str) -> BenchmarkFiles | None:
    """The training split, with what it shares with the questions; COCO's is in the same file."""
    examples = opened.demonstrations
    if examples is None and opened.format != "coco":
        return None
    values = {"format": opened.format, "images": opened.images}
    if opened.format == "coco":
        values["annotations"] = opened.annotations
    if examples:
        values |= examples.model_dump(exclude_defaults=True)
    if values["format"] == "coco":
        values.setdefault("split", "train")
    examples = _located(BenchmarkFiles(**values), folder, where)
    compared = ["format", "questions", "annotations", "split"]
    if examples.format.endswith(".py"):  # a program may read the images' folder, and need no other file
        compared.append("images")
    if all(getattr(examples, key) == getattr(opened, key) for key in compared):
        raise RequestError(f"{where}: are the same as the questions; name a training split")
    return examples


def _located(files: Files, folder: Path, where: str) -> Files:
    """The files with absolute paths; where the format does not need a folder of images, they are by default in the data
    file's.

    Raises RequestError if a key that the format needs is missing.
    """
    paths = {"questions": files.questions, "annotations": files.annotations, "images": files.images or "."}
    if files.format.endswith(".py"):
        paths["format"] = files.format
    for key in format_of(files).needs:
        if not getattr(files, key):
            raise RequestError(f"{where}: the format {files.format} needs the key {key!r}")
    absolute = {key: str((folder / expanded(path)).resolve()) for key, path in paths.items() if path}
    return files.model_copy(update=absolute)


def files_digest(config: BenchmarkConfig) -> str:
    """Hash of the formats and file contents. Raises RequestError if a file cannot be read."""
    parts = [str(CHOSEN_VERSION)]
    if anew := METRICS[config.metric].scored_anew:
        parts.append(anew)
    for files in (config, config.demonstrations):
        if files is None:
            continue
        parts.append(Path(files.format).suffix or files.format)
        paths = [files.questions, files.annotations]
        if files.format.endswith(".py"):
            paths.append(files.format)
        for path in filter(None, paths):
            try:
                with open(path, "rb") as file:
                    parts.append(hashlib.file_digest(file, "sha256").hexdigest())
            except OSError as error:
                lack = f"{path}: cannot be read ({error.strerror}); paths are relative to the data file"
                raise RequestError(lack) from None
    return digest(parts)


def check_benchmarks(
    configs: Sequence[BenchmarkConfig],
    settings: EvaluationSettings,
    cache: Path | None = None,
    others: Iterable[str] = (),
) -> tuple[BenchmarkConfig, ...]:
    """The benchmarks with a digest of their images. Raises RequestError for the first problem that would make an
    evaluation fail; of the images, `TRIED` are decoded.

    `others` are the names of the data's own benchmarks.
    """
    names = Counter(others)
    for config in configs:
        if config.name in (*get_args(Family), "average"):
            raise RequestError(
                f"benchmark {config.name!r}: the measure `{config.name} 0-shot` is the mean of a kind of benchmark; "
                "rename it"
            )
        names.update(names_of(config.name, config.metric))
    for name, count in names.items():
        if not name or count > 1:
            raise RequestError(f"{count} benchmarks are named {name!r}; give each a unique name")
    return tuple(_check(config, settings, cache) for config in configs)


def _check(config: BenchmarkConfig, settings: EvaluationSettings, cache: Path | None) -> BenchmarkConfig:
    for count in config.shots or ():
        if count not in settings.shots:
            raise RequestError(
                f"benchmark {config.name!r}: shots {count} is not among those of the evaluation, "
                f"{list(settings.shots)}; remove it, or add it there (--set evaluate.shots=[…])"
            )
    questions, examples, _ = choose(config, settings, cache)
    told = []
    for files, items in ((config, questions), (config.demonstrations, examples)):
        if files is None:
            continue
        pictures = _pictures(config, files, items)
        try:
            for picture in list(pictures.values())[:TRIED]:
                picture.pixels(1)
        except BrokenPicture as error:
            raise RequestError(
                f"benchmark {config.name!r}: {error}: cannot be decoded; repair the image, or remove its question"
            ) from None
        folder = Path(files.images)
        told += files_apart(folder, [os.path.relpath(one.name, folder) for one in pictures.values()])[0]
    return config.model_copy(update={"images_digest": digest(told)}) if told else config


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
    items, examples, published = choose(config, settings, cache)
    questions = _questions(config, config, items)
    shown = _questions(config, config.demonstrations, examples) if config.demonstrations else []
    blocks, demonstrations = in_blocks(questions, shown, settings_of(config, settings))
    family: Family = "captioning"
    if not METRICS[config.metric].free:
        family = "vqa" if any(item.images for item in items) else "text"
    new_tokens = config.new_tokens or _new_tokens(config, questions, shown, tokenizer)
    note = _note(config, questions, published, bool(shown))
    if METRICS[config.metric].free and (longer := longer_captions(questions, tokenizer, new_tokens)):
        note += f"; {longer} (`new_tokens` in its entry)"
    return Benchmark(
        name=config.name,
        family=family,
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
    """Room for the longest answer or choice and one token more, and for `SHORTEST_LIMIT`; at most the limit of its kind
    of answer."""
    metric = METRICS[config.metric]
    if metric.sentences:
        return metric.longest
    longest = 0
    for question in (*questions, *shown):
        right = () if metric.free else question.references
        for text in (question.shown, *right, *question.choices):
            longest = max(longest, len(tokenizer.encode(text)))
    return min(max(longest + 1, SHORTEST_LIMIT), metric.longest)


def _questions(config: BenchmarkConfig, files: BenchmarkFiles, items: list[Item]) -> list[Question]:
    template = prompt_of(config)
    pictures = _pictures(config, files, items)
    questions = []
    for item in items:
        question = Question(
            key=item.key,
            kind="caption" if METRICS[config.metric].free and item.kind == "question" else item.kind,
            pictures=tuple(pictures[name] for name in item.images),
            prompt=_filled_prompt(template, item.question, item.choices),
            references=item.answers,
            shown=_shown(config, item),
            choices=item.choices,
        )
        if config.metric == "circular":
            question = with_rotations(question, partial(_filled_prompt, template, item.question))
        questions.append(question)
    return questions


def _filled_prompt(template: str, question: str, choices: Sequence[str]) -> str:
    words = [question]
    for letter, choice in zip(ascii_uppercase, choices, strict=False):
        words.append(f"{letter}. {choice}")
    return template.replace("{question}", " ".join(words))


def _shown(config: BenchmarkConfig, item: Item) -> str:
    """What a demonstration answers: the most common answer, or a caption; if letters count, that of the choice; for the
    metric `answer`, a worked solution before it."""
    if not item.answers:
        return ""
    answer = Counter(item.answers).most_common(1)[0][0]
    if METRICS[config.metric].lettered:
        return ascii_uppercase[item.choices.index(answer)]
    if config.metric == "answer" and item.solution:
        return f"{' '.join(item.solution.split())} The answer is {answer}."
    return answer


def _pictures(config: BenchmarkConfig, files: BenchmarkFiles, items: list[Item]) -> dict[str, StoredPicture]:
    """The pictures of the questions by name, one object per file: the model encodes it once for all questions about it.

    Raises RequestError for a missing image.
    """
    folder = Path(files.images)
    flat = format_of(files).flat
    decoder = ImageDecoder(config.pictures)
    found = {}
    for item in items:
        for name in item.images:
            if name in found:
                continue
            path = _find_image(folder, name, flat)
            if path is None:
                raise RequestError(
                    f"{folder}: has no image {name[:80]!r} of question {item.key}{spelt_otherwise(folder, name)}; "
                    "fetch it, unpack its archive, or name its folder"
                )
            found[name] = StoredPicture(str(path), partial(read_file, path), decoder, key=path)
    return found


def _find_image(folder: Path, name: str, flat: bool) -> Path | None:
    """The image of that name; where `flat` also without its first folders."""
    while name and not os.path.isfile(folder / name):  # no error, as Path's, for what is too long for a name
        name = name.partition("/")[2] if flat else ""
    return folder / name if name else None


def _note(config: BenchmarkConfig, questions: Sequence[Question], published: int, is_shown: bool) -> str:
    """The remarks that tables must show with the scores."""
    asked = len(questions)
    asked_of = f"{asked:,} of {published:,} questions of {Path(main_file(config)).name}"
    if config.split:
        asked_of += f", split {config.split}"
    parts = [asked_of]
    if config.demonstrations and is_shown:
        parts.append(f"demonstrations from {Path(main_file(config.demonstrations)).name}")
    prompt = prompt_of(config)
    told = f"prompt {prompt!r}" if prompt else "no prompt"
    if any(question.choices for question in questions) and "{question}" in prompt:
        told += ", each question with its choices (A. …)"
    parts.append(told)
    parts.append("an answer ends at " + " or ".join(map(repr, config.stop)))
    if config.format == "okvqa":  # v1.1; OpenFlamingo stems predictions in the same way, with a part-of-speech tagger
        parts.append("answers are word stems (`ride`, `cloth`), predictions are not stemmed, so some do not match")
    if config.metric == "cider" and asked < published:
        parts.append("CIDEr's word weights come from these questions only; not comparable with that of the whole split")
    return "; ".join(parts)
