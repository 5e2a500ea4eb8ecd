"""Finds the one trained arm that a command needs. Imports nothing heavy, so that a missing one is reported at once."""

from __future__ import annotations

from pathlib import Path

from mm1_lab.config import RequestError, Trial
from mm1_lab.formatting import one_trial
from mm1_lab.orchestrate.planning.request import Request


def only_trial(request: Request) -> Trial:
    """The requested trial. Raises RequestError unless there is exactly one."""
    if len(request.trials) != 1:
        raise RequestError(f"this command needs one trial, not {len(request.trials)}; give --only ARM and one seed")
    return request.trials[0]


def weights_of(request: Request, trial: Trial) -> Path:
    """The folder of the trial's model. Raises RequestError if the model has no weights."""
    ledger, fingerprint = request.ledger, trial.evaluation.model.fingerprint
    if not ledger.has_intact_weights(fingerprint):
        has_scores = ledger.has_scores(trial.fingerprint)
        what = "train it again (its scores stay)" if has_scores else "run it first"
        command = _run(request, trial, *["--weights"] * has_scores)
        raise RequestError(
            f"{trial.name}: there are no weights for it in {ledger.store}; {what}: {command}{request.elsewhere}"
        )
    return ledger.stage_folder(fingerprint)


def check_scored(request: Request, trial: Trial) -> None:
    """Raises RequestError for a trial without scores."""
    if not request.ledger.has_intact_scores(trial.fingerprint):
        raise RequestError(
            f"{trial.name}: has no scores of its own yet, to add others to; run it first: {_run(request, trial)}"
        )


def _run(request: Request, trial: Trial, *options: str) -> str:
    return request.command(*one_trial(trial.arm, trial.seed), *options)
