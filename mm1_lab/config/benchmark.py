"""A benchmark supplied by the user: its files, its prompt and its metric.

    benchmarks:
      vqav2:
        questions: v2_OpenEnded_mscoco_val2014_questions.json
        annotations: v2_mscoco_val2014_annotations.json
        images: val2014
        demonstrations: {questions: …train2014…, annotations: …, images: train2014}
      mine: {questions: mine.jsonl, images: pictures, metric: exact, demonstrations: {questions: train.jsonl}}

Paths are relative to the file that contains them.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, SerializerFunctionWrapHandler, model_serializer

from mm1_lab.config.base import Config, Count, Whole

Shape = Literal["squeeze", "crop", "pad"]
"""How an image is made square: `crop` keeps its centre, `pad` adds borders of grey (128), whatever the encoder."""


def _different(shots: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(shots)) < len(shots):
        raise ValueError("holds a number twice")
    return shots


Shots = Annotated[tuple[Annotated[Whole, Field(le=1000)], ...], Field(min_length=1), AfterValidator(_different)]
"""Different numbers of demonstrations."""


class BenchmarkFiles(Config):
    """The files of one split of a benchmark."""

    NOT_IN_IDENTITY = frozenset({"format", "questions", "annotations", "images"})

    format: str = ""
    """One of the benchmark formats (see Names) or a Python file. Default: the benchmark's name if it is one of these,
    otherwise `jsonl`."""
    questions: str = ""
    """The file with the questions, for formats that have one."""
    annotations: str = ""
    """The file with the answers or captions, for formats that have one."""
    images: str = ""
    """A folder."""
    split: str = ""
    """Which split of a file with several, for `coco` (default: `test`, for demonstrations `train`) and a Python file
    (none); other formats read the whole file."""


class BenchmarkConfig(BenchmarkFiles):
    """A benchmark with its demonstrations, prompt and metric."""

    name: str = ""
    """In a data file the name under which it stands; in a scale to be given."""
    demonstrations: BenchmarkFiles | None = None
    """The benchmark's training split. If not given, `format` and `images` are those of the questions, as are `coco`'s
    `annotations`."""
    metric: str = ""
    """One of the metrics (see Names; what they count is in your-own-data.md). Default: the format's metric."""
    pictures: Shape = "squeeze"
    """How images are made square. Default: as for the images of the data file."""
    prompt: str | None = None
    """Template that contains `{question}`, or `chat`: that of conversations in instruction sets. Default: the format's
    prompt."""
    shots: Shots | None = None
    """Numbers of demonstrations to evaluate with, such as `[0]`; a subset of `evaluate.shots`. Default: all of them."""
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = Field(("\n",), min_length=1)
    """Strings that end an answer; the first one also ends each demonstration."""
    new_tokens: Count | None = None
    """Maximum answer length in tokens. Default: derived from the reference answers."""
    digest: str = ""
    """Hash of the question and annotation files, so that changed files get new scores."""
    images_digest: str = ""
    """Hash of the names and sizes of the images that are shown, and if they are few, or many are of one size, of the
    content of some."""

    @model_serializer(mode="wrap")
    def _without_open_default(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without `pictures` where they are not given, as a scale is written and read again by `--set`."""
        values: dict[str, Any] = plain(self)
        if "pictures" not in self.model_fields_set:
            values.pop("pictures", None)
        return values
