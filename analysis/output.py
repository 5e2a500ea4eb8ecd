"""Where the tables and figures of a folder are written."""

from dataclasses import dataclass, field
from glob import escape
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from analysis.style import save, save_pdf
from analysis.table import Table, to_latex, to_markdown, write_csv
from mm1_lab.files import write_json, write_text


@dataclass(frozen=True)
class Output:
    """Writes files into a folder, each by rename, so that two commands at once leave whole ones; remembers which."""

    folder: Path
    end: str = ""
    """What is added to each name."""
    latex: bool = False
    """Also write LaTeX of tables and PDF of figures."""
    files: list[Path] = field(default_factory=list)

    def remove(self, *names: str) -> None:
        """Deletes what an earlier drawing wrote under those of the names that this one had no use for."""
        used = {path.stem for path in self.files}
        for name in (f"{name}{self.end}" for name in names):
            for path in () if name in used else self.folder.glob(f"{escape(name)}.*"):
                path.unlink(missing_ok=True)

    def csv(self, name: str, frame: pd.DataFrame) -> None:
        self.files.append(write_csv(frame, self.folder / f"{name}{self.end}.csv"))

    def text(self, name: str, ending: str, text: str) -> None:
        path = self.folder / f"{name}{self.end}.{ending}"
        write_text(path, text)
        self.files.append(path)

    def json(self, name: str, value: Any) -> None:
        path = self.folder / f"{name}{self.end}.json"
        write_json(path, value)
        self.files.append(path)

    def tables(self, name: str, *tables: Table) -> None:
        self.text(name, "md", to_markdown(*tables))
        if self.latex:
            self.text(name, "tex", to_latex(*tables))

    def figure(self, name: str, figure: Figure) -> None:
        path = self.folder / f"{name}{self.end}"
        self.files.append(save(figure, path))
        if self.latex:
            self.files.append(save_pdf(figure, path))
