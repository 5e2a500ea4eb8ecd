"""Samples of predictions: what is shown, and what is left out."""

import gzip
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from mm1_lab.config import RequestError
from mm1_lab.evaluate.run import _image_file
from mm1_lab.files import write_json
from mm1_lab.results import Ledger
from mm1_lab.results.samples import data_uri, read_samples, samples_page
from mm1_lab.results.schema import SAMPLES
from mm1_lab.rows import SampleRow, ScoreRow

ASKED = {"shots": 0, "question": "test-0", "prompt": "<b>?", "references": ["a", "A"], "prediction": "a", "score": 80.0}
HERE = sha256(b"PNG").hexdigest()[:16]


def write(results: Path, fingerprint: str, samples: object) -> None:
    folder = results / "trials" / fingerprint
    folder.mkdir(parents=True)
    write_json(folder / SAMPLES, samples)


def test_a_page_holds_each_picture_once_and_escapes_what_models_say(tmp_path: Path) -> None:
    """A lost picture leaves its own question out, and a question about none is shown."""
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / f"{HERE}.png").write_bytes(b"PNG")
    sample = {**ASKED, "benchmark": "here", "picture": f"{HERE}.png"}
    samples = [{**sample, "question": f"test-{n}", "prediction": "<i>" * n} for n in range(3)]
    gone, blank = {**sample, "benchmark": "gone", "picture": "0.png"}, {**sample, "benchmark": "text", "picture": None}
    write(tmp_path, "f0", [*samples, gone, blank])
    ledger = Ledger(tmp_path)
    assert [one["benchmark"] for one in read_samples(ledger, "f0")] == ["here"] * 3 + ["text"]
    page = samples_page("a <title>", ledger, "f0", is_blind=False)
    assert page.count("data:image/png;base64,UE5H") == 1 and page.count(f'href="#{HERE}.png"') == 3
    assert "<i>" not in page and "<b>?" not in page and "a <title>" not in page and "http" not in page
    assert "(nothing)" in page and page.count("a<br>") == page.count("A<br>") == 4
    assert "blind" not in page and "blind control" in samples_page("", ledger, "f0", is_blind=True)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    write(tmp_path, "f0", [])
    (tmp_path / "trials" / "f0" / SAMPLES).write_bytes(gzip.compress(b"[]" * 99)[:-9])
    with pytest.raises(RequestError, match=r"f0/samples\.json\.gz: cannot be read"):
        read_samples(Ledger(tmp_path), "f0")
    write(tmp_path, "f1", [{"benchmark": "vqa"}])
    with pytest.raises(RequestError, match=r"samples\.json\.gz: a sample lacks"):
        read_samples(Ledger(tmp_path), "f1")


def test_a_photograph_is_kept_as_jpeg_and_a_drawing_as_png(tmp_path: Path) -> None:
    """The first is much smaller as JPEG; of the second JPEG would lose the sharp edges for nothing."""
    noise = np.random.default_rng(0).normal(128, 8, (96, 96, 3)).astype(np.uint8)
    kept = []
    for pixels in (noise, np.full((96, 96, 3), 7, np.uint8)):
        file = _image_file(SimpleNamespace(pixels=lambda side, pixels=pixels: pixels), 96)  # type: ignore[arg-type]
        rows = [ScoreRow("vqa", "vqa", "vqa", 0, 0, "q", "colour", 1.0, "red", True, None)]
        sample = SampleRow("vqa", 0, "q", "colour", "", (), "red", 1.0, file)
        ledger, name = Ledger(tmp_path, tmp_path / "store"), f"{len(file)}"
        ledger.write_scores(name, rows, [], [sample], {}, None)
        (read,) = read_samples(Ledger(tmp_path), name)
        picture = tmp_path / "pictures" / read["picture"]
        kept.append(data_uri(picture).partition(";")[0])
        assert np.asarray(Image.open(picture)).shape == (96, 96, 3)
    assert kept == ["data:image/jpeg", "data:image/png"]
