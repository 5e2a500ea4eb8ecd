"""Draws all tables and figures of a results folder, each sweep in a process of its own."""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import forkserver, get_context
from pathlib import Path

from analysis.judging.claims import judge_claims
from analysis.judging.gates import without_floor
from analysis.judging.lessons import known_lessons
from analysis.judging.looks import reached_text
from analysis.judging.validity import read_judged, write_validity
from analysis.judging.verdicts import lesson_parts, with_lessons
from analysis.law.lr_report import draw_search
from analysis.pages.axes import axis_rows
from analysis.pages.claims_figure import draw_claims
from analysis.pages.figures import draw_scores, head
from analysis.pages.frames import scores
from analysis.pages.overview import Drawn, Group, group_sweeps, write_overview
from analysis.pages.predictions import draw_sheet, shared_samples, shown_arms, write_page
from analysis.pages.published import write_published
from analysis.pages.report import write_report
from analysis.pages.tables import short_claims, short_table, write_sweep_tables
from analysis.proxies import pair_arms
from analysis.runs import runs_of, stage_seconds
from analysis.table import Table, to_plain, write_csv
from mm1_lab.files import machine_cpus
from mm1_lab.processes import allow_interrupts, interrupts_blocked
from mm1_lab.results.reading import list_variants, read_variant


def draw(results: Path) -> list[Path]:
    """Redraws everything in a results folder; returns the files written.

    Writes the files of `draw_sweep` to each sweep's folder; `lessons.*`, `axes.*` and, if there are cheaper runs of a
    sweep, `decision_accuracy.*` to each scale's folder; and `summary.md` for reading on a code host. Raises
    RequestError if there are no results, or results of another schema. A sweep without any finished trial is skipped if
    another one has results.
    """
    return _draw_all(results)[1]


def draw_report(results: Path) -> list[Path]:
    """Redraws everything and writes `report.html`; returns the files written, the report last."""
    groups, files = _draw_all(results)
    return [*files, write_report(results, groups)]


def _draw_all(results: Path) -> tuple[list[Group], list[Path]]:
    drawn = draw_sweeps(results)
    groups = group_sweeps(results, drawn)
    return groups, [*(path for one in drawn for path in one.files), *write_overview(results, groups)]


def draw_sweeps(results: Path) -> list[Drawn]:
    """Draws every sweep of a results folder, on all cores."""
    folders = list_variants(results)
    finished = [folder for folder in folders if len(read_variant(folder).done)] or folders
    workers = min(len(finished), machine_cpus())
    if workers < 2:
        return [_draw(folder) for folder in finished]
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with interrupts_blocked():
        forkserver.ensure_running()
    with ProcessPoolExecutor(workers, context, allow_interrupts) as pool:
        return list(pool.map(_draw, finished))


def draw_sweep(folder: Path) -> list[Path]:
    """Redraws one sweep's folder (`RESULTS/SCALE/VARIANT`); returns the files written.

    - `figure.png|pdf` and `table.md|csv|tex`: the paper's panels, or all arms if the sweep has none;
    - `contrasts.*`: the claims with their verdicts; `validity.*`: the rules for the base, if it has a blind control;
    - `scores.csv`: arm × seed × benchmark × shots; `benchmarks.csv`: means over seeds;
    - `sources.csv`: held-out loss, tokens and epochs per source; `experts.csv`, for mixtures of experts: their use;
    - `predictions.html|png`: sampled predictions;
    - `table_1.*`, `table_3.*`, `table_4.*`: the paper's table with our numbers;
    - for a search, `points.csv`, `optima.csv`, `law.json`.

    `table.md` is written last and atomically: a folder in which it is newer than the results is completely drawn.
    """
    return list(_draw(folder).files)


def sweep_in_short(folder: Path) -> str:
    """A summary of a sweep's folder for a terminal: a row per arm, a row per claim with its verdict."""
    study, _, failed = read_judged(folder)
    claims = with_lessons(study, judge_claims(study, failed), known_lessons(folder.absolute().parents[1]))
    tables = [short_table(study)]
    if len(claims) and len(known := claims[claims["estimate"].notna()]):
        tables.append(short_claims(known))
    return "\n\n".join(to_plain(table).rstrip() for table in tables)


def _draw(folder: Path) -> Drawn:
    study, rules, failed = read_judged(folder)
    floor, kept = without_floor(study)
    lessons = known_lessons(folder.absolute().parents[1])
    claims = with_lessons(study, judge_claims(study, failed, kept), lessons)
    samples = shared_samples(study, shown_arms(study))
    files = [*write_page(study, samples, folder / "predictions.html"), *draw_sheet(study, folder / "predictions")]
    files.append(write_csv(scores(study), folder / "scores.csv"))
    tables: dict[str, list[Table]] = {}
    if study.sweep.search:
        files += draw_search(folder)
    else:
        files += draw_scores(study, folder / "figure")
        if len(claims):
            within = (claims["interval"] == "seeds").any()
            of = "95 % t intervals of differences formed within each seed" if within else "95 % intervals"
            files += draw_claims(claims, folder / "contrasts", head(study), f"{of}. {study.caution}".strip())
        files += write_published(study, folder)
        validity, table = write_validity(study, rules)
        written, tables = write_sweep_tables(study, claims, folder, floor)
        files += [*validity, *written]
        tables |= {table.title: [table]} if table else {}
    return Drawn(
        folder=folder,
        manifest=study.manifest,
        files=tuple(files),
        parts=lesson_parts(study, lessons, failed, kept),
        axes=None if study.sweep.search else axis_rows(study),
        missing=tuple(study.missing()),
        caution=study.caution,
        runs=runs_of(study),
        paired=pair_arms(study),
        looks=reached_text(study),
        seconds=stage_seconds(study),
        tables=tables,
        samples=tuple(samples),
    )
