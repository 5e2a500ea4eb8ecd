"""Claims about the arms of a table."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from analysis.judging.claims import claim_of
from mm1_lab.config import Contrast, Expectation, RequestError, nearest
from mm1_lab.config.base import read_yaml
from mm1_lab.config.sweep import Side
from mm1_lab.files import expanded

AVERAGE = "average"
TABLES = (".csv", ".tsv", ".jsonl", ".parquet")
"""How names of tables end, as that of a second one may where claims stand."""


class OutsideClaim(Contrast):
    """A claim about arms of a table; as a sweep's contrast, but both arms must be given, and nothing else."""

    claim: str = ""
    second: Side = Field(min_length=1)
    measure: str = AVERAGE  # type: ignore[assignment]
    """`average` (over all benchmarks and shots), `4-shot`, a benchmark, `BENCHMARK 4-shot`, or a difference of two."""
    expect: Expectation = "greater"

    @property
    def name(self) -> str:
        return self.claim or claim_of(self).detail.removesuffix(f", {self.measure}")

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each arm in the difference."""
        return {arm: weight for (arm, _), weight in claim_of(self).weights.items()}

    @property
    def question(self) -> str:
        """The same text for the claim the other way round, `less` of the opposite difference."""
        weights, expect = sorted(self.weights.items()), self.expect
        turned = [(arm, -weight) for arm, weight in weights]
        if expect == "less":
            weights, expect = turned, "greater"
        elif expect == "equivalent":
            weights = max(weights, turned)
        return repr((weights, self.measure, expect, self.margin))


def read_claims(claims: Path | str | Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> list[OutsideClaim]:
    """Claims in a YAML file, or what one holds. Raises RequestError."""
    where = "claims"
    if isinstance(claims, Path | str):
        claims = expanded(claims)
        if claims.is_dir() or claims.suffix.lower() in TABLES:
            raise RequestError(
                f"{claims}: is a table or logs, where a YAML file of claims may stand; to compare arms of several, put "
                "them into one, each with a name of its own in the column `arm`"
            )
        where, claims = str(claims), read_yaml(claims)
    values = claims.get("contrasts", ()) if isinstance(claims, Mapping) else claims
    if not isinstance(values, list | tuple) or not values:
        raise RequestError(f"{where}: must hold a list of `contrasts`, each with first, second, expect, and margin")
    return [OutsideClaim.parse(one, f"{where}: contrast {number}") for number, one in enumerate(values, 1)]


def check_arms(claim: OutsideClaim, arms: Sequence[str]) -> None:
    for arm in (*claim.sides[0], *claim.sides[1]):
        if arm not in arms:
            raise RequestError(f"{claim.name}: the table has no arm {arm!r}{nearest(arm, arms)}")
    if not claim.weights:
        raise RequestError(f"{claim.name}: both sides are the same")
