"""Results whose parts (a connector, a metric) have other code now than they were made with."""

from collections.abc import Iterable, Iterator

from mm1_lab.config import ModelStage, Trial
from mm1_lab.results import Ledger
from mm1_lab.source_code import changed_parts, changed_text


def changed_note(trials: Iterable[Trial], ledger: Ledger) -> str:
    """A sentence for whoever plans or runs these trials; empty where nothing changed."""
    return changed_text(part for one in _distinct(trials) for part in dict.fromkeys(_changed(one, ledger)))


def forget_changed(trials: Iterable[Trial], ledger: Ledger) -> None:
    """Removes scores, and models, that were made with other code, so that the same command makes them anew."""
    for trial in _distinct(trials):
        if any(_changed(trial, ledger)):
            for stage in _models(trial):
                if changed_parts(ledger.code(stage.fingerprint)):
                    ledger.forget(stage.fingerprint)
            ledger.forget(trial.fingerprint)


def _changed(trial: Trial, ledger: Ledger) -> Iterator[str]:
    """Of the trial's scores; of models too that have none yet."""
    if ledger.has_scores(trial.fingerprint):
        yield from changed_parts(ledger.record(trial.fingerprint).get("code", {}))
    for stage in _models(trial):
        yield from changed_parts(ledger.code(stage.fingerprint))


def _models(trial: Trial) -> list[ModelStage]:
    return [stage for stage in trial.evaluation.chain() if isinstance(stage, ModelStage)]


def _distinct(trials: Iterable[Trial]) -> Iterable[Trial]:
    return {trial.fingerprint: trial for trial in trials}.values()
