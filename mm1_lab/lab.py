"""The lab from Python, for notebooks and scripts: the same as the commands, with tables as pandas data frames.

>>> from mm1_lab import contrasts, load_sweep, plan, results, run
>>> sweep = load_sweep("data_mix", scale="smoke", only=["base", "captions"])
>>> plan(sweep)["kind"].value_counts().to_dict()
{'multimodal': 2, 'evaluation': 2, 'encoder': 1, 'decoder': 1}
>>> scores = run(sweep, inline=True)  # doctest: +ELLIPSIS
data_mix at smoke: 4 tasks, 0 of 2 trials done before...
>>> sorted(set(scores["arm"]))
['base', 'captions']
>>> curves = results.curves(sweep.folder)
>>> list(curves.columns)
['arm', 'seed', 'fingerprint', 'step', 'name', 'value']
>>> set(contrasts(sweep.folder)["verdict"])  # the spread over seeds needs more than one
{'not judged'}
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mm1_lab.config import RequestError
from mm1_lab.formatting import counted
from mm1_lab.orchestrate.planning.doubts import doubts, ignored
from mm1_lab.orchestrate.planning.loading import load_request as load_sweep
from mm1_lab.orchestrate.planning.request import Request
from mm1_lab.results.reading import scores

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["contrasts", "load_sweep", "plan", "run"]


def plan(sweep: Request) -> pd.DataFrame:
    """One row per stage: kind, fingerprint, seed, state (reused, to run, waits, not needed, diverged), reason, arms."""
    import pandas as pd

    from mm1_lab.orchestrate.planning.plan import make_plan
    from mm1_lab.orchestrate.planning.plan_text import name_arms, stage_values
    from mm1_lab.orchestrate.recipe_search import rounds_of

    _check_loaded(sweep)
    rounds = rounds_of(sweep, to_the_end=True)
    _warn_of(rounds)
    trials = [trial for part in rounds for trial in part.trials]
    rows = [stage_values(planned) for planned in make_plan(trials, sweep.ledger).stages.values()]
    name_arms(rows, rounds)
    return pd.DataFrame(rows, columns=["kind", "fingerprint", "seed", "state", "why", "arms"])


def run(
    sweep: Request,
    inline: bool = False,
    address: str | None = None,
    share: bool = False,
    minutes: float | None = None,
) -> pd.DataFrame:
    """Runs what is missing, draws the sweep's tables and figures, and returns the scores of all of its finished trials,
    those of earlier runs too, by arm and seed.

    `inline`: one stage after another in this process; `share`: so beside other processes, for `minutes` if given;
    otherwise with Ray Tune, on the cluster at `address` if given. Warns of trials that failed or are left; raises
    RequestError if none is finished.
    """
    from analysis import draw_sweep, sweep_in_short
    from mm1_lab.orchestrate.execution.executor import Leaving, make_executor
    from mm1_lab.orchestrate.recipe_search import rounds_of, run_request

    _check_loaded(sweep)
    executor = make_executor(sweep, inline, address, share, minutes, rounds=bool(sweep.sweep.search))
    sweep.ledger.check_writable()
    _warn_of([sweep])
    with executor:
        try:
            code = run_request(sweep, executor, draw_sweep, sweep_in_short)
        except Leaving as leaving:
            warnings.warn(str(leaving), stacklevel=2)
            code = int(leaving.failed)
    if code:
        trials = [trial for part in rounds_of(sweep) for trial in part.trials]
        lacking = sum(not sweep.ledger.has_scores(trial.fingerprint) for trial in trials)
        text = f"{lacking} of {counted(len(trials), 'trial')} without scores, for the reasons above"
        try:
            found = scores(sweep.folder)
        except RequestError:  # there are none
            raise RequestError(f"{sweep.folder}: {text}") from None
        warnings.warn(text, stacklevel=2)
        return found
    return scores(sweep.folder)


def _check_loaded(sweep: Request) -> None:
    if not isinstance(sweep, Request):
        raise RequestError(
            f"give what load_sweep returns, such as load_sweep('data_mix', scale='smoke'), not {sweep!r}"
        )


def _warn_of(rounds: Sequence[Request]) -> None:
    """Warns, at the line that called the lab, of what the commands tell before a run."""
    told = [doubt for part in rounds for doubt in doubts(part)]
    for doubt in dict.fromkeys([*ignored(rounds[0]), *told]):
        warnings.warn(doubt, stacklevel=3)


def contrasts(folder: Path | str) -> pd.DataFrame:
    """The sweep's claims with estimates, intervals and verdicts, one row per claim; `folder` is `sweep.folder`.

    A verdict rests on the measure that its claim names; unlike those of lessons it is not corrected for their number.
    Of a claim that is part of a lesson, `of_lesson`, the verdict that counts is `lesson_verdict`, which
    `mm1-lab figures` finds.
    """
    from analysis.judging.claims import lessons_for
    from analysis.judging.evidence import of_lessons
    from analysis.judging.validity import read_judged
    from analysis.judging.verdicts import judge_contrasts

    study, _ = read_judged(folder)
    return judge_contrasts(study, of_lessons(study, lessons_for(study.folder)))
