"""What the commands share: exit codes, and functions that build a ledger or a request from the options."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mm1_lab.config import RequestError, is_of_recipe
from mm1_lab.results import Ledger

if TYPE_CHECKING:
    from mm1_lab.orchestrate.planning.request import Request


DONE, FAILED = 0, 1
"""Exit codes: everything succeeded; a trial or a gate failed."""


def print_json(value: Any) -> None:
    """Prints plain values as JSON, with null for what is not a finite number."""
    print(json.dumps(_finite(value), ensure_ascii=False, indent=1))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def parse_looks(text: str | None) -> tuple[int, ...]:
    """Parses `--looks`, increasing numbers of seeds (`4,6,8`); none without the option. Raises RequestError."""
    if text is None:
        return ()
    parts = text.split(",")
    looks = tuple(int(part) for part in parts if part.strip().isascii() and part.strip().isdigit() and len(part) < 7)
    if len(looks) < len(parts) or looks[0] < 2 or list(looks) != sorted(set(looks)):
        raise RequestError(f"--looks {text}: give increasing numbers of seeds, from 2 on, such as 4,6,8")
    return looks


def ledger_of(options: argparse.Namespace) -> Ledger:
    return Ledger(options.results, options.store)


def request_of(options: argparse.Namespace, sweep: str, only: Sequence[str] | None = None) -> Request:
    """The request that the options describe. `only` names the arms for a command without an `--only` option."""
    from mm1_lab.orchestrate.planning.request import load_request

    given = vars(options)
    request = load_request(
        sweep,
        options.scale,
        "1" if options.seeds is None else options.seeds,
        given.get("only", ()) if only is None else only,
        options.set,
        given.get("data"),
        options.results,
        options.store,
    )
    for folder, reason in (request.ledger.parts.damaged() if request.ledger.parts else {}).items():
        print(f"{folder}: this shipped part is not used ({reason}); restore or delete it", file=sys.stderr)
    if changes := [setting for setting in options.set if is_of_recipe(setting)]:
        print(f"--set: {', '.join(changes)} changes the recipe, from which the arms start", file=sys.stderr)
    if "synthetic" not in request.data.sources:
        print(f"{options.data}: no synthetic captions; other captions fill their share of rows", file=sys.stderr)
    return request
