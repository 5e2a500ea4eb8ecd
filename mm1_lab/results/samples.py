"""Sampled predictions beside their pictures: does a model look at what it is asked about?

The samples are the first questions of the first blocks of every benchmark, as the evaluation stored them, so nobody
chose them. The page holds its pictures, each once, and can be sent as one file.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mm1_lab.config import RequestError

if TYPE_CHECKING:
    import jinja2

TEMPLATES = Path(__file__).parent
RIGHT_FROM = 50
"""Points from which a prediction is shown as right."""
KEYS = ("benchmark", "shots", "question", "prompt", "references", "prediction", "score", "picture")


@dataclass(frozen=True)
class Sampled:
    """A question with the predictions of several models."""

    question: Mapping[str, Any]
    """As samples.json holds it: benchmark, shots, question, prompt, references, picture."""
    picture: Path | None
    answers: Mapping[str, tuple[str, float]]
    """By the model's name: prediction and points."""

    @property
    def data(self) -> str:
        return data_uri(self.picture) if self.picture else ""


def data_uri(picture: Path) -> str:
    """A PNG as a page holds it."""
    return f"data:image/png;base64,{base64.b64encode(picture.read_bytes()).decode()}"


def read_samples(results: Path, trials: Mapping[str, str]) -> list[Sampled]:
    """The questions that all of the trials (fingerprints by the name to show) were sampled on.

    Those whose picture is no longer there are left out. Raises RequestError for a file that cannot be read.
    """
    found: dict[tuple[str, int, str], Sampled] = {}
    for name, fingerprint in trials.items():
        for sample in _stored(results / "trials" / fingerprint / "samples.json"):
            key = (sample["benchmark"], sample["shots"], sample["question"])
            picture = results / "pictures" / sample["picture"] if sample["picture"] else None
            known = found.get(key, Sampled(sample, picture, {}))
            if not picture or picture.exists():
                answer = (sample["prediction"], sample["score"])
                found[key] = Sampled(known.question, picture, {**known.answers, name: answer})
    return [entry for entry in found.values() if len(entry.answers) == len(trials)]


def _stored(path: Path) -> list[dict[str, Any]]:
    try:
        samples: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        lacking = sorted({key for sample in samples for key in set(KEYS) - set(sample)})
    except (OSError, ValueError, TypeError) as error:
        raise RequestError(f"{path}: cannot be read ({error}); delete its folder and run the sweep again") from None
    if lacking:
        raise RequestError(f"{path}: a sample lacks {lacking[0]!r}; delete its folder and run the sweep again")
    return samples


def samples_page(title: str, samples: Sequence[Sampled]) -> str:
    """One HTML file: a row per question, a column per model."""
    template = templates(TEMPLATES).get_template("samples_page.html.jinja")
    return template.render(title=title, samples=samples)


@cache
def templates(*folders: Path) -> jinja2.Environment:
    """Jinja templates of these folders: what they are given is escaped, and a name they lack is an error."""
    import jinja2

    loader = jinja2.FileSystemLoader(folders)
    found = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    found.globals["RIGHT_FROM"] = RIGHT_FROM
    return found
