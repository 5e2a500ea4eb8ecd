"""The overview of all sweeps in a results folder: lessons, axes, and a summary to read on a code host."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.judging.lessons import LAW, known_lessons
from analysis.judging.verdicts import all_parts, judge_lessons
from analysis.pages.axes import axes_tables, draw_axes, levels_in_short, ranked
from analysis.pages.cells import in_short
from analysis.pages.lesson_tables import draw_lessons, lessons_tables, looks_note, short_lessons, tally
from analysis.proxies import Paired, accuracy, accuracy_table
from analysis.seeds import earlier_world, seeds_text, tuned_sweeps, worlds_note
from analysis.table import Table, as_text, plain_markdown, to_markdown, write_csv, write_tables
from mm1_lab.files import write_text
from mm1_lab.formatting import counted
from mm1_lab.results import Manifest, variant_name
from mm1_lab.results.samples import Sampled
from mm1_lab.results.summary import AVERAGE, CHAT

WORLDS = {
    "world": "in a miniature world of drawn shapes; the numbers show how these choices act there, not what models "
    "of the paper's size would score",
    "shards": "trained on your own data",
}


@dataclass(frozen=True)
class Drawn:
    """A drawn sweep: what the overview and the report need from it."""

    folder: Path
    manifest: Manifest
    files: tuple[Path, ...]
    parts: pd.DataFrame
    """Its results for each part of the lessons about it."""
    axes: pd.DataFrame | None
    """The effects of its axes; None for a search."""
    missing: tuple[str, ...]
    caution: str
    runs: pd.DataFrame
    """A row per trial, from `runs_of`."""
    seconds: Mapping[str, float]
    """Seconds on one core by kind of stage, each stage counted once."""
    paired: Paired
    tables: Mapping[str, Sequence[Table]]
    """Tables by their heading in the report."""
    samples: tuple[Sampled, ...]
    looks: str = ""
    """Which look a growing sweep has reached."""

    @property
    def group(self) -> tuple[str, str]:
        """Scale, and what overrides and data add to the name of a file about several sweeps; sweeps with the same group
        are comparable."""
        return self.manifest.scale, self.named("lessons").removeprefix("lessons")

    def named(self, name: str) -> str:
        """The folder of the sweep `name` at the same settings."""
        return variant_name(name, self.manifest.overrides, self.manifest.data_name)

    @property
    def command(self) -> str:
        """The command that runs its trials again; several, one after another, where seeds differ in arms."""
        sweep, seeds_of = self.manifest.sweep, dict[tuple[str, ...], list[str]]()
        for seed, arms in self.runs.groupby("seed")["arm"]:
            known = set(sweep.arms) if sweep.search else set(arms)
            seeds_of.setdefault(tuple(arm for arm in sweep.arms if arm in known), []).append(str(seed))
        commands = []
        for own, seeds in seeds_of.items():
            only = [] if len(own) == len(sweep.arms) else [word for arm in own for word in ("--only", arm)]
            listed = ",".join(seeds) + "," * (len(seeds) == 1)  # a single number without a comma would be a count
            commands.append(self.manifest.command("--seeds", listed, *only))
        return " && ".join(commands)

    @property
    def cost(self) -> str:
        hours = ", ".join(f"{kind} {seconds / 3600:.1f}" for kind, seconds in self.seconds.items() if seconds)
        trials = counted(len(set(self.runs["fingerprint"])), "trial")
        return f"{trials}; core hours, each stage counted once: {hours}." if hours else f"{trials}."


@dataclass(frozen=True)
class Group:
    """The sweeps of one scale, with its lessons."""

    scale: str
    suffix: str
    drawn: tuple[Drawn, ...]
    lessons: pd.DataFrame
    parts: pd.DataFrame
    accuracy: pd.DataFrame
    """Decision accuracy of cheaper runs of these sweeps, from the whole results folder."""

    @property
    def name(self) -> str:
        return f"scale {self.scale}{self.suffix.replace(',', ', ')}"

    @property
    def caution(self) -> str:
        """A warning about results of development seeds; empty if there are none."""
        in_world = [one for one in self.drawn if one.manifest.in_world]
        return tuned_sweeps({one.manifest.sweep.name: sorted(set(one.runs["seed"])) for one in in_world})

    @property
    def axes(self) -> pd.DataFrame | None:
        known = [
            one.axes.assign(world=earlier_world(one.manifest))
            for one in self.drawn
            if one.axes is not None and len(one.axes)
        ]
        return pd.concat(known, ignore_index=True) if known else None

    @property
    def spreads(self) -> bool:
        """Whether an axis has a spread to draw."""
        return self.axes is not None and bool(ranked(self.axes)["spread"].notna().any())

    @property
    def axes_tables(self) -> list[Table]:
        title = f"What moves the scores at {self.name}"
        return [] if self.axes is None else axes_tables(self.axes, title, self.caution)

    @property
    def accuracy_table(self) -> Table | None:
        title = f"Decision accuracy of cheaper runs, compared with {self.name}"
        return accuracy_table(self.accuracy, title) if len(self.accuracy) else None

    @property
    def lessons_title(self) -> str:
        return f"The paper's lessons at {self.name}"

    @property
    def opening(self) -> list[str]:
        """Three sentences: what was run at which scale, what mattered most, and what could not be decided."""
        runs = [one.runs for one in self.drawn]
        seeds = sorted({int(seed) for frame in runs for seed in frame["seed"]})
        in_world = self.drawn[0].manifest.in_world
        trials = len({name for frame in runs for name in frame["fingerprint"]})
        sizes = [count for frame in runs for count in frame["parameters"] if count]
        median, least, most = (_round(of(sizes)) for of in (np.median, min, max)) if sizes else ("", "", "")
        between = f" ({least} to {most})" * (least != most)
        models = f"models{f' of {median} parameters{between}' * bool(sizes)}"
        ran = f"{counted(trials, 'trial')} of {counted(len(self.drawn), 'sweep')} {'were' if trials > 1 else 'was'} "
        ran += f"run at {self.name}, with {seeds_text(seeds, in_world)}: {models}"
        where = f"{ran} {WORLDS.get(self.drawn[0].manifest.data.kind, '')}. {worlds_note(_worlds(self.drawn))}".strip()
        return [where, self._mattered(), self._undecided()]

    def _mattered(self) -> str:
        rows = ranked(self.axes).dropna(subset="low").to_dict("records") if self.axes is not None else []
        for measure, name in (AVERAGE, "the average"), (CHAT, "conversations with tuned models"):
            words = [
                f"{row['axis']} ({levels_in_short(row)}; {as_text(row['spread'])} points, 95 % interval "
                f"{as_text(row['low'])} to {as_text(row['high'])})"
                for row in rows
                if row["measure"] == measure and not row["world"]
            ]
            if words:
                least = f"; least, {words[-1]}" if len(words) > 2 else ""
                second = f", then {words[1]}" if len(words) > 1 else ""
                return f"Over the levels that were tried, what moved {name} most was {words[0]}{second}{least}."
        return (
            "No design choice can be said to matter most: that takes arms that differ in it alone, with scores at each "
            "of two seeds or more."
        )

    def _undecided(self) -> str:
        found = self.lessons
        reasons = Counter(map(in_short, found["reason"][found["verdict"] == "not judged"]))
        told = ", ".join(f"{reason}: {count}" for reason, count in reasons.most_common())
        names = found["lesson"][found["verdict"] == "undecided"]
        left = f"; undecided: {', '.join(names)}" * bool(len(names))
        looks = f" {looks_note(found)}".rstrip()
        return f"Of {len(found)} lessons: {tally(found)}{f' ({told})' * bool(told)}{left}.{looks}"


def _round(count: float) -> str:
    """`40 thousand`, `0.55 million`, `1.3 billion`, to two digits."""
    if count < 1e5:
        return f"{count / 1e3:.2g} thousand"
    return f"{count / 1e9:.2g} billion" if count >= 1e9 else f"{count / 1e6:.2g} million"


def _worlds(drawn: Iterable[Drawn]) -> dict[str, str]:
    """The earlier world of each sweep, empty for those of the current one."""
    return {one.manifest.sweep.name: earlier_world(one.manifest) for one in drawn}


def group_sweeps(results: Path, drawn: Sequence[Drawn]) -> list[Group]:
    """Groups sweeps by scale, overrides and data, and judges the lessons of each group."""
    lessons = known_lessons(results)
    by_group: dict[tuple[str, str], list[Drawn]] = {}
    for one in drawn:
        by_group.setdefault(one.group, []).append(one)
    groups = []
    for (scale, suffix), members in by_group.items():
        law = results / scale / members[0].named(LAW) / "law.json"
        in_world = members[0].manifest.in_world
        parts = all_parts(lessons, [one.parts for one in members], law, in_world)
        judged = judge_lessons(lessons, parts, scale)
        judged = judged.assign(world=judged["sweep"].map(_worlds(members)).fillna(""))
        if looks := {one.manifest.sweep.name: one.looks for one in members if one.looks}:
            judged = judged.assign(looks=judged["sweep"].map(looks).fillna(""))
        cheaper = accuracy([one.paired for one in members], [one.paired for one in drawn])
        groups.append(Group(scale, suffix, tuple(members), judged, parts, cheaper))
    return groups


def write_overview(results: Path, groups: Sequence[Group]) -> list[Path]:
    """Writes lessons, axes and decision accuracy to each scale's folder, and `summary.md`; returns all files."""
    written = []
    for group in groups:
        folder, end = results / group.scale, group.suffix
        lessons, axes, accurate = (folder / f"{name}{end}" for name in ("lessons", "axes", "decision_accuracy"))
        written.append(write_csv(group.lessons, folder / f"lessons{end}.csv"))
        written.append(write_csv(group.parts, folder / f"lesson_parts{end}.csv"))
        written += write_tables(lessons, *lessons_tables(group.lessons, group.parts, group.lessons_title))
        if (group.lessons["estimate"].notna() & (group.lessons["sweep"] != LAW)).any():
            written += draw_lessons(group.lessons, lessons, group.lessons_title, group.caution)
        if group.axes is not None:
            written.append(write_csv(group.axes, folder / f"axes{end}.csv"))
            written += write_tables(axes, *group.axes_tables)
            if group.spreads:
                written += draw_axes(group.axes, axes, group.axes_tables[0].title, group.caution)
        if table := group.accuracy_table:
            written.append(write_csv(group.accuracy, folder / f"decision_accuracy{end}.csv"))
            written += write_tables(accurate, table)
    path = results / "summary.md"
    write_text(path, summary(groups))
    return [*written, path]


def summary(groups: Sequence[Group]) -> str:
    """The study at a glance as Markdown, with its figures."""
    parts = ["# Summary"]
    for group in groups:
        place = f"{group.scale}/lessons{group.suffix}.md"
        parts += [f"## At {group.name}", *group.opening]
        if group.axes is not None:
            at = f"{group.scale}/axes{group.suffix}"
            parts += [f"![what moves the scores, axis by axis](<{at}.png>)"] * group.spreads
            parts += [f"[The axes as a table](<{at}.md>)."]
        parts += [to_markdown(short_lessons(group.lessons, "")).rstrip()]
        if table := group.accuracy_table:
            parts += [f"### {table.title}", to_markdown(replace(table, title="")).rstrip()]
        parts += [f"[All lessons part by part, with the paper's statements and the seeds needed](<{place}>)."]
        for drawn in group.drawn:
            parts += _sweep_in_short(drawn, group)
    return "\n\n".join([*parts, "Made by `make figures` from the files beside it."]) + "\n"


def _sweep_in_short(drawn: Drawn, group: Group) -> list[str]:
    sweep, place = drawn.manifest.sweep, f"{group.scale}/{drawn.folder.name}"
    there = {path.name for path in drawn.files}
    names = [name for name in ("table.md", "contrasts.md", "validity.md", "predictions.png") if name in there]
    links = " · ".join(f"[{name}](<{place}/{name}>)" for name in names)
    lines = [f"### {plain_markdown(sweep.heading)}, {group.name}", f"**{drawn.caution}**" * bool(drawn.caution)]
    words = re.sub(r"[\[\]]", "", plain_markdown(sweep.title))  # a bracket could end them
    lines += [f"![{words}](<{place}/figure.png>)", f"{links}. {drawn.cost}"]
    lines += [
        f"Without scores: {plain_markdown(', '.join(drawn.missing))}." * bool(drawn.missing),
        f"Reproduce: `{drawn.command}`",
    ]
    return [line for line in lines if line]
