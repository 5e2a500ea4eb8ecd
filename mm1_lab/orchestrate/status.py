"""The state of the trials of sweeps, as text."""

from collections.abc import Collection, Iterable, Sequence

from mm1_lab.formatting import text_table
from mm1_lab.results import Ledger, TrialRow


def status_text(sweeps: Iterable[tuple[str, Sequence[TrialRow]]], ledger: Ledger, begun: Collection[str] = ()) -> str:
    """For each sweep (title, trials) a line per trial: done, missing, or failed and why; then failures of other stages.

    `begun`: fingerprints of trials whose model is partly trained.
    """
    texts, own, failures = [], set(), ledger.failures()
    for title, trials in sweeps:
        lines, counts = [], {"done": 0, "missing": 0, "failed": 0}
        for row in trials:
            own.add(row.fingerprint)
            failure = failures.get(row.fingerprint)
            state = "done" if ledger.has_scores(row.fingerprint) else "failed" if failure else "missing"
            counts[state] += 1
            why = "partly trained, resumes" if state == "missing" and row.fingerprint in begun else ""
            if failure and state == "failed":
                why = f"{failure['reason']} ({failure['attempts']} attempts; {failure['log'] or 'no log'})"
            lines.append((row.arm, row.seed, row.fingerprint, state, why))
        summary = ", ".join(f"{count} {state}" for state, count in counts.items())
        texts.append(
            "\n".join([f"{title}: {summary}", *text_table(("arm", "seed", "fingerprint", "state", "why"), lines)])
        )
    upstream = [
        f"failed: {one['stage']}: {one['reason']} ({one['log'] or 'no log'})"
        for fingerprint, one in failures.items()
        if fingerprint not in own
    ]
    return "\n".join(["\n\n".join(texts), *upstream])
