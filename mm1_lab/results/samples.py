"""A page of sampled predictions next to their images, to see whether a model uses the image it is asked about.

The samples are the first questions of the first blocks of every benchmark, as stored by the evaluation, so they are
not cherry-picked. The page embeds its images and can be shared as one file.
"""

from __future__ import annotations

import base64
import sys
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
KEYS = ("benchmark", "shots", "question", "prompt", "references", "prediction", "score", "picture")


def data_uri(picture: Path) -> str:
    """A PNG or JPEG file as a data URI, for embedding in a page."""
    kind = "jpeg" if picture.suffix == ".jpg" else "png"
    return f"data:image/{kind};base64,{base64.b64encode(picture.read_bytes()).decode()}"


def read_samples(ledger: Ledger, fingerprint: str) -> list[dict[str, Any]]:
    """A trial's samples with `KEYS`, without those whose image is missing or damaged; none of a trial from a pack.

    `picture` is a file in the folder `pictures`, or None. Raises RequestError for a file that cannot be read.
    """
    path = ledger.trial_folder(fingerprint) / SAMPLES
    if not path.exists():
        return []
    found = []
    for sample in read_json(path, list):
        for key in KEYS:
            if not isinstance(sample, dict) or key not in sample:
                raise RequestError(f"{path}: a sample lacks {key!r}; delete its folder and run the sweep again")
        if sample["picture"] is None or _is_whole(ledger.results / "pictures" / sample["picture"]):
            found.append(sample)
    return found


def _is_whole(picture: Path) -> bool:
    """Whether the file is there and has the content that it is named after; a damaged one is put aside."""
    if not picture.exists():
        return False
    if sha256(picture.read_bytes()).hexdigest().startswith(picture.stem):
        return True
    put_aside(picture)
    print(f"mm1-lab: {picture}: damaged; predictions about it are left out", file=sys.stderr)
    return False


def samples_page(title: str, ledger: Ledger, fingerprint: str, is_blind: bool) -> str:
    """An HTML page with a row per sample of a trial. Raises RequestError for a file that cannot be read."""
    samples = read_samples(ledger, fingerprint)
    pictures = {}
    for sample in samples:
        if sample["picture"] and sample["picture"] not in pictures:
            pictures[sample["picture"]] = data_uri(ledger.results / "pictures" / sample["picture"])
    template = templates(TEMPLATES).get_template("samples_page.html.jinja")
    return template.render(title=title, samples=samples, pictures=pictures, is_blind=is_blind)


@cache
def templates(folder: Path) -> jinja2.Environment:
    """A Jinja environment for a folder; undefined names are errors, and values in pages of HTML are escaped."""
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=jinja2.select_autoescape(["html.jinja"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
