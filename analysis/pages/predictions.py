"""Sampled predictions of several arms of a sweep, for the report."""

from analysis.study import Study
from mm1_lab.results.samples import Sampled, read_samples


def shown_arms(study: Study) -> list[str]:
    """Those of the base, the first and last arm of the first panel, and the first blind control that have scores."""
    first_panel = next(iter(study.panels.values()))
    of_panel = list(first_panel.arms.values())
    arms = [arm for arm, recipe in study.sweep.arms.items() if recipe == study.sweep.base]
    arms += [of_panel[0], of_panel[-1], *study.controls[:1]]
    return [arm for arm in dict.fromkeys(arms) if arm in study.scored]


def shared_samples(study: Study, arms: list[str]) -> list[Sampled]:
    """The questions sampled for all of `arms`, at the first seed that they share, without further measures of the same
    answers (such as precision and recall of yes-no questions), whose points are not those of an answer."""
    trials = study.variant.done
    further = set(study.asked["benchmark"][study.asked["family"] == "further"])
    for _, rows in trials[trials["arm"].isin(arms)].groupby("seed"):
        fingerprints = dict(zip(rows["arm"], rows["fingerprint"], strict=True))
        if len(fingerprints) == len(arms):
            samples = read_samples(study.variant.ledger, {arm: fingerprints[arm] for arm in arms})
            return [sample for sample in samples if sample.question["benchmark"] not in further]
    return []
