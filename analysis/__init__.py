"""What the results mean: tables, figures and verdicts, drawn from results/ alone, in seconds. Nothing here trains."""

from pathlib import Path


def draw(results: Path) -> list[Path]:
    """Redraws the tables and figures of every sweep in a results folder; returns the files written, beside each sweep.

    `figure.png|pdf` and `table.md|csv`: the paper's panels, or all arms where the sweep has none; `contrasts.*`: the
    claims with their verdicts; `table_1.md|csv`: Table 1, with each encoder's quality by itself; `benchmarks.csv`:
    every benchmark × shots; `sources.csv`: held-out loss, tokens and epochs a source; `predictions.html|png`: sampled
    predictions; `validity.*`: the rules for the base, where it has a blind control.
    Raises RequestError where there are no results, or of another schema. A sweep none of whose trials is finished is
    left out as long as another one has results.
    """
    from mm1_lab.results.reading import list_variants, read_variant

    folders = list_variants(results)
    finished = [folder for folder in folders if read_variant(folder).trials["done"].any()]
    return [path for folder in finished or folders for path in draw_sweep(folder)]


def draw_sweep(folder: Path) -> list[Path]:
    """Redraws one sweep's folder (`RESULTS/SCALE/VARIANT`); returns the files written.

    `table.md` is written last, in one step: a folder where it is newer than the results is drawn completely.
    """
    from analysis.figure_4 import draw_figure_4
    from analysis.figures import draw_arms, draw_contrasts, draw_panels
    from analysis.lr_results import draw_search
    from analysis.predictions import draw_sheet, write_page
    from analysis.study import read_study
    from analysis.table_1 import write_table_1
    from analysis.tables import write_tables
    from analysis.validity import write_validity
    from mm1_lab.results.manifest import read_manifest

    if read_manifest(folder).sweep.search:
        return draw_search(folder)
    study = read_study(folder)
    draw_main = draw_panels if study.sweep.panels else draw_arms
    draw_main = {"Fig. 4": draw_figure_4}.get(study.sweep.reproduces, draw_main)
    written = draw_main(study, folder / "figure")
    if study.sweep.contrasts:
        written += draw_contrasts(study, folder / "contrasts")
    written += [*write_page(study, folder / "predictions.html"), *draw_sheet(study, folder / "predictions")]
    if study.sweep.reproduces == "Table 1":
        written += write_table_1(study, folder)
    return [*written, *write_validity(folder), *write_tables(study, folder)]
