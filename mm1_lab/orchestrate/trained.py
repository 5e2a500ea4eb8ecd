"""The one trained arm that a command works with; nothing heavy is imported, so that a missing one is told at once."""

from __future__ import annotations

from pathlib import Path

from mm1_lab.config import RequestError, Trial
from mm1_lab.orchestrate.request import Request


def only_trial(request: Request) -> Trial:
    """The trial that is asked for. Raises RequestError unless there is exactly one."""
    if len(request.trials) != 1:
        raise RequestError(f"{len(request.trials)} trials are asked for; name one arm (--only ARM) and one seed")
    return request.trials[0]


def weights_of(request: Request, trial: Trial) -> Path:
    """The folder of the trial's model. Raises RequestError where the store has it not."""
    ledger, fingerprint = request.ledger, trial.evaluation.model.fingerprint
    if not ledger.has_weights(fingerprint):
        raise RequestError(
            f"{trial.name}: there are no weights of it in {ledger.store}; run it: {_run(request, trial)}"
        )
    return ledger.stage_folder(fingerprint)


def check_scored(request: Request, trial: Trial) -> None:
    """Raises RequestError for a trial without scores."""
    if not request.ledger.has_intact_scores(trial.fingerprint):
        raise RequestError(
            f"{trial.name}: has no scores yet, to which others could be added; run it: {_run(request, trial)}"
        )


def _run(request: Request, trial: Trial) -> str:
    return request.command("--seeds", f"{trial.seed},", "--only", trial.arm)
