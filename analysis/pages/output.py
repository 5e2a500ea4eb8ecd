"""Where the tables and figures of a folder are written."""

from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from analysis.style import save
from analysis.table import Table, to_latex, to_markdown, write_csv
from mm1_lab.files import write_text


@dataclass(frozen=True)
class Output:
    """Writes files into a folder, each by rename, so that two commands at once leave whole ones; remembers which."""

    folder: Path
    latex: bool = False
    """Also write LaTeX of tables and PDF of figures."""
    end: str = ""
    """What is added to each name."""
    files: list[Path] = field(default_factory=list)

    def csv(self, name: str, frame: pd.DataFrame) -> None:
        self.files.append(write_csv(frame, self.folder / f"{name}{self.end}.csv"))

    def tables(self, name: str, *tables: Table) -> None:
        self._text(name, ".md", to_markdown(*tables))
        if self.latex:
            self._text(name, ".tex", to_latex(*tables))

    def figure(self, name: str, figure: Figure) -> None:
        self.files.extend(save(figure, self.folder / f"{name}{self.end}", self.latex))

    def _text(self, name: str, suffix: str, text: str) -> None:
        path = self.folder / f"{name}{self.end}{suffix}"
        write_text(path, text)
        self.files.append(path)
