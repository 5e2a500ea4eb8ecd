"""Where the tables and figures of a folder are written."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from analysis.style import pdf, png
from analysis.table import Table, to_latex, to_markdown, write_csv
from mm1_lab.files import write_bytes, write_json, write_text
from mm1_lab.results.reading import ENDINGS


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
        for name in {f"{name}{self.end}" for name in names} - used:
            for ending in ENDINGS:
                (self.folder / f"{name}.{ending}").unlink(missing_ok=True)

    def _new(self, name: str, ending: str) -> Path:
        self.files.append(self.folder / f"{name}{self.end}.{ending}")
        return self.files[-1]

    def csv(self, name: str, frame: pd.DataFrame) -> None:
        write_csv(frame, self._new(name, "csv"))

    def text(self, name: str, ending: str, text: str) -> None:
        write_text(self._new(name, ending), text)

    def json(self, name: str, value: Any) -> None:
        write_json(self._new(name, "json"), value)

    def tables(self, name: str, *tables: Table) -> None:
        self.text(name, "md", to_markdown(*tables))
        if self.latex:
            self.text(name, "tex", to_latex(*tables))

    def figure(self, name: str, figure: Figure) -> None:
        write_bytes(self._new(name, "png"), png(figure))
        if self.latex:
            write_bytes(self._new(name, "pdf"), pdf(figure))
