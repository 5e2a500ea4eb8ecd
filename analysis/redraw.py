"""Draws all tables and figures of a results folder, each sweep in a process of its own."""

import os
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from functools import partial
from multiprocessing import forkserver, get_context, resource_tracker
from multiprocessing.context import ForkServerContext, SpawnContext
from pathlib import Path

import pandas as pd

from analysis.judging.claims import lessons_for
from analysis.judging.difference import SAME_TRIALS, UNLIKE
from analysis.judging.evidence import of_lessons
from analysis.judging.looks import reached_text
from analysis.judging.validity import read_judged, unseen_conversations
from analysis.judging.verdicts import judge_contrasts
from analysis.law.report import draw_search
from analysis.measures import measure_rows
from analysis.output import Output
from analysis.pages import scores
from analysis.pages.axes import level_rows
from analysis.pages.checks import validity_table
from analysis.pages.claims_figure import draw_claims, is_drawn
from analysis.pages.figures import draw_scores, head
from analysis.pages.groups import Drawn, group_sweeps
from analysis.pages.overview import write_overview, write_report
from analysis.pages.published import write_published
from analysis.pages.search import search_table
from analysis.pages.verdicts import claims_notes, in_little_room, verdicts_table
from analysis.proxies import pair_arms
from analysis.runs import made_with, minutes_of
from analysis.study import Study
from analysis.style import styled
from analysis.table import Table, to_plain
from mm1_lab.config import RateSearch
from mm1_lab.files import locked
from mm1_lab.formatting import counted
from mm1_lab.machine import machine_cpus
from mm1_lab.processes import begin_helper, by_helpers, interrupts_blocked, shorten_sockets
from mm1_lab.results.ledger import Ledger
from mm1_lab.results.manifest import contents_now, note_drawing, read_manifest, read_trials, seeds_of
from mm1_lab.results.reading import DRAWN, list_variants, read_variant
from mm1_lab.results.schema import DRAWING

# arms and seeds are few: Arrow's strings, which pandas takes by default, cost more than what is done with them
few_strings = pd.option_context("mode.string_storage", "python")


@few_strings
def draw(results: Path, out: Path | None = None, latex: bool = False, report: bool = False) -> list[Path]:
    """Draws everything in a results folder into it, or into `out`; returns the files written.

    Writes the files of `draw_sweep` to each sweep's folder; `lessons.*`, `axes.*`, `measures.md` and, if there are
    cheaper runs of a sweep, `decision_accuracy.*` to each scale's folder; `summary.md` for reading on a code host; and
    with `report` last `report.html`. `latex`: tables also as LaTeX and figures as PDF. Raises RequestError if there are
    no results, or results of another schema. A sweep without any finished trial is left out, which is told, if another
    one has results, and what was drawn of it before is deleted.
    """
    out = out or results
    folders = list_variants(results)
    finished = [folder for folder in folders if len(read_variant(folder).done)] or folders
    left_out = [_leave_out(folder, out / folder.relative_to(results)) for folder in folders if folder not in finished]
    drawn = _draw_all(finished, [out / folder.relative_to(results) for folder in finished], latex)
    groups = group_sweeps(results, drawn)
    files = [path for one in drawn for path in one.files]
    files += write_overview(out, groups, latex, left_out)
    if report:
        files.append(write_report(out, groups, left_out))
    return files


def _leave_out(folder: Path, target: Path) -> str:
    """Deletes what was drawn into `target` of a sweep whose trials have gone; tells so, and returns it."""
    manifest = read_manifest(folder)
    trials = counted(len(read_trials(folder)), "trial")
    text = f"{manifest.variant} at {manifest.scale}: 0 of {trials} have scores, so it is left out"
    if (target / "table.md").exists():
        text += "; what was drawn of it before is deleted"
    Output(target).remove(*DRAWN)
    (target / DRAWING).unlink(missing_ok=True)
    print(text, file=sys.stderr)
    return text


def _draw_all(finished: Sequence[Path], targets: Sequence[Path], latex: bool) -> list[Drawn]:
    """Draws each of the sweeps' folders into its target, on all cores."""
    draw_one = partial(_draw_and_note, latex=latex)
    workers = min(len(finished), machine_cpus())
    if workers < 2:
        return list(map(draw_one, finished, targets))
    if sys.platform == "darwin":  # Apple's libraries do not survive a fork
        context: SpawnContext | ForkServerContext = get_context("spawn")
    else:
        context = get_context("forkserver")
        context.set_forkserver_preload([__name__])
        shorten_sockets()
        resource_tracker.ensure_running()  # which would let its next process hear a Ctrl-C
        with interrupts_blocked():
            forkserver.ensure_running()
    with ProcessPoolExecutor(workers, context, begin_helper) as pool:
        return by_helpers(pool, [partial(draw_one, *one) for one in zip(finished, targets, strict=True)])


def _draw_and_note(folder: Path, target: Path, latex: bool) -> Drawn:
    """Draws the sweep in `folder` into `target`, and notes from what if that is its own folder, as `run` does."""
    if target != folder:
        return _draw(folder, target, latex)
    # a run that ends meanwhile would draw, too, and note newer contents for files that this replaces by older ones
    with locked(folder / ".draw.lock") if os.access(folder, os.W_OK) else nullcontext():
        manifest, ledger = read_manifest(folder), Ledger(folder.parents[1])
        marks = {row.fingerprint: ledger.mark(row.fingerprint) for row in read_trials(folder)}
        # before anything is read: what comes meanwhile makes other contents
        contents = contents_now(folder, manifest, marks)
        drawn = _draw(folder, target, latex)
        note_drawing(folder, drawn.files, contents)
    return drawn


def draw_sweep(folder: Path, predicted: Mapping[str, float] | None = None) -> list[Path]:
    """Draws one sweep's folder (`RESULTS/SCALE/VARIANT`) into it; returns the files written.

    - `figure.png` and `table.md|csv`: all arms, by the paper's panels if the sweep has them;
    - `contrasts.*`: the claims with their verdicts; `validity.*`: the rules for the base, if it has a blind control;
    - `scores.csv`: arm × seed × benchmark × shots; `measures.csv`: what deciding 3 points takes by each measure;
    - `table_3.md`, `table_4.md`: the paper's table with our numbers;
    - for a search of rates, `points.csv`, `optima.csv`, `law.json`; `predicted` are sizes to predict, with their
      parameters, by default those of the last fit.
    """
    return _draw(folder, folder, predicted=predicted).files


def sweep_in_short(folder: Path) -> str:
    """A summary of a sweep's folder for a terminal: a row per arm, a row per claim with its verdict; of a search over
    recipes its best arms."""
    if ranked := search_table(read_manifest(folder).sweep, folder):
        return to_plain(ranked).rstrip()
    study, _ = read_judged(folder)
    tables = [scores.short_table(study)]
    claims = judge_contrasts(study, of_lessons(study, lessons_for(folder)))
    known = claims[claims["estimate"].notna() | claims["reason"].str.startswith((SAME_TRIALS, UNLIKE))]
    if len(known):
        notes = []
        if (known["of_lesson"] != "").any():
            notes = ["Lessons, judged with correction for their number: `lessons.md`, by `mm1-lab figures`."]
        title = "Claims: differences in points with their 95 % intervals"
        tables.append(in_little_room(verdicts_table(known), title, notes))
    return "\n\n".join(to_plain(table).rstrip() for table in tables)


@few_strings
def _draw(folder: Path, target: Path, latex: bool = False, predicted: Mapping[str, float] | None = None) -> Drawn:
    """Draws the sweep in `folder` into `target`."""
    study, rules = read_judged(folder)
    lessons = lessons_for(folder)
    output = Output(target, latex=latex)
    tables = {}
    claims_table = None
    levels = measures = claims = pd.DataFrame()
    with styled():
        output.csv("scores", scores.scores_by_benchmark(study))
        if isinstance(study.sweep.search, RateSearch):
            evidence = of_lessons(study, lessons, draw_search(study, output, predicted))
        else:
            evidence = of_lessons(study, lessons)
            levels = level_rows(study)
            if study.manifest.scale != "smoke":
                measures = measure_rows(study, *minutes_of(study))
            if len(measures):
                output.csv("measures", measures)
            if rules:
                output.csv("validity", pd.DataFrame(rules))
                table = validity_table(study, rules)
                output.tables("validity", table)
                tables[table.title] = [table]
            claims = judge_contrasts(study, evidence)
            if len(claims):
                claims_table = verdicts_table(claims, scores.title(study), claims_notes(study, claims))
                output.csv("contrasts", claims)
                output.tables("contrasts", claims_table)
                if is_drawn(claims, study.manifest.scale):
                    output.figure("contrasts", draw_claims(claims, head(study), study.caution))
            write_published(study, output)
            if ranked := search_table(study.sweep, folder):
                tables["The search"] = [ranked]
            output.figure("figure", draw_scores(study))
            tables["All scores"] = _write_scores(study, output)
    output.remove(*DRAWN)  # the sweep may have had a blind control, claims, or tuned arms
    return Drawn(
        folder=target,
        manifest=study.manifest,
        files=output.files,
        evidence=evidence,
        levels=levels,
        measures=measures,
        missing=study.missing(),
        caution=study.caution,
        runs=study.done[["arm", "seed", "fingerprint"]],
        search_seeds=seeds_of(folder, study.manifest) if study.manifest.confirms else (),
        paired=pair_arms(study),
        claims=claims_table,
        contrasts=claims,
        tables=tables,
        looks=reached_text(study),
        made=made_with(study),
        unseen=unseen_conversations(study, rules) if study.manifest.scale != "smoke" else [],
    )


def _write_scores(study: Study, output: Output) -> list[Table]:
    """Writes the scores, `table.md` last; returns its tables."""
    tables = [scores.means_table(study)]
    if study.cider_measures:
        tables.append(scores.arms_table(study, study.cider_measures, "Captions by CIDEr", [scores.CIDER_NOTE]))
    tables.append(scores.losses_table(study))
    if study.sweep.reproduces == "Table 1":
        tables.append(scores.encoders_table(study))
    if parameters := scores.parameters_table(study):
        tables.append(parameters)
    output.csv("table", scores.means(study))
    output.tables("table", *tables)
    return tables
