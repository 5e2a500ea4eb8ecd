"""Finds results made with code of a part (a connector, a metric) that has changed since."""

from collections.abc import Callable, Iterable, Iterator

from mm1_lab.config import RequestError, Stage, Trial
from mm1_lab.results import Ledger
from mm1_lab.source_code import changed_parts, changed_text


def changed_note(trials: Iterable[Trial], ledger: Ledger) -> str:
    """A warning for the user who plans or runs these trials; empty if nothing changed."""
    return changed_text(part for one in _distinct(trials) for part in dict.fromkeys(_changed(one, ledger)))


def forget_changed(trials: Iterable[Trial], ledger: Ledger) -> None:
    """Deletes scores and models that were made with other code, and what diverged, so that all of it runs again."""
    diverged = ledger.diverged()
    for trial in _distinct(trials):
        if any(_changed(trial, ledger)):
            for stage in _recorded(trial):
                if changed_parts(_code(stage, ledger)):
                    ledger.forget(stage.fingerprint)
            ledger.forget(trial.fingerprint)
        for failed in trial.evaluation.chain():
            if failed.fingerprint in diverged:  # an evaluation's own failure is that of the model in the same task
                unfinished = (needed for needed in failed.inputs.values() if not ledger.has_weights(needed.fingerprint))
                for one in (failed, *unfinished):
                    ledger.forget(one.fingerprint)


def _changed(trial: Trial, ledger: Ledger) -> Iterator[str]:
    """The changed parts of the trial's scores and of the models before it, which may have no scores yet."""
    own = trial.fingerprint
    if ledger.has_scores(own):
        yield from changed_parts(
            _intact(lambda: ledger.record(own).get("code", {}), lambda: ledger.has_intact_scores(own))
        )
    for stage in _recorded(trial):
        yield from changed_parts(_code(stage, ledger))


def _code(stage: Stage, ledger: Ledger) -> dict[str, str]:
    own = stage.fingerprint
    return _intact(lambda: ledger.code(own), lambda: ledger.has_intact_weights(own))


def _intact(read: Callable[[], dict[str, str]], is_intact: Callable[[], bool]) -> dict[str, str]:
    """What `read` returns; nothing if that fails on a damaged folder, which `is_intact` reports and moves aside."""
    try:
        return read()
    except RequestError:
        if is_intact():
            raise
        return {}


def _recorded(trial: Trial) -> list[Stage]:
    """The stages of the trial whose weights have a record of code."""
    return [stage for stage in trial.evaluation.chain() if stage.code_parts()]


def _distinct(trials: Iterable[Trial]) -> Iterable[Trial]:
    return {trial.fingerprint: trial for trial in trials}.values()
