"""The state of the trials of sweeps."""

from collections.abc import Iterable, Sequence
from typing import Any

from mm1_lab.formatting import text_table
from mm1_lab.results import Ledger, TrialRow


def status_values(sweeps: Iterable[tuple[str, str, Sequence[TrialRow]]], ledger: Ledger) -> dict[str, Any]:
    """For each of `sweeps` (name, scale, trials) its trials, which are done, missing, or failed and why; then failures
    of other stages."""
    failures = ledger.failures()
    others = dict(failures)
    told = []
    for name, scale, rows in sweeps:
        trials = []
        for row in rows:
            others.pop(row.fingerprint, None)
            failure = failures.get(row.fingerprint)
            state, why = "missing", ""
            if ledger.has_scores(row.fingerprint):
                state = "done"
            elif failure:
                state = "failed"
                why = f"{failure['reason']} ({failure['attempts']} attempts; {failure['log'] or 'no log'})"
            trial = {"arm": row.arm, "seed": row.seed, "fingerprint": row.fingerprint, "state": state, "why": why}
            trials.append(trial)
        told.append({"sweep": name, "scale": scale, "trials": trials})
    stages = [{name: failure[name] for name in ("stage", "reason", "log")} for failure in others.values()]
    return {"sweeps": told, "failures": stages}


def status_text(status: dict[str, Any]) -> str:
    """`status_values` as a table per sweep, and a line per failure."""
    lines: list[str] = []
    for sweep in status["sweeps"]:
        trials = sweep["trials"]
        states = [trial["state"] for trial in trials]
        counts = ", ".join(f"{states.count(state)} {state}" for state in ("done", "missing", "failed"))
        lines += ["", f"{sweep['sweep']} at {sweep['scale']}: {counts}"]
        lines += text_table(list(trials[0]) if trials else [], [list(trial.values()) for trial in trials])
    for failure in status["failures"]:
        lines.append(f"failed: {failure['stage']}: {failure['reason']} ({failure['log'] or 'no log'})")
    return "\n".join(lines[1:])
