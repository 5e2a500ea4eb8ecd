"""`mm1-lab ship-parts`: copies finished encoders and decoders into the repository."""

from collections.abc import Iterator

from mm1_lab.config import RequestError
from mm1_lab.orchestrate.planning.request import Request
from mm1_lab.results.parts import Parts


def ship_parts(request: Request, parts: Parts) -> Iterator[str]:
    """Copies the stages that the request's models start from out of the store; yields a line per part.

    Raises RequestError, before anything is copied, for a stage that is not finished.
    """
    ledger = request.ledger
    stages = {s.fingerprint: s for trial in request.trials for s in trial.evaluation.model.inputs.values()}
    for fingerprint, stage in stages.items():
        if not ledger.has_weights(fingerprint):
            raise RequestError(
                f"{stage.KIND} of seed {stage.seed} ({fingerprint}) is not in {ledger.store}; run it first: "
                f"{request.command('--seeds', f'{stage.seed},')}"
            )
    for fingerprint, stage in stages.items():
        if not ledger.is_shipped(fingerprint):
            parts.ship(fingerprint, ledger.weights(fingerprint))
        yield f"{stage.KIND} / seed {stage.seed}: {parts.folder / fingerprint}"
