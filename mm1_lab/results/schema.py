"""The shape of every file in a results folder, under one version number.

```
RESULTS/trials/FINGERPRINT/   scores.csv.gz held_out.csv training.csv record.json samples.json DONE
RESULTS/pictures/SHA.png      pictures of samples, shared by trials
RESULTS/SCALE/VARIANT/        sweep.json trials.csv
RESULTS/failures/             FINGERPRINT.json, why a stage failed, and FINGERPRINT.log, its traceback
STORE/FINGERPRINT/            model.safetensors stage.json training.csv summary.json DONE
STORE/FINGERPRINT.partial/    a stage that is not complete
PARTS/FINGERPRINT/            a stage of the store that comes with the repository
```

Equal results are equal bytes: numbers are written with fixed significant digits and nothing that a score does not
depend on (times, machines) is in a CSV file; that is in `record.json`.
"""

from dataclasses import dataclass

SCHEMA = 2
"""Raised when a file's columns or meaning change."""

SCORES = "scores.csv.gz"
"""Thousands of rows per trial, a tenth of the size compressed; pandas and zcat read it as it is."""
SCORE_COLUMNS = ("benchmark", "family", "metric", "shots", "block", "question", "kind", "score", "prediction", "parsed")
HELD_OUT_COLUMNS = ("source", "loss")
TRIAL_COLUMNS = ("arm", "seed", "fingerprint")


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """One answer of a model to one question at one number of shots."""

    benchmark: str
    family: str
    """captioning, vqa or text."""
    metric: str
    """cider, vqa or exact."""
    shots: int
    block: int
    question: str
    """Unique within the benchmark."""
    kind: str
    score: float
    """Points: accuracy × 100, CIDEr × 100."""
    prediction: str
    parsed: bool
    """Whether the answer has the form of an answer."""


@dataclass(frozen=True, slots=True)
class HeldOutRow:
    """The mean loss a text token on held-out documents of a source, in nats."""

    source: str
    loss: float


@dataclass(frozen=True, slots=True)
class SampleRow:
    """A question with its answer, kept to be looked at."""

    benchmark: str
    shots: int
    question: str
    kind: str
    prompt: str
    references: tuple[str, ...]
    prediction: str
    score: float
    picture: bytes | None
    """PNG; stored once, under its hash."""


@dataclass(frozen=True, slots=True)
class TrialRow:
    """A trial of a sweep: which result stands for which arm and seed."""

    arm: str
    seed: int
    fingerprint: str


def number(value: float) -> str:
    """A float with nine significant digits, so that equal results are equal bytes."""
    return f"{value:.9g}"
