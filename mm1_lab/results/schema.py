"""The shape of every file in a results folder, under one version number.

```
RESULTS/trials/FINGERPRINT/   scores.csv.gz held_out.csv training.csv record.json samples.json DONE
RESULTS/trials/FINGERPRINT/submissions/   answers for test servers, where nobody outside has the references
RESULTS/pictures/SHA.png      pictures of samples, shared by trials
RESULTS/SCALE/VARIANT/        sweep.json trials.csv
RESULTS/failures/             FINGERPRINT.json, why a stage failed, and FINGERPRINT.log, its traceback
STORE/FINGERPRINT/            model.safetensors stage.json training.csv summary.json code.json DONE
STORE/FINGERPRINT.partial/    a stage that is not complete
PARTS/FINGERPRINT/            a stage of the store that comes with the repository
```

Equal results are equal bytes: numbers are written with fixed significant digits and nothing that a score does not
depend on (times, machines) is in a CSV file; that is in `record.json`.
"""

from dataclasses import dataclass, fields

from mm1_lab.rows import HeldOutRow, ScoreRow

SCHEMA = 2
"""Raised when a file's columns or meaning change."""

SCORES = "scores.csv.gz"
"""Thousands of rows per trial, a tenth of the size compressed; pandas and zcat read it as it is."""
SCORE_COLUMNS = tuple(field.name for field in fields(ScoreRow))
CODE = "code.json"
"""Of a model: hashes of the code of parts that it was trained with, by part (mm1_lab/source_code.py)."""
HELD_OUT_COLUMNS = tuple(field.name for field in fields(HeldOutRow))
CURVE_COLUMNS = ("step", "name", "value")
TRIAL_COLUMNS = ("arm", "seed", "fingerprint")


@dataclass(frozen=True, slots=True)
class TrialRow:
    """A trial of a sweep: which result stands for which arm and seed."""

    arm: str
    seed: int
    fingerprint: str


def number(value: float) -> str:
    """A float with nine significant digits, so that equal results are equal bytes."""
    return f"{value:.9g}"
