"""Sampled predictions of several arms of a sweep, for the report."""

from analysis.study import Study
from mm1_lab.results.samples import Sampled, read_samples


def shown_arms(study: Study) -> list[str]:
    """Those of the base, the first and last arm of the first panel, and the blind control that have scores."""
    panel = next(iter(study.panels.values()))
    of_panel = list(panel.arms.values())
    arms: list[str | None] = [arm for arm, recipe in study.sweep.arms.items() if recipe == study.sweep.base]
    arms += [of_panel[0], of_panel[-1], study.blind]
    return [arm for arm in dict.fromkeys(arms) if arm in study.scored]


def shared_samples(study: Study, arms: list[str]) -> list[Sampled]:
    """The questions sampled for all of `arms`, at the first seed that they share, without further measures of the same
    answers (such as precision and recall of yes-no questions), whose points are not those of an answer."""
    trials = study.variant.done
    is_further = study.scores["family"] == "further"
    further = set(study.scores["benchmark"][is_further].unique())
    for _, rows in trials[trials["arm"].isin(arms)].groupby("seed"):
        fingerprints = rows.set_index("arm")["fingerprint"]
        if len(fingerprints) < len(arms):
            continue
        samples = read_samples(study.variant.ledger, {arm: fingerprints[arm] for arm in arms})
        return [sample for sample in samples if sample.question["benchmark"] not in further]
    return []
