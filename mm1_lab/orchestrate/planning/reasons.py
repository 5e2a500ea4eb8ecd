"""Says why a stage runs, for the plan."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from mm1_lab.orchestrate.planning.plan import PlannedStage
from mm1_lab.results import Ledger


def known_stages(ledger: Ledger) -> Iterator[dict[str, Any]]:
    """Flattened configurations of the stages in the store."""
    for path in ledger.store.glob("*/stage.json"):
        if ledger.has_weights(path.parent.name):
            try:
                values = json.loads(path.read_text(encoding="utf-8"))
                yield {"kind": values["kind"], "version": values["version"]} | flat(values["stage"])
            except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
                continue  # reported when the stage is loaded; here only a remark is lost


def why_it_runs(planned: PlannedStage, known: Sequence[dict[str, Any]]) -> str:
    """Why a stage runs; for a new one, what changed if a finished stage differs in at most two settings."""
    if planned.why != "new":
        return planned.why
    stage = planned.stage
    own = {"kind": stage.KIND, "version": stage.VERSION} | flat(stage.model_dump(mode="json"))
    for other in known:
        if other["kind"] != stage.KIND or other["seed"] != stage.seed:
            continue
        changed = sorted(name for name in own.keys() | other.keys() if own.get(name) != other.get(name))
        if 1 <= len(changed) <= 2:
            changes = [f"{name} {_shown(other.get(name))} → {_shown(own.get(name))}" for name in changed]
            return f"new: {', '.join(changes)}"
    return planned.why


def _shown(value: Any) -> Any:
    return "–" if value is None else value


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flattens nested dictionaries to dotted paths."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found
