"""The results of a sweep as data, for CSV files."""

import pandas as pd

from analysis.study import Study
from mm1_lab.results.summary import CONTENT

KEPT = ("arm", "seed", "benchmark", "family", "shots", "metric", "block", "score", "parsed")
"""What this module needs of the scores; each further column takes time to sort."""
MEASURED = ["benchmark", "family", "shots", "metric"]


def scores_by_benchmark(study: Study) -> pd.DataFrame:
    """Arm × seed × benchmark × shots × metric: the score, and the percentage of answers that could not be parsed."""
    rows = _by_metric(study).groupby(["arm", "seed", *MEASURED], sort=False)
    table = pd.DataFrame(
        {
            "score": rows["score"].mean(),
            "questions": rows["score"].size(),
            "unparsed_percent": 100 * (1 - rows["parsed"].mean()),
        }
    )
    return table.reset_index()


def _by_metric(study: Study) -> pd.DataFrame:
    """The scores of questions, and after each one of a caption that has a content score a row with it, whose metric is
    `content`."""
    rows = study.scores.reset_index(drop=True)
    if CONTENT not in rows:
        return rows
    rows = rows[[*KEPT, CONTENT]]
    of_content = rows[rows[CONTENT].notna()]
    scores = of_content[CONTENT].astype(float)
    of_content = of_content.assign(score=scores, metric=CONTENT)
    return pd.concat([rows, of_content]).sort_index(kind="stable")
