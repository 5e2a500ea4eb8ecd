"""What an earlier evaluation of the same model has answered, so that only other benchmarks are asked."""

import re
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

from mm1_lab.config import EvaluationStage, RequestError
from mm1_lab.results.ledger import Ledger

MODEL = re.compile(rb'"fingerprints": \{[^}]*"([0-9a-f]+)",\s*"evaluation"')
"""In a record the fingerprint of the model; to decode all of it would take ten times as long."""


@dataclass(frozen=True)
class Earlier:
    """A finished evaluation that differs from a missing one in its list of benchmarks alone."""

    fingerprint: str
    asked: tuple[str, ...]
    """The missing one's benchmarks that it did not answer, or not as they are now."""
    share: float
    """Of the missing one's prompts, those of these benchmarks."""


def earlier_evaluations(stages: Iterable[EvaluationStage], ledger: Ledger) -> dict[str, Earlier]:
    """For each of the missing evaluations of finished models, by fingerprint, the one that answered most of it, in any
    sweep, if there is one. All records are searched, once: 10,000 take a quarter of a second."""
    missing = defaultdict(list)
    for stage in stages:
        if stage.benchmarks or stage.data.kind != "world":  # the world's own benchmarks come and go with its version
            missing[stage.model.fingerprint].append(stage)
    found: dict[str, Earlier] = {}
    for folder in ledger.trials.glob("*") if missing else ():
        match = None
        with suppress(OSError), open(f"{folder}/record.json", "rb", buffering=0) as file:
            match = MODEL.search(file.read())
        for stage in missing.get(match[1].decode(), ()) if match else ():
            earlier = _compared(stage, folder.name, ledger)
            best = found.get(stage.fingerprint)
            if earlier and (best is None or earlier.share < best.share):
                found[stage.fingerprint] = earlier
    return found


def _compared(stage: EvaluationStage, name: str, ledger: Ledger) -> Earlier | None:
    """The evaluation `name` if it asked the same weights under the same conditions, by this version's rules."""
    model = stage.model
    try:
        record = ledger.record(name)
        before = EvaluationStage.model_validate({**record["config"], "model": model})
        weights = record["summaries"][model.name]
    except (RequestError, LookupError, TypeError, ValueError):  # damaged, or written by another version
        return None
    alike = before.model_copy(update={"benchmarks": stage.benchmarks})
    if before.fingerprint != name or alike.fingerprint != stage.fingerprint:
        return None
    # which has the seconds of the training: since `gc` or `--anew` it may be another one
    if weights != ledger.summary(model.fingerprint) | {"flops": model.flops()}:
        return None
    known = {one.name: one.identity for one in before.benchmarks}
    kept = [one for one in stage.benchmarks if known.get(one.name) == one.identity]
    kept = [one for one in kept if not one.format.endswith(".py")]  # a program may read files that no digest covers
    rest = stage.model_copy(update={"benchmarks": tuple(kept)})
    asked = tuple(one.name for one in stage.benchmarks if one not in kept)
    return Earlier(name, asked, 1 - rest.positions() / stage.positions())
