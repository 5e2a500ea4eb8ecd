"""Sweeps as text and plain values: their arms, one resolved or two told apart; the state of their trials."""

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from mm1_lab.config import RequestError, Stage, Trial, nearest, steps_made
from mm1_lab.formatting import counted, flat, on_one_line, text_table
from mm1_lab.orchestrate.planning.doubts import rounded_steps
from mm1_lab.orchestrate.planning.request import Request
from mm1_lab.results import Ledger, Manifest, TrialRow
from mm1_lab.results.manifest import drawn_contents, read_trials
from mm1_lab.results.schema import FINGERPRINT, NotReadable
from mm1_lab.results.trained import in_the_papers_words, summary_of_model

Told = tuple[Manifest, Sequence[TrialRow]]
"""A sweep at a scale, and those of its trials to tell about."""


def status_values(
    sweeps: Iterable[Told], ledger: Ledger, chains: Mapping[str, Sequence[Stage]] | None
) -> dict[str, Any]:
    """For each of `sweeps`: its trials, each done, running, missing, or failed and why; and how many more trials its
    arms have at these seeds, which were not asked for. Then failures of other stages.

    `chains` are the stages of each trial, by its fingerprint; then only failures of these stages are told. Without
    chains a trial counts as running only if its evaluation is leased, and not while a stage trains that other trials
    need, too.
    """
    failures = ledger.failures()
    stages = {stage.fingerprint for chain in (chains or {}).values() for stage in chain}
    others = {key: failure for key, failure in failures.items() if chains is None or key in stages}
    states = _States(ledger, chains, failures)
    told = []
    for manifest, rows in sweeps:
        folder = ledger.results / manifest.scale / manifest.variant
        marks = drawn_contents(folder).get("trials", {})
        in_tables = {(row.arm, row.seed): row.fingerprint for row in read_trials(folder)} if chains else {}
        trials = []
        for row in rows:
            others.pop(row.fingerprint, None)
            state, why = states.of(row.fingerprint, marks, in_tables.get((row.arm, row.seed), row.fingerprint))
            trial = {"arm": row.arm, "seed": row.seed, "fingerprint": row.fingerprint, "state": state, "why": why}
            trials.append(trial)
        sweep = manifest.sweep
        more = 0 if sweep.search else len(sweep.arms) * len({row.seed for row in rows}) - len(rows)
        told.append({"sweep": manifest.variant, "scale": manifest.scale, "trials": trials, "not_asked_for": more})
    left = [{name: failure[name] for name in ("stage", "reason", "log")} for failure in others.values()]
    return {"sweeps": told, "failures": left}


class _States:
    """Tells the states of trials, as they are when it is made; `chains` as for `status_values`."""

    def __init__(
        self, ledger: Ledger, chains: Mapping[str, Sequence[Stage]] | None, failures: Mapping[str, dict[str, Any]]
    ) -> None:
        self.ledger = ledger
        self.chains = chains
        self.leased = ledger.leases.recent()
        self.failures = failures_of_trials(failures, chains or {}, ledger)
        self.interruption = cache(ledger.interruption)  # many trials share stages

    def of(self, fingerprint: str, marks: Mapping[str, str], in_tables: str) -> tuple[str, str]:
        """A trial's state, and why it is failed or missing or what works on it. `marks` are those of drawn trials;
        `in_tables` is the fingerprint that its arm has there."""
        ledger = self.ledger
        try:
            done = ledger.intact_mark(fingerprint, marks) if marks else ledger.has_whole_scores(fingerprint)
        except NotReadable as error:
            return "missing", str(error)
        if done:
            return "done", ""
        if at_work := self._at_work(fingerprint):
            return "running", at_work
        if failure := self.failures.get(fingerprint):
            attempts = counted(failure["attempts"], "attempt")
            return "failed", f"{failure['reason']} ({attempts}; {failure['log'] or 'no log'})"
        if damaged := ledger.damaged_scores(fingerprint):
            return "missing", f"damaged ({damaged}); `run` makes it anew"
        for stage in (self.chains or {}).get(fingerprint, ()):
            if how := self.interruption(stage.fingerprint):
                return "missing", f"{stage.name} {how}"  # `alignment was interrupted, resumes`
        if in_tables != fingerprint and ledger.has_scores(in_tables):
            return "missing", "other settings than in the tables"
        return "missing", ""

    def _at_work(self, fingerprint: str) -> str:
        """The first stage of a trial that a process works on, and its step: `multimodal, step 140 of 700`; empty if
        none is."""
        if self.chains is None:
            return "a process works on it" if fingerprint in self.leased else ""
        for stage in reversed(self.chains[fingerprint]):
            if stage.fingerprint in self.leased and not self.ledger.is_done(stage):
                step, steps = self.ledger.last_step(stage.fingerprint), steps_made(stage)
                of_all = f" of {steps}" if steps else ""
                return f"{stage.name}, step {step}{of_all}" if step else stage.name
        return ""


def unused_trials(sweeps: Iterable[Told], results: Path) -> int:
    """The number of finished trials that none of the sweeps has in its tables, as they have other settings now, or were
    copied without their sweep."""
    try:
        names = set(filter(FINGERPRINT.fullmatch, os.listdir(results / "trials")))
    except OSError:
        return 0
    return len(names - {row.fingerprint for _, rows in sweeps for row in rows})


def failures_of_trials(
    failures: Mapping[str, dict[str, Any]], chains: Mapping[str, Sequence[Stage]], ledger: Ledger
) -> dict[str, dict[str, Any]]:
    """The failures, and for each trial that waits for a stage that failed, the stage's, by the trial's fingerprint: of
    the trials in `chains`, and of those that the command was to run in which the stage failed."""
    waiting = [(key, failure) for failure in failures.values() for key in failure.get("blocks", ())]
    for key, chain in chains.items():
        for stage in chain:
            if stage.fingerprint in failures and not ledger.is_done(stage):
                waiting.append((key, failures[stage.fingerprint]))
    told = {key: {**failure, "reason": f"{failure['stage']}: {failure['reason']}"} for key, failure in waiting}
    return {**told, **failures}


def status_text(status: dict[str, Any]) -> str:
    """`status_values` as a table per sweep, and a line per failure."""
    lines = []
    for sweep in status["sweeps"]:
        trials = sweep["trials"]
        states = [trial["state"] for trial in trials]
        shown = ["done", "missing", "failed", *(["running"] if "running" in states else [])]
        counts = ", ".join(f"{states.count(state)} {state}" for state in shown)
        if left := sweep["not_asked_for"]:
            counts += f"; {counted(left, 'trial')} not asked for"
        lines += ["", f"{sweep['sweep']} at {sweep['scale']}: {counts}"]
        lines += text_table(list(trials[0]) if trials else [], [list(trial.values()) for trial in trials])
    for failure in status["failures"]:
        line = f"failed: {failure['stage']}: {failure['reason']} ({failure['log'] or 'no log'})"
        lines.append(on_one_line(line))
    if unused := status.get("unused"):
        lines += ["", f"{counted(unused, 'finished trial')} in trials/ that no table here uses"]
    return "\n".join(lines[1:])


def show_values(request: Request, arms: list[str]) -> dict[str, Any]:
    """What applies of the recipe of each of `arms`, with what it is resolved to, or without any every arm's recipe.
    Raises RequestError for an arm that the sweep lacks."""
    if not arms:
        return {arm: recipe.model_dump(mode="json") for arm, recipe in request.sweep.arms.items()}
    values: dict[str, Any] = {}
    for arm in arms:
        if arm not in request.sweep.arms:
            raise RequestError(f"the sweep {request.sweep.name} has no arm {arm!r}{nearest(arm, request.sweep.arms)}")
        trial = next(trial for trial in request.trials if trial.arm == arm)
        start = {"start": {"data", "encoder", "decoder"}}  # those of the stage after it
        parameters = trial.evaluation.parameters()
        resolved = trial.evaluation.model_dump(mode="json", exclude={"model": {**start, "model": start}})
        values[arm] = {
            "recipe": in_the_papers_words(trial.recipe.model_dump(mode="json"), resolved),
            "fingerprint": trial.fingerprint,
            "parameters without embeddings": parameters.total,
            "of these active per token": parameters.active,
            "parameters of parts": _parameters_of_parts(trial, request),
            "resolved": resolved,
        }
    return values


def _parameters_of_parts(trial: Trial, request: Request) -> Mapping[str, int]:
    """All parameters by part, as recorded, or else counted, which imports torch; none of what cannot be built."""
    with suppress(RequestError):
        is_done = request.ledger.has_scores(trial.fingerprint)
        recorded = summary_of_model(request.ledger.record(trial.fingerprint)) if is_done else {}
        if counts := recorded.get("parameters"):
            return dict(counts)
        from mm1_lab.orchestrate.planning.cost import Networks
        from mm1_lab.orchestrate.planning.feasible import check_networks

        check_networks([trial.evaluation.model])
        return Networks(request).of(trial.evaluation).counts
    return {}


def show_text(request: Request, arms: list[str]) -> str:
    """The text for no, one or two `arms`. Raises RequestError as `show_values` does."""
    values = show_values(request, arms)
    if not arms:
        base = request.sweep.base.model_dump(mode="json")
        rows = []
        for arm, recipe in values.items():
            changes = [f"{name} {before} → {after}" for name, before, after in _differing(flat(base), flat(recipe))]
            rows.append((arm, "; ".join(changes) or "none"))
        table = text_table(("arm", "change to the base"), rows)
        for note in rounded_steps(request):
            table += ["", note]
        return "\n".join([request.sweep.heading, "", *table])
    if len(values) == 1:
        text = yaml.safe_dump(values[arms[0]], sort_keys=False, allow_unicode=True).rstrip()
        more = "\n# more than those above: with connector, embeddings, norms and biases"
        return text.replace("\nparameters of parts:", f"{more}\nparameters of parts:", 1)
    differing = _differing(flat(values[arms[0]]), flat(values[arms[1]]))
    if not differing:
        return f"{arms[0]} and {arms[1]} are the same trials."
    return "\n".join(text_table(("", *arms), differing))


def _differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """What differs, with the two values; a dash where there is none."""
    differing = [name for name in dict.fromkeys((*first, *second)) if first.get(name) != second.get(name)]
    return [(name, first.get(name, "–"), second.get(name, "–")) for name in differing]
