"""The state of the trials of sweeps."""

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from mm1_lab.formatting import text_table
from mm1_lab.results import Ledger, TrialRow

COLUMNS = ("arm", "seed", "fingerprint", "state", "why")


def status_values(
    sweeps: Iterable[tuple[str, str, Sequence[TrialRow]]], ledger: Ledger, begun: Collection[str] = ()
) -> dict[str, Any]:
    """For each of `sweeps` (name, scale, trials) its trials, which are done, missing, or failed and why; then failures
    of other stages.

    `begun`: fingerprints of trials whose model is partly trained.
    """
    told, own, failures = [], set(), ledger.failures()
    for name, scale, rows in sweeps:
        trials = []
        for row in rows:
            own.add(row.fingerprint)
            failure = failures.get(row.fingerprint)
            state, why = "missing", ""
            if ledger.has_scores(row.fingerprint):
                state = "done"
            elif failure:
                state = "failed"
                why = f"{failure['reason']} ({failure['attempts']} attempts; {failure['log'] or 'no log'})"
            elif row.fingerprint in begun:
                why = "partly trained, resumes"
            values = (row.arm, row.seed, row.fingerprint, state, why)
            trials.append(dict(zip(COLUMNS, values, strict=True)))
        told.append({"sweep": name, "scale": scale, "trials": trials})
    others = []
    for fingerprint, failure in failures.items():
        if fingerprint not in own:
            others.append({"stage": failure["stage"], "reason": failure["reason"], "log": failure["log"]})
    return {"sweeps": told, "failures": others}


def status_text(status: dict[str, Any]) -> str:
    """`status_values` as a table per sweep, and a line per failure."""
    texts = []
    for sweep in status["sweeps"]:
        trials = sweep["trials"]
        states = [trial["state"] for trial in trials]
        counts = ", ".join(f"{states.count(state)} {state}" for state in ("done", "missing", "failed"))
        table = text_table(COLUMNS, [list(trial.values()) for trial in trials])
        texts.append("\n".join([f"{sweep['sweep']} at {sweep['scale']}: {counts}", *table]))
    upstream = [f"failed: {one['stage']}: {one['reason']} ({one['log'] or 'no log'})" for one in status["failures"]]
    return "\n".join(["\n\n".join(texts), *upstream])
