"""Whether a measure averages the same in the trials of several arms, which could not be compared otherwise."""

import pandas as pd

from analysis.study import Record, Study, kept
from mm1_lab.config import Measure
from mm1_lab.results.summary import rows_of

HELD_OUT_DOCUMENTS, HELD_OUT_TOKENS = "held-out documents", "held-out tokens"
"""In what losses may be unlike."""
LEFT_OUT = "held_out_left_out"
"""What says in a record how many held-out documents did not fit a row, by source."""


def unlike(study: Study, arms: frozenset[str], measure: Measure) -> str:
    """What a measure averages in some trials of `arms` and not in others: `benchmarks`, as after one was added to the
    data and not all arms were evaluated again; of a loss, `held-out documents` or `held-out tokens`. Empty if all have
    the same."""
    for part in measure.parts:
        if part.about == "loss":
            if what := _unlike_losses(study, arms, part.of):
                return what
            continue
        asked = _asked(study, part)
        asked = asked[asked["arm"].isin(arms)]
        trials = asked[["arm", "seed"]].drop_duplicates()
        benchmarks = asked["benchmark"].nunique()
        if len(asked) < len(trials) * benchmarks:
            return "benchmarks"
    return ""


@kept
def _asked(study: Study, measure: Measure) -> pd.DataFrame:
    """A row per arm, seed and benchmark that a measure averages."""
    return rows_of(study.asked, measure)[["arm", "seed", "benchmark"]].drop_duplicates()


def _unlike_losses(study: Study, arms: frozenset[str], source: str) -> str:
    """As `unlike`, of the losses on a source."""
    # the world's texts have answers, of which alone a tuned model's loss is
    if source == "text" and study.manifest.in_world:
        are_tuned = {study.is_tuned(arm) for arm in arms}
        if len(are_tuned) > 1:
            return HELD_OUT_TOKENS
    records = {arm: record for arm, _, record in study.finished if arm in arms}  # alike at every seed
    are_told = all(record.get(LEFT_OUT) is not None for record in records.values())
    left_out = set()
    for arm, record in records.items():
        count = (record.get(LEFT_OUT) or {}).get(source, 0)
        if are_told:
            left_out.add(_left_out(record, source, count))
        else:  # by an earlier record: then those with more tokens per picture, of which `text` has none
            left_out.add((source != "text" and _has_more_tokens(study, arm, count),))
    return HELD_OUT_DOCUMENTS if len(left_out) > 1 else ""


def _left_out(record: Record, source: str, count: int) -> tuple[int, ...]:
    """How many held-out documents do not fit a row. Where pictures have fewer views by their shapes, as many may be
    others: then with the largest number of views and their side."""
    model = record.get("config", {}).get("model", {})
    by_ratio = count and source != "text" and model.get("tiling") == "ratio"
    if by_ratio:
        return count, model["views"], model["image_size"]
    return (count,)


def _has_more_tokens(study: Study, arm: str, left_out: int) -> bool:
    """Whether pictures take more tokens than others, by several views or as the model has rows of its own."""
    sft = study.sweep.arms[arm].sft
    return bool((sft and sft.views > 1) or (left_out and study.own_rows.get(arm)))
