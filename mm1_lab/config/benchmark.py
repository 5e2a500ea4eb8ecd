"""A benchmark of the user's: where its questions are, how they are asked, how answers are scored.

    benchmarks:
      vqav2:
        questions: v2_OpenEnded_mscoco_val2014_questions.json
        annotations: v2_mscoco_val2014_annotations.json
        images: val2014
        demonstrations: {questions: …train2014…, annotations: …, images: train2014}
      mine: {questions: mine.jsonl, images: pictures, metric: exact, demonstrations: {questions: train.jsonl}}

Paths are relative to the file that names them.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from mm1_lab.config.base import Config

Shots = Annotated[int, Field(ge=0, le=1000)]


class BenchmarkFiles(Config):
    """The files of one split of a benchmark."""

    PLACES: ClassVar[frozenset[str]] = frozenset({"format", "questions", "annotations", "images"})

    format: str = ""
    """`coco`, `nocaps`, `textcaps`, `vqav2`, `okvqa`, `textvqa`, `vizwiz`, `gqa`, `pope`, `jsonl` or a Python file;
    where it is not given, the benchmark's name if that is one of these, else `jsonl`."""
    questions: str = ""
    """The file with the questions, where the format has one."""
    annotations: str = ""
    """The file with the answers or captions, where the format has one; left out where nobody outside has them."""
    images: str = ""
    """A folder, or a tar or zip file, which is not unpacked."""
    image_name: str = ""
    """An image's file name by its `{id}` and `{split}`, such as `{id:012}.jpg`, where it differs from the format's."""
    split: str = ""
    """Where one file holds several splits (COCO's): `test`, for demonstrations `train`, unless given."""


class BenchmarkConfig(BenchmarkFiles):
    """A benchmark."""

    name: str = ""
    demonstrations: BenchmarkFiles | None = None
    """The benchmark's own training split; what is not given is as for the questions."""
    metric: str = ""
    """`vqa`, `exact`, `choice`, `circular` (right in every order of the choices), `yes-no`, `cider`, `anls` or
    `relaxed`; the format's, unless given."""
    pictures: Literal["squeeze", "crop", "pad"] = "squeeze"
    """How an image becomes a square; as the data file's own images, unless given."""
    prompt: str | None = None
    """With `{question}` in it; the format's, unless given."""
    shots: tuple[Shots, ...] | None = Field(None, min_length=1)
    """Numbers of demonstrations that it is asked after, such as `[0]`: some of `evaluate.shots`; all, unless given."""
    stop: tuple[str, ...] = ("\n",)
    """Words that end an answer; the first also ends each demonstration."""
    new_tokens: int | None = Field(None, gt=0)
    """The longest answer in tokens; as the demonstrations need, unless given."""
    digest: str = ""
    """A hash of the files with questions and annotations: changed files mean new scores. Images are not in it."""


class TextTask(Config):
    """A task of lm-eval's, asked of the decoder alone."""

    PLACES: ClassVar[frozenset[str]] = frozenset({"file"})

    name: str
    file: str
    digest: str
    """A hash of the task's file and its data."""
