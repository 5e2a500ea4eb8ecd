"""A judgement as text for a terminal and as a figure."""

from collections import Counter
from pathlib import Path

import pandas as pd

from analysis.external.claims import AVERAGE
from analysis.external.judge import Judgement
from analysis.judging.p_values import expectation
from analysis.pages.cells import interval
from analysis.table import Table, to_plain
from mm1_lab.config import RequestError
from mm1_lab.files import write_bytes
from mm1_lab.formatting import counted


def judgement_text(judgement: Judgement) -> str:
    """A row per claim, then why some are not judged, what luck is worth, and notes."""
    claims = judgement.claims
    frame = pd.DataFrame(claims).rename(columns={"seeds_needed": "seeds needed"})
    frame["expected"] = [expectation(claim["expect"], claim["margin"]) for claim in claims]
    frame["95 %"] = [interval(claim, ".4g") for claim in claims]
    columns = ["claim", "measure", "expected", "difference", "95 %", "seeds", "p", "verdict", "seeds needed"]
    reasons = Counter(claim["reason"] for claim in claims)
    notes = [f"Not judged ({count} of {len(claims)}): {reason}." for reason, count in reasons.items() if reason]
    if any(claim["interval_over"] == "questions" for claim in claims):
        notes.append("Intervals of one seed or run are over questions: they are about these models alone.")
    spread = judgement.spread
    if spread:
        at = " at the same seed" if spread["same_seed"] else ""
        notes.append(
            f"Repeats of an arm spread by {spread['deviation']:.3g} (standard deviation on "
            f"{counted(spread['degrees_of_freedom'], 'degree')} of freedom): a gain of one run over another{at} below "
            f"{spread['smallest_gain']:.3g} may be luck."
        )
    else:
        notes.append(
            "Nothing says what luck is worth: run one arm three times, or two of them at the same three seeds."
        )
    notes += judgement.notes
    formats = {"difference": ".4g", "p": ".2g", "seeds needed": ".0f"}
    return to_plain(Table("p by Holm over all claims", frame[columns], notes, formats=formats))


def draw_judgement(judgement: Judgement, path: Path) -> None:
    """A line per claim: the difference, its 95 % interval and the verdict. Raises RequestError if none has one."""
    from analysis.pages.claims_figure import draw_claims
    from analysis.style import png, styled

    claims = pd.DataFrame(judgement.claims).rename(columns={"difference": "estimate", "interval_over": "interval"})
    numbers = ["estimate", "low", "high"]
    claims[numbers] = claims[numbers].astype(float)
    if (claims["measure"] != AVERAGE).any():
        claims["claim"] += ", " + claims["measure"]
    claims = claims.assign(sweep="", measure="", paper=float("nan"))  # one called `loss val` is drawn as any other
    if claims["estimate"].isna().all():
        raise RequestError("--figure: no claim has a difference to draw")
    corrected = ""
    if len(claims) > 1:
        corrected = "Verdicts are corrected for the number of claims (Holm), intervals are not."
    with styled():
        figure = draw_claims(claims, "Differences with their 95 % intervals", corrected, unit="difference")
        write_bytes(path, png(figure))
