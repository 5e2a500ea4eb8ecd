"""What the sweeps of a results folder say together: lessons, axes, and a summary to read on a code host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.axes import axes_document, draw_axes
from analysis.document import HOLE, Document, Section, markdown_table
from analysis.lesson_tables import because, draw_lessons, estimate_cell, lessons_document, seeds_text, tally
from analysis.lessons import all_parts, judge_lessons, load_lessons
from analysis.study import Study
from analysis.tables import write_csv, write_document
from mm1_lab.results import Manifest
from mm1_lab.results.files import write_text
from mm1_lab.results.samples import Sampled

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Cost:
    """What a sweep took, as its trials and their shared parts recorded it."""

    trials: int
    trial_seconds: float
    """Of one core, training and evaluation of all trials."""
    shared_seconds: float
    """The same of the encoders and decoders behind them, each once."""
    tokens: int
    """Text tokens that the trials' models were trained on."""


@dataclass(frozen=True)
class Run:
    """How one trial was run."""

    arm: str
    seed: int
    fingerprint: str
    commit: str
    date: str
    processor: str
    versions: str
    seconds: float


@dataclass(frozen=True)
class Drawn:
    """One sweep after drawing: what the overview and the report need of it."""

    folder: Path
    manifest: Manifest
    files: tuple[Path, ...]
    claims: pd.DataFrame
    """The contrasts of its file, judged."""
    parts: pd.DataFrame
    """What it says of each part of the lessons about it."""
    axes: pd.DataFrame | None
    missing: tuple[str, ...]
    cost: Cost
    runs: tuple[Run, ...]
    documents: Mapping[str, Document]
    """Its tables, by their names in the report."""
    samples: tuple[Sampled, ...]

    @property
    def group(self) -> tuple[str, str]:
        """Scale, and what its variant adds to the sweep's name: sweeps are comparable where both are alike."""
        return self.manifest.scale, self.manifest.variant.removeprefix(self.manifest.sweep.name)

    @property
    def command(self) -> str:
        """What runs this sweep again."""
        seeds = ",".join(map(str, sorted({run.seed for run in self.runs})))
        seeds += "," * ("," not in seeds)  # one seed with a comma: without, it would be a count
        settings = "".join(f" --set {setting}" for setting in self.manifest.overrides)
        data = f" --data {self.manifest.data_name}.yaml" if self.manifest.data_name != "world" else ""
        return f"mm1-lab run {self.manifest.sweep.name} --scale {self.manifest.scale} --seeds {seeds}{settings}{data}"


def runs_of(study: Study) -> tuple[Run, ...]:
    trials = study.variant.trials[study.variant.trials["done"]]
    runs = []
    for arm, seed, fingerprint in zip(*(trials[name].tolist() for name in ("arm", "seed", "fingerprint")), strict=True):
        record = study.records[fingerprint]
        machine = record.get("environment", {})
        versions = ", ".join(f"{name} {version}" for name, version in machine.get("versions", {}).items())
        seconds = sum(timing["seconds"] for timing in record.get("timings", {}).values())
        commit, date = str(machine.get("commit") or HOLE)[:12], str(machine.get("date", HOLE))[:10]
        processor = str(machine.get("processor", HOLE))
        runs.append(Run(arm, seed, fingerprint, commit, date, processor, versions, seconds))
    return tuple(runs)


def cost_of(study: Study) -> Cost:
    shared: dict[str, float] = {}
    seconds, tokens = 0.0, 0
    for record in study.records.values():
        seconds += sum(timing["seconds"] for timing in record.get("timings", {}).values())
        for kind, summary in record.get("summaries", {}).items():
            if kind == "multimodal":
                tokens += sum(summary.get("tokens", {}).values())
            elif "fingerprint" in summary:
                shared[summary["fingerprint"]] = summary.get("seconds", 0.0)
    return Cost(len(study.records), seconds, sum(shared.values()), tokens)


@dataclass(frozen=True)
class Group:
    """The sweeps of one scale, with its lessons."""

    scale: str
    suffix: str
    drawn: tuple[Drawn, ...]
    lessons: pd.DataFrame
    parts: pd.DataFrame

    @property
    def name(self) -> str:
        return f"scale {self.scale}{self.suffix.replace(',', ', ')}"

    @property
    def axes(self) -> pd.DataFrame | None:
        known = [one.axes for one in self.drawn if one.axes is not None and len(one.axes)]
        return _joined(known) if known else None

    @property
    def axes_document(self) -> Document:
        assert self.axes is not None
        return axes_document(self.axes, f"What moves the scores at {self.name}")


def group_sweeps(results: Path, drawn: Sequence[Drawn]) -> list[Group]:
    """By scale, overrides and data."""
    lessons = load_lessons()
    by_group: dict[tuple[str, str], list[Drawn]] = {}
    for one in drawn:
        by_group.setdefault(one.group, []).append(one)
    groups = []
    for (scale, suffix), members in by_group.items():
        law = results / scale / f"lr_law{suffix}" / "law.json"
        parts = all_parts(lessons, [one.parts for one in members], law)
        groups.append(Group(scale, suffix, tuple(members), judge_lessons(lessons, parts), parts))
    return groups


def write_overview(results: Path, drawn: Sequence[Drawn]) -> list[Path]:
    """Lessons and axes in each scale's folder, and `summary.md`; returns the files written."""
    groups = group_sweeps(results, drawn)
    written = []
    for group in groups:
        lessons, axes = (results / group.scale / f"{name}{group.suffix}" for name in ("lessons", "axes"))
        title = f"The paper's lessons at {group.name}"
        written.append(write_csv(group.lessons, lessons.with_name(f"{lessons.name}.csv")))
        written.append(write_csv(group.parts, lessons.with_name(f"lesson_parts{group.suffix}.csv")))
        written += write_document(lessons_document(group.lessons, group.parts, title), lessons)
        if group.lessons["estimate"].notna().any():
            written += draw_lessons(group.lessons, lessons, title)
        if group.axes is not None:
            written.append(write_csv(group.axes, axes.with_name(f"{axes.name}.csv")))
            written += write_document(group.axes_document, axes)
            written += draw_axes(group.axes, axes, group.axes_document.title)
    path = results / "summary.md"
    write_text(path, summary(groups))
    return [*written, path]


def summary(groups: Sequence[Group]) -> str:
    """The study in one look, with its figures."""
    parts = ["# What these results say", "Made by `make figures` from the files beside it."]
    for group in groups:
        place = f"{group.scale}/lessons{group.suffix}.md"
        more = f"[With contrasts, the paper's words and what would decide them](<{place}>)."
        parts += [f"## Lessons at {group.name}", f"{tally(group.lessons)}. {more}", _lessons_in_short(group.lessons)]
        if group.axes is not None:
            place = f"{group.scale}/axes{group.suffix}"
            parts += [f"![what moves the scores, axis by axis](<{place}.png>)", f"[The axes as a table](<{place}.md>)."]
        for drawn in group.drawn:
            parts += _sweep_in_short(drawn, group)
    return "\n\n".join(parts) + "\n"


def _lessons_in_short(lessons: pd.DataFrame) -> str:
    rows = [
        [row["claim"], row["section"], estimate_cell(row), seeds_text(row), f"**{row['verdict']}**{because(row)}"]
        for row in lessons.to_dict("records")
    ]
    section = Section("", ["lesson", "MM1", "estimate, points", "seeds", "verdict"], rows, ["MM1", "seeds", "verdict"])
    return markdown_table(section)


def _joined(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    import pandas as pd

    return pd.concat(frames, ignore_index=True)


def _sweep_in_short(drawn: Drawn, group: Group) -> list[str]:
    sweep, place = drawn.manifest.sweep, f"{group.scale}/{drawn.folder.name}"
    there = {path.name for path in drawn.files}
    names = [name for name in ("table.md", "contrasts.md", "validity.md", "predictions.html") if name in there]
    links = " · ".join(f"[{name}](<{place}/{name}>)" for name in names)
    return [
        f"### {sweep.heading}, {group.name}",
        f"![{sweep.title}](<{place}/figure.png>)",
        f"{links}. {cost_text(drawn.cost)}",
        *([f"Without scores: {', '.join(drawn.missing)}."] if drawn.missing else []),
        f"Again: `{drawn.command}`",
    ]


def cost_text(cost: Cost) -> str:
    hours = cost.trial_seconds / 3600
    text = f"{cost.trials} trials took {hours:.1f} hours of a core"
    if cost.shared_seconds:
        text += f", the encoders and decoders that they share {cost.shared_seconds / 3600:.1f}"
    return f"{text}."
