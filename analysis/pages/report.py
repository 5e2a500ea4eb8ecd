"""The report: one self-contained HTML file, in light and dark, for large and small screens and keyboard navigation."""

import base64
import re
from collections.abc import Sequence
from pathlib import Path

from analysis.effects import UNSET, levels_of
from analysis.pages.groups import Drawn, Group
from analysis.pages.verdicts import lesson_notes
from analysis.table import environment
from mm1_lab.config import Sweep
from mm1_lab.files import write_text


def write_report(out: Path, groups: Sequence[Group]) -> Path:
    """Writes `report.html` to `out`, from sweeps that have just been drawn there."""
    drawn = [one for group in groups for one in group.drawn]
    templates = environment()
    templates.filters |= {"id": _id, "question": _question, "picture": _picture, "lesson_notes": lesson_notes}
    text = templates.get_template("report.html.jinja").render(
        title=_title(drawn), groups=groups, folder=out, commands=[one.command for one in drawn]
    )
    path = out / "report.html"
    write_text(path, text)
    return path


def _title(drawn: Sequence[Drawn]) -> str:
    """The user's question, if there is only one."""
    return drawn[0].manifest.sweep.title if len(drawn) == 1 else "What matters in a multimodal model"


def _picture(path: Path) -> str:
    """The PNG file for embedding; empty if there is none."""
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}" if path.exists() else ""


def _question(sweep: Sweep) -> str:
    unsaid = ("images", "frozen", "encoder schedule")
    levels = levels_of(sweep.base).items()
    base = ", ".join(f"{axis} {level}" for axis, level in levels if axis not in unsaid and level != UNSET)
    return f"{len(sweep.arms)} arms, each a change to the base: {base}."


def _id(name: str) -> str:
    return re.sub(r"\W+", "-", name.lower()).strip("-")
