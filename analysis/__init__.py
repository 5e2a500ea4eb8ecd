"""What the results mean: tables, figures and verdicts, drawn from results/ alone, in seconds. Nothing here trains."""

from pathlib import Path


def draw(results: Path) -> list[Path]:
    """Redraws the tables and figures of every sweep in a results folder; returns the files written, beside each sweep.

    `figure.png|pdf` and `table.md|csv`: the paper's panels, or all arms where the sweep has none; `contrasts.*`: the
    claims with their verdicts; `benchmarks.csv`: every benchmark × shots; `sources.csv`: held-out loss, tokens and
    epochs a source; `predictions.html|png`: sampled predictions.
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
    from analysis.figures import draw_arms, draw_claims, draw_panels, head
    from analysis.lessons import judge_sweep, load_lessons
    from analysis.predictions import draw_sheet, write_page
    from analysis.study import read_study
    from analysis.tables import write_tables

    study = read_study(folder)
    draw_main = draw_panels if study.sweep.panels else draw_arms
    written = draw_main(study, folder / "figure")
    judged = judge_sweep(study, load_lessons()).contrasts
    if study.sweep.contrasts:
        written += draw_claims(judged, folder / "contrasts", head(study), f"{study.uncertainty_note}.")
    written += [*write_page(study, folder / "predictions.html"), *draw_sheet(study, folder / "predictions")]
    return [*written, *write_tables(study, judged, folder)]
