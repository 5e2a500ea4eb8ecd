"""Where the tables and figures of a folder are written."""

from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from analysis.style import save
from analysis.table import Table, to_markdown, write_csv
from mm1_lab.files import write_text


@dataclass(frozen=True)
class Output:
    """Writes files into a folder, each by rename, so that two commands at once leave whole ones; remembers which."""

    folder: Path
    end: str = ""
    """What is added to each name."""
    files: list[Path] = field(default_factory=list)

    def csv(self, name: str, frame: pd.DataFrame) -> None:
        self.files.append(write_csv(frame, self.folder / f"{name}{self.end}.csv"))

    def tables(self, name: str, *tables: Table) -> None:
        path = self.folder / f"{name}{self.end}.md"
        write_text(path, to_markdown(*tables))
        self.files.append(path)

    def figure(self, name: str, figure: Figure) -> None:
        self.files.append(save(figure, self.folder / f"{name}{self.end}"))
