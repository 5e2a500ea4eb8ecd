"""A page of a trial's sampled predictions with their pictures, in one HTML file."""

import base64
import html
import json
from pathlib import Path
from typing import Any

STYLE = """body{font:14px sans-serif;margin:1em} table{border-collapse:collapse}
td,th{border:1px solid #ccc;padding:4px 8px;text-align:left;vertical-align:top}
img{width:96px;image-rendering:pixelated}"""

COLUMNS = ("picture", "benchmark", "shots", "prompt", "prediction", "references", "points")


def samples_page(trial_folder: Path, pictures: Path) -> str:
    """The samples of one trial as HTML; pictures are inside it, so that it can be looked at anywhere."""
    samples = json.loads((trial_folder / "samples.json").read_text(encoding="utf-8"))
    rows = "\n".join(_row(sample, pictures) for sample in samples)
    heading = "".join(f"<th>{name}</th>" for name in COLUMNS)
    return f"<!doctype html><meta charset=utf-8><style>{STYLE}</style><table><tr>{heading}</tr>\n{rows}\n</table>\n"


def _row(sample: dict[str, Any], pictures: Path) -> str:
    picture = ""
    if sample["picture"]:
        encoded = base64.b64encode((pictures / sample["picture"]).read_bytes()).decode()
        picture = f'<img src="data:image/png;base64,{encoded}">'
    references = "<br>".join(html.escape(text) for text in dict.fromkeys(sample["references"]))
    texts = (sample["benchmark"], str(sample["shots"]), sample["prompt"], sample["prediction"])
    cells = [picture, *(html.escape(text) for text in texts), references, f"{sample['score']:.1f}"]
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
