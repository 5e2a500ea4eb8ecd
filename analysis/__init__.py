"""What the results mean: tables, figures, verdicts, a report, from results/ alone, in seconds. Nothing trains."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from analysis.overview import Drawn


def draw(results: Path) -> list[Path]:
    """Redraws everything of a results folder; returns the files written.

    Beside each sweep what `draw_sweep` draws; in each scale's folder `lessons.*` and `axes.*`; and `summary.md`, for
    reading on a code host. Raises RequestError where there are no results, or of another schema. A sweep none of whose
    trials is finished is left out as long as another one has results.
    """
    from analysis.overview import write_overview

    drawn = draw_sweeps(results)
    return [*(path for one in drawn for path in one.files), *write_overview(results, drawn)]


def draw_report(results: Path) -> list[Path]:
    """Redraws everything and writes `report.html`; returns the files written, the report last."""
    from analysis.overview import write_overview
    from analysis.report import write_report

    drawn = draw_sweeps(results)
    files = [path for one in drawn for path in one.files]
    return [*files, *write_overview(results, drawn), write_report(results, drawn)]


def draw_sweeps(results: Path) -> list[Drawn]:
    """Every sweep of a results folder, on all cores."""
    from mm1_lab.results.reading import list_variants, read_variant

    folders = list_variants(results)
    finished = [folder for folder in folders if read_variant(folder).trials["done"].any()] or folders
    workers = min(len(finished), len(os.sched_getaffinity(0)))
    if workers < 2:
        return [_draw(folder) for folder in finished]
    context = get_context("forkserver")
    context.set_forkserver_preload(["pandas", "matplotlib.figure", "scipy.special", "analysis.overview"])
    with ProcessPoolExecutor(workers, context) as pool:
        return list(pool.map(_draw, finished))


def draw_sweep(folder: Path) -> list[Path]:
    """Redraws one sweep's folder (`RESULTS/SCALE/VARIANT`); returns the files written.

    `figure.png|pdf` and `table.md|csv|tex`: the paper's panels, or all arms where the sweep has none; `contrasts.*`:
    the claims with their verdicts; `benchmarks.csv`: every benchmark × shots; `sources.csv`: held-out loss, tokens and
    epochs a source; `predictions.html|png`: sampled predictions; `validity.*`: the rules for the base, where it has a
    blind control; `table_1.*`: Table 1, with each encoder's quality by itself. Of a search: `points.csv`, `optima.csv`,
    `law.json`. `table.md` is written last, in one step: a folder where it is newer than the results is drawn
    completely.
    """
    return list(_draw(folder).files)


def _draw(folder: Path) -> Drawn:
    from analysis.axes import axis_rows
    from analysis.claims import judge_claims
    from analysis.figure_4 import draw_figure_4
    from analysis.figures import draw_arms, draw_claims, draw_panels, head
    from analysis.lessons import lesson_parts, load_lessons
    from analysis.lr_results import draw_search
    from analysis.overview import Drawn, cost_of, runs_of
    from analysis.predictions import draw_sheet, shared_samples, shown_arms, write_page
    from analysis.study import read_study
    from analysis.table_1 import write_table_1
    from analysis.tables import contrasts_document, means_document, write_tables
    from analysis.validity import failed_gates, validity_rows, write_validity

    study = read_study(folder)
    rules = validity_rows(study)
    failed = failed_gates(study, rules)
    claims = judge_claims(study, failed)
    samples = shared_samples(study, shown_arms(study))
    files = [*write_page(study, samples, folder / "predictions.html"), *draw_sheet(study, folder / "predictions")]
    documents = {}
    if study.sweep.search:
        files += draw_search(folder)
    else:
        draw_main = {"Fig. 4": draw_figure_4}.get(
            study.sweep.reproduces, draw_panels if study.sweep.panels else draw_arms
        )
        files += draw_main(study, folder / "figure")
        if len(claims):
            files += draw_claims(claims, folder / "contrasts", head(study), f"{study.uncertainty_note}.")
            documents["Claims of the sweep's file"] = contrasts_document(study, claims)
        if study.sweep.reproduces == "Table 1":
            files += write_table_1(study, folder)
        validity, document = write_validity(study, rules)
        files += [*validity, *write_tables(study, claims, folder)]
        documents["All scores"] = means_document(study)
        if document:
            documents[document.title] = document
    return Drawn(
        folder=folder,
        manifest=study.variant.manifest,
        files=tuple(files),
        claims=claims,
        parts=lesson_parts(study, load_lessons(), failed),
        axes=None if study.sweep.search else axis_rows(study),
        missing=tuple(study.missing()),
        cost=cost_of(study),
        runs=runs_of(study),
        documents=documents,
        samples=tuple(samples),
    )
