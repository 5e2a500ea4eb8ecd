"""A page of sampled predictions next to their images, to see whether a model uses the image it is asked about.

The samples are the first questions of the first blocks of every benchmark, as stored by the evaluation, so they are
not cherry-picked. The page embeds its images and can be shared as one file.
"""

from __future__ import annotations

import base64
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mm1_lab.config import RequestError
from mm1_lab.files import put_aside
from mm1_lab.results.ledger import Ledger
from mm1_lab.results.schema import SAMPLES, read_json

if TYPE_CHECKING:
    import jinja2

TEMPLATES = Path(__file__).parent
RIGHT_FROM = 50
"""Predictions with at least this score are shown as right."""
KEYS = ("benchmark", "shots", "question", "prompt", "references", "prediction", "score", "picture")


@dataclass(frozen=True)
class Sampled:
    """A question with the predictions of several models."""

    question: Mapping[str, Any]
    """As stored: benchmark, shots, question, prompt, references, picture."""
    picture: Path | None
    answers: dict[str, tuple[str, float]]
    """Prediction and score by the model's name."""

    @property
    def data(self) -> str:
        return data_uri(self.picture) if self.picture else ""


def data_uri(picture: Path) -> str:
    """A PNG or JPEG file as a data URI, for embedding in a page."""
    kind = "jpeg" if picture.suffix == ".jpg" else "png"
    return f"data:image/{kind};base64,{base64.b64encode(picture.read_bytes()).decode()}"


def read_samples(ledger: Ledger, trials: Mapping[str, str]) -> list[Sampled]:
    """The questions for which all trials have a sample. `trials` maps display names to fingerprints.

    Questions whose image is missing or damaged are left out. Raises RequestError for a file that cannot be read.
    """
    found: dict[tuple[str, int, str], Sampled] = {}
    for name, fingerprint in trials.items():
        for sample in _stored(ledger.trial_folder(fingerprint)):
            picture = ledger.results / "pictures" / sample["picture"] if sample["picture"] else None
            if picture and not _is_whole(picture):
                continue
            key = (sample["benchmark"], sample["shots"], sample["question"])
            known = found.setdefault(key, Sampled(sample, picture, {}))
            known.answers[name] = (sample["prediction"], sample["score"])
    return [sampled for sampled in found.values() if len(sampled.answers) == len(trials)]


def _is_whole(picture: Path) -> bool:
    """Whether the file is there and has the content that it is named after; a damaged one is put aside."""
    if picture.exists() and not sha256(picture.read_bytes()).hexdigest().startswith(picture.stem):
        put_aside(picture)
        print(f"mm1-lab: {picture}: damaged; predictions about it are left out", file=sys.stderr)
        return False
    return picture.exists()


def _stored(trial: Path) -> list[dict[str, Any]]:
    path = trial / SAMPLES
    if not path.exists():  # packs have no samples
        return []
    samples: list[dict[str, Any]] = read_json(path, list)
    if lacking := [key for sample in samples for key in KEYS if not isinstance(sample, dict) or key not in sample]:
        raise RequestError(f"{path}: a sample lacks {lacking[0]!r}; delete its folder and run the sweep again")
    return samples


def samples_page(title: str, samples: Sequence[Sampled], has_blind: bool) -> str:
    """An HTML page with a row per question and a column per model. `has_blind`: one model is a blind control."""
    template = templates(TEMPLATES).get_template("samples_page.html.jinja")
    return template.render(title=title, samples=samples, has_blind=has_blind)


@cache
def templates(*folders: Path) -> jinja2.Environment:
    """A Jinja environment for these folders; undefined names are errors, and values in pages of HTML are escaped."""
    import jinja2

    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folders),
        autoescape=jinja2.select_autoescape(["html.jinja"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    found.globals["RIGHT_FROM"] = RIGHT_FROM
    return found
