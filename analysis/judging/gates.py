"""What the last check of a scale (`mm1-lab check-scale`) found: gates, and the kinds of question on the floor."""

from collections.abc import Hashable
from dataclasses import replace

import pandas as pd

from analysis.seeds import earlier_world
from analysis.study import Study
from mm1_lab.results import variant_name
from mm1_lab.results.summary import PLAIN


def gate_rows(study: Study) -> list[dict[Hashable, str]]:
    """The rows of `gates.csv`; none if there was no check, or for results of an earlier world."""
    manifest = study.manifest
    name = variant_name("check_scale", manifest.overrides, manifest.data_name)
    path = study.variant.folder.with_name(name) / "gates.csv"
    if earlier_world(manifest) or not path.exists():
        return []
    return pd.read_csv(path, dtype=str, keep_default_na=False).to_dict("records")


def kinds_on_floor(study: Study) -> set[str]:
    return {row["what"].partition(",")[0] for row in gate_rows(study) if row["verdict"] == "floor"}


def without_floor(study: Study) -> tuple[list[str], Study | None]:
    """The kinds of question about images that are on the floor, and the study without them; None if it asks none."""
    scores = study.scores
    on_floor = scores["family"].isin(PLAIN) & scores["kind"].isin(kinds_on_floor(study))
    kinds = sorted(scores["kind"][on_floor].unique())
    return kinds, replace(study, scores=scores[~on_floor]) if kinds else None
