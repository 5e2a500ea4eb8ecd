"""What the summary and the report are made from: drawn sweeps, grouped by the scale at which they can be compared."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from analysis.judging.claims import known_lessons
from analysis.judging.evidence import Evidence
from analysis.judging.verdicts import judge_lessons, parts_frame
from analysis.measures import measures_table
from analysis.pages.axes import axes_table, drawn_levels, what_mattered
from analysis.pages.cells import in_short
from analysis.pages.verdicts import in_little_room, run_lessons, tally, unseen_notes, verdicts_table
from analysis.proxies import Paired, accuracy, accuracy_table
from analysis.seeds import seeds_text, tuned_on
from analysis.table import Table
from mm1_lab.formatting import at_seeds, counted
from mm1_lab.results import Manifest
from mm1_lab.results.manifest import growing

DATA = {
    "world": "in a miniature world of drawn shapes; the numbers show how these choices act there, not what models "
    "of the paper's size would score",
    "shards": "trained on your own data",
}


@dataclass(frozen=True)
class Drawn:
    """A drawn sweep: what the summary and the report need from it."""

    folder: Path
    """Where its files were written."""
    manifest: Manifest
    files: list[Path]
    evidence: Sequence[Evidence]
    """On each part of the lessons about it."""
    levels: pd.DataFrame
    """The differences of its axes' levels from the base's; empty for a search."""
    measures: pd.DataFrame
    """What deciding a difference takes by each measure; empty for a search, and at smoke, where nothing is learnt."""
    missing: Sequence[str]
    caution: str
    runs: pd.DataFrame
    """The finished trials: arm, seed, fingerprint."""
    search_seeds: Sequence[int]
    """The seeds of the search whose winner it confirms; empty for other sweeps."""
    paired: Paired
    claims: Table | None
    """The claims of its file with their verdicts."""
    contrasts: pd.DataFrame
    """The same claims as data."""
    tables: Mapping[str, Sequence[Table]]
    """Tables by their heading in the report."""
    looks: str
    """Which look a growing sweep has reached."""
    made: str
    """Where and with what it was run."""
    unseen: Sequence[str]
    """Conversations in which its tuned base does not see; none at smoke."""

    @property
    def group(self) -> tuple[str, str]:
        """Scale, and what overrides and data add to the name of a file about several sweeps; sweeps with the same group
        are comparable."""
        manifest = self.manifest
        named = manifest.variant_of("lessons")
        return manifest.scale, named.removeprefix("lessons")

    @property
    def short_claims(self) -> Table | None:
        if not self.claims:
            return None
        return in_little_room(self.claims, notes=["The claims of the sweep's file, one by one at 5 %, uncorrected."])

    @property
    def links(self) -> list[str]:
        """The files of the sweep that the summary links to."""
        there = {path.name for path in self.files}
        if "The search" in self.tables and (self.folder / "search.md").exists():
            there.add("search.md")  # by `run`
        return [name for name in ("table.md", "contrasts.md", "validity.md", "search.md") if name in there]

    @property
    def command(self) -> str:
        """The command that runs its trials again."""
        manifest = self.manifest
        if manifest.confirms:
            return manifest.command(*at_seeds(self.search_seeds))
        seeds, looks = sorted(set(self.runs["seed"])), manifest.looks
        options = [*(growing(seeds, looks) if looks else at_seeds(seeds))]
        known = set(self.runs["arm"])
        if not manifest.sweep.search and known < set(manifest.sweep.arms):
            for arm in sorted(known):
                options += ["--only", arm]
        return manifest.command(*options)

    @property
    def trials(self) -> str:
        return counted(self.runs["fingerprint"].nunique(), "trial")


@dataclass(frozen=True)
class Group:
    """The sweeps of one scale: a user's own first, then those that lessons are about."""

    scale: str
    suffix: str
    own: list[Drawn]
    """The sweeps that no lesson is about."""
    of_lessons: list[Drawn]
    lessons: pd.DataFrame
    parts: pd.DataFrame
    accuracy: pd.DataFrame
    """Decision accuracy of cheaper runs of these sweeps, from the whole results folder."""

    @property
    def drawn(self) -> list[Drawn]:
        return self.own + self.of_lessons

    @property
    def name(self) -> str:
        return f"scale {self.scale}{self.suffix.replace(',', ', ')}"

    @property
    def runs(self) -> pd.DataFrame:
        return pd.concat([one.runs for one in self.drawn])

    @property
    def seeds(self) -> list[int]:
        return sorted(set(self.runs["seed"]))

    @property
    def caution(self) -> str:
        """A warning if all results are of development seeds; otherwise empty."""
        return tuned_on(self.seeds) if self.drawn[0].manifest.in_world else ""

    @property
    def levels(self) -> pd.DataFrame:
        return _joined([one.levels for one in self.drawn])

    @property
    def tables(self) -> dict[str, Table]:
        """The tables about all of its sweeps, without empty ones, by the names of their files."""
        tables = {}
        if len(self.levels):
            tables["axes"] = axes_table(self.levels, f"What moves the scores at {self.name}", self.caution)
        measures = _joined([one.measures for one in self.drawn])
        if len(measures):
            title = f"What deciding a difference takes at {self.name}, by measure"
            tables["measures"] = measures_table(measures, title)
        if len(self.accuracy):
            title = f"Decision accuracy of cheaper runs, compared with {self.name}"
            tables["decision_accuracy"] = accuracy_table(self.accuracy, title)
        return tables

    @property
    def has_axes_figure(self) -> bool:
        return self.scale != "smoke" and len(drawn_levels(self.levels)) > 0

    @property
    def has_lessons(self) -> bool:
        """Whether a sweep ran that lessons are about."""
        return len(run_lessons(self.lessons)) > 0

    @property
    def short_lessons(self) -> Table:
        return in_little_room(verdicts_table(run_lessons(self.lessons)))

    @property
    def where(self) -> str:
        """What was run."""
        manifest = self.drawn[0].manifest
        trials = counted(self.runs["fingerprint"].nunique(), "trial")
        sweeps = counted(len(self.drawn), "sweep")
        seeds = seeds_text(self.seeds, manifest.in_world)
        return f"{trials} of {sweeps} at {self.name}, with {seeds}, {DATA[manifest.data.kind]}."

    @property
    def mattered(self) -> str:
        """Which design choices matter most."""
        return what_mattered(self.levels)

    @property
    def findings(self) -> str:
        """What the lessons came to."""
        lessons = self.lessons
        text = f"Of {len(lessons)} lessons: {tally(lessons)}"
        not_judged = lessons["reason"][lessons["verdict"] == "not judged"]
        reasons = not_judged.map(in_short).value_counts()
        if len(reasons):
            text += f" ({', '.join(f'{reason}: {count}' for reason, count in reasons.items())})"
        undecided = lessons["lesson"][lessons["verdict"] == "undecided"]
        if len(undecided):
            text += f"; undecided: {', '.join(undecided)}"
        return " ".join([f"{text}.", *unseen_notes(lessons)])


def _joined(frames: Iterable[pd.DataFrame]) -> pd.DataFrame:
    known = [frame for frame in frames if len(frame)]
    return pd.concat(known, ignore_index=True) if known else pd.DataFrame()


def _unseen(members: Sequence[Drawn]) -> dict[str, str]:
    """For each sweep, the conversations in which its base does not see, as a sweep with the same base and a blind
    control tells."""
    unseen = {}
    for one in members:
        for other in members:
            if other.unseen and other.manifest.sweep.base == one.manifest.sweep.base:
                unseen[one.manifest.sweep.name] = ", ".join(other.unseen)
    return unseen


def group_sweeps(results: Path, drawn: Sequence[Drawn]) -> list[Group]:
    """Groups sweeps by scale, overrides and data, and judges the lessons of each group; groups with sweeps of the
    user's own come first."""
    lessons = known_lessons(results)
    asked = {lesson.sweep for lesson in lessons}
    groups = []
    for scale, suffix in dict.fromkeys(one.group for one in drawn):
        members = [one for one in drawn if one.group == (scale, suffix)]
        evidence = [found for one in members for found in one.evidence]
        judged = judge_lessons(lessons, evidence, members[0].manifest, results)
        looks = {one.manifest.sweep.name: one.looks for one in members if one.looks}
        if looks:
            judged["looks"] = judged["sweep"].map(looks).fillna("")
        if unseen := _unseen(members):
            judged["unseen"] = judged["sweep"].map(unseen).fillna("")
        own = [one for one in members if one.manifest.sweep.name not in asked]
        of_lessons = [one for one in members if one.manifest.sweep.name in asked]
        cheaper = accuracy([one.paired for one in members], [one.paired for one in drawn])
        groups.append(Group(scale, suffix, own, of_lessons, judged, parts_frame(evidence), cheaper))
    return sorted(groups, key=lambda group: not group.own)
