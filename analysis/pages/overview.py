"""The overview of all sweeps in a results folder: what was run and found, axes, lessons, and a summary to read on a
code host."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.judging.lessons import LAW, known_lessons
from analysis.judging.verdicts import all_parts, judge_lessons
from analysis.pages.axes import CONTROLS, axes_tables, draw_axes, drawn_levels, levels_in_short, ranked
from analysis.pages.cells import in_short
from analysis.pages.claims_figure import draw_claims, is_drawn
from analysis.pages.output import Output
from analysis.pages.verdicts import SHORT, lessons_tables, run_lessons, tally, verdicts_table
from analysis.proxies import Paired, accuracy, accuracy_table
from analysis.seeds import earlier_world, seeds_text, tuned_sweeps, worlds_note
from analysis.style import styled
from analysis.table import Table, as_text, plain_markdown, to_markdown
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
    """Where its files were written."""
    manifest: Manifest
    files: tuple[Path, ...]
    parts: pd.DataFrame
    """Its results for each part of the lessons about it."""
    axes: pd.DataFrame
    """The spreads of its axes; empty for a search."""
    levels: pd.DataFrame
    """The differences of its axes' levels from the base's; empty for a search."""
    missing: tuple[str, ...]
    caution: str
    runs: pd.DataFrame
    """A row per trial, from `runs_of`."""
    seconds: Mapping[str, float]
    """Seconds on one core by kind of stage, each stage counted once."""
    paired: Paired
    claims: Table | None
    """The claims of its file with their verdicts."""
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
    def short_claims(self) -> Table | None:
        """The verdicts with what fits a small page."""
        return self.claims and replace(self.claims.only(*SHORT), title="", notes=())

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
            listed = ",".join(seeds) if len(seeds) > 1 else f"{seeds[0]},"  # without a comma it would be a count
            commands.append(self.manifest.command("--seeds", listed, *only))
        return " && ".join(commands)

    @property
    def cost(self) -> str:
        hours = ", ".join(f"{kind} {seconds / 3600:.1f}" for kind, seconds in self.seconds.items() if seconds)
        trials = counted(len(set(self.runs["fingerprint"])), "trial")
        return f"{trials}; core hours, each stage counted once: {hours}." if hours else f"{trials}."


@dataclass(frozen=True)
class Group:
    """The sweeps of one scale: a user's own first, then those that lessons are about."""

    scale: str
    suffix: str
    own: tuple[Drawn, ...]
    """The sweeps that no lesson is about."""
    of_lessons: tuple[Drawn, ...]
    lessons: pd.DataFrame
    parts: pd.DataFrame
    accuracy: pd.DataFrame
    """Decision accuracy of cheaper runs of these sweeps, from the whole results folder."""

    @property
    def drawn(self) -> tuple[Drawn, ...]:
        return self.own + self.of_lessons

    @property
    def name(self) -> str:
        return f"scale {self.scale}{self.suffix.replace(',', ', ')}"

    @property
    def caution(self) -> str:
        """A warning about results of development seeds; empty if there are none."""
        in_world = [one for one in self.drawn if one.manifest.in_world]
        return tuned_sweeps({one.manifest.sweep.name: sorted(set(one.runs["seed"])) for one in in_world})

    @property
    def axes(self) -> pd.DataFrame:
        return _with_world(self.drawn, [one.axes for one in self.drawn])

    @property
    def levels(self) -> pd.DataFrame:
        return _with_world(self.drawn, [one.levels for one in self.drawn])

    @property
    def axes_tables(self) -> list[Table]:
        title = f"What moves the scores at {self.name}"
        return axes_tables(self.axes, self.levels, title, self.caution) if len(self.axes) else []

    @property
    def accuracy_table(self) -> Table | None:
        title = f"Decision accuracy of cheaper runs, compared with {self.name}"
        return accuracy_table(self.accuracy, title) if len(self.accuracy) else None

    @property
    def has_lessons(self) -> bool:
        """Whether a sweep ran that lessons are about."""
        return len(run_lessons(self.lessons)) > 0

    @property
    def lessons_title(self) -> str:
        return f"The paper's lessons at {self.name}"

    @property
    def short_lessons(self) -> Table:
        return verdicts_table(run_lessons(self.lessons), "").only(*SHORT)

    @property
    def where(self) -> str:
        """What was run."""
        runs = [one.runs for one in self.drawn]
        seeds = sorted({int(seed) for frame in runs for seed in frame["seed"]})
        manifest = self.drawn[0].manifest
        trials = len({name for frame in runs for name in frame["fingerprint"]})
        sizes = [count for frame in runs for count in frame["parameters"] if count]
        models = "models"
        if sizes:
            least, median, most = (_round(count) for count in (min(sizes), float(np.median(sizes)), max(sizes)))
            models = f"models of {median} parameters" + ("" if least == most else f" ({least} to {most})")
        what = f"{counted(trials, 'trial')} of {counted(len(self.drawn), 'sweep')}"
        verb = "were" if trials > 1 else "was"
        about = f"{what} {verb} run at {self.name}, with {seeds_text(seeds, manifest.in_world)}: {models}"
        return f"{about} {WORLDS.get(manifest.data.kind, '')}. {worlds_note(_worlds(self.drawn))}".strip()

    @property
    def findings(self) -> list[str]:
        """What mattered most, and what the lessons came to."""
        found = self.lessons
        undecided = found["lesson"][found["verdict"] == "undecided"]
        left = f"; undecided: {', '.join(undecided)}" if len(undecided) else ""
        reasons = Counter(map(in_short, found["reason"][found["verdict"] == "not judged"]))
        told = ", ".join(f"{reason}: {count}" for reason, count in reasons.most_common())
        lessons = f"Of {len(found)} lessons: {tally(found)}{f' ({told})' if told else ''}{left}."
        return [self._mattered(), *([lessons] if self.has_lessons else [])]

    def _mattered(self) -> str:
        rows = ranked(self.axes).dropna(subset="low").to_dict("records") if len(self.axes) else []
        for measure, name in (AVERAGE, "the average"), (CHAT, "conversations with tuned models"):
            words = [
                f"{row['axis']} ({levels_in_short(row)}; {as_text(row['spread'])} points, 95 % interval "
                f"{as_text(row['low'])} to {as_text(row['high'])})"
                for row in rows
                if row["measure"] == measure and not row["world"] and row["axis"] not in CONTROLS
            ]
            if words:
                least = f"; least, {words[-1]}" if len(words) > 2 else ""
                second = f", then {words[1]}" if len(words) > 1 else ""
                return f"Over the levels that were tried, what moved {name} most was {words[0]}{second}{least}."
        return (
            "No design choice can be said to matter most: that takes arms that differ in it alone, with scores at each "
            "of two seeds or more."
        )


def _round(count: float) -> str:
    """`40 thousand`, `0.55 million`, `1.3 billion`, to two digits."""
    if count < 1e5:
        return f"{count / 1e3:.2g} thousand"
    return f"{count / 1e9:.2g} billion" if count >= 1e9 else f"{count / 1e6:.2g} million"


def _with_world(drawn: Sequence[Drawn], frames: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """The frames of these sweeps with a column that names an earlier world."""
    known = [
        frame.assign(world=earlier_world(one.manifest)) for one, frame in zip(drawn, frames, strict=True) if len(frame)
    ]
    return pd.concat(known, ignore_index=True) if known else pd.DataFrame()


def _worlds(drawn: Iterable[Drawn]) -> dict[str, str]:
    """The earlier world of each sweep, empty for those of the current one."""
    return {one.manifest.sweep.name: earlier_world(one.manifest) for one in drawn}


def group_sweeps(results: Path, out: Path, drawn: Sequence[Drawn]) -> list[Group]:
    """Groups sweeps by scale, overrides and data, and judges the lessons of each group; groups with sweeps of the
    user's own come first. `out` is where the sweeps were drawn."""
    lessons = known_lessons(results)
    asked = {lesson.sweep for lesson in lessons}
    by_group: dict[tuple[str, str], list[Drawn]] = {}
    for one in drawn:
        by_group.setdefault(one.group, []).append(one)
    groups = []
    for (scale, suffix), members in by_group.items():
        law = out / scale / members[0].named(LAW) / "law.json"
        parts = all_parts(lessons, [one.parts for one in members], law, members[0].manifest.in_world)
        judged = judge_lessons(lessons, parts, scale)
        judged = judged.assign(world=judged["sweep"].map(_worlds(members)).fillna(""))
        if looks := {one.manifest.sweep.name: one.looks for one in members if one.looks}:
            judged = judged.assign(looks=judged["sweep"].map(looks).fillna(""))
        groups.append(
            Group(
                scale,
                suffix,
                own=tuple(one for one in members if one.manifest.sweep.name not in asked),
                of_lessons=tuple(one for one in members if one.manifest.sweep.name in asked),
                lessons=judged,
                parts=parts,
                accuracy=accuracy([one.paired for one in members], [one.paired for one in drawn]),
            )
        )
    return sorted(groups, key=lambda group: not group.own)


def write_overview(out: Path, groups: Sequence[Group], latex: bool = False) -> list[Path]:
    """Writes lessons, axes and decision accuracy to each scale's folder, and `summary.md`; returns all files."""
    written = []
    for group in groups:
        output = Output(out / group.scale, latex, group.suffix)
        with styled():
            _write_group(group, output)
        written += output.files
    path = out / "summary.md"
    write_text(path, summary(groups))
    return [*written, path]


def _write_group(group: Group, output: Output) -> None:
    if group.has_lessons:
        output.csv("lessons", group.lessons)
        output.csv("lesson_parts", group.parts)
        output.tables("lessons", *lessons_tables(group.lessons, group.parts, group.lessons_title))
        if is_drawn(group.lessons, group.scale):
            output.figure("lessons", draw_claims(group.lessons, group.lessons_title, group.caution))
    if len(group.axes):
        output.csv("axes", group.axes)
        output.tables("axes", *group.axes_tables)
        if len(group.levels):
            output.csv("axes_levels", group.levels)
            if group.scale != "smoke" and len(drawn_levels(group.levels)):
                output.figure("axes", draw_axes(group.levels, group.axes_tables[0].title, group.caution))
    if table := group.accuracy_table:
        output.csv("decision_accuracy", group.accuracy)
        output.tables("decision_accuracy", table)


def summary(groups: Sequence[Group]) -> str:
    """The results at a glance as Markdown, with figures: own sweeps, then lessons and the sweeps they are about."""
    parts = ["# Summary"]
    for group in groups:
        parts += [f"## At {group.name}", group.where]
        for drawn in group.own:
            parts += _sweep(drawn, group)
        parts += _across(group)
        for drawn in group.of_lessons:
            parts += _sweep(drawn, group)
    return "\n\n".join([*parts, "Made by `mm1-lab figures` from the files beside it."]) + "\n"


def _across(group: Group) -> list[str]:
    """What holds across the sweeps of a group: axes, lessons, decision accuracy."""
    parts = [f"### Across sweeps, {group.name}", *group.findings]
    if group.scale != "smoke" and len(drawn_levels(group.levels)):
        parts.append(f"![each design choice against the base](<{group.scale}/axes{group.suffix}.png>)")
    if len(group.axes):
        parts.append(f"[The axes as a table](<{group.scale}/axes{group.suffix}.md>).")
    if group.has_lessons:
        parts.append(to_markdown(group.short_lessons).rstrip())
        place = f"{group.scale}/lessons{group.suffix}.md"
        parts.append(f"[All lessons part by part, with the paper's statements and the seeds needed](<{place}>).")
    if table := group.accuracy_table:
        parts += [f"### {table.title}", to_markdown(replace(table, title="")).rstrip()]
    return parts


def _sweep(drawn: Drawn, group: Group) -> list[str]:
    sweep, place = drawn.manifest.sweep, f"{group.scale}/{drawn.folder.name}"
    there = {path.name for path in drawn.files}
    parts = [f"### {plain_markdown(sweep.heading)}, {group.name}"]
    if drawn.caution:
        parts.append(f"**{drawn.caution}**")
    if drawn.short_claims:
        parts.append(to_markdown(drawn.short_claims).rstrip())
    words = re.sub(r"[\[\]]", "", plain_markdown(sweep.title))  # a bracket could end them
    parts.append(f"![{words}](<{place}/figure.png>)")
    names = [name for name in ("table.md", "contrasts.md", "validity.md", "predictions.png") if name in there]
    links = " · ".join(f"[{name}](<{place}/{name}>)" for name in names)
    parts.append(f"{links}. {drawn.cost}")
    if drawn.missing:
        parts.append(f"Without scores: {plain_markdown(', '.join(drawn.missing))}.")
    return [*parts, f"Reproduce: `{drawn.command}`"]
