"""What a sweep's `search` says: which fields of the recipe are searched, how, and how far."""

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from mm1_lab.config.base import Config
from mm1_lab.config.measure import Measure, MeasureField


class RateSearch(Config):
    """A search for the best learning rate of each arm, around the arm's own rate."""

    rates: int = Field(5, ge=3, le=100)
    """Learning rates in each arm's initial grid."""
    factor: float = Field(2.0, gt=1, le=100)
    """Ratio between neighbouring learning rates."""
    extensions: int = Field(3, ge=0, le=100)
    """Learning rates that may be added to the grid while the best one is at its edge."""


class Range(Config):
    """Numbers between two bounds; those tried have three significant digits."""

    low: float
    high: float
    log: bool = False
    """Whether ratios count, as for learning rates and weights of data."""

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low ({self.low:g}) must be below high ({self.high:g})")
        if self.log and self.low <= 0:
            raise ValueError(f"with log, low must be above 0 (it is {self.low:g})")
        return self

    @property
    def ends(self) -> tuple[float, float]:
        return self.low, self.high


def _space(values: Any) -> Any:
    if isinstance(values, dict):
        return Range.model_validate(values)
    if isinstance(values, list | tuple) and len(values) > 1:
        return tuple(values)
    raise ValueError("give a list of two values or more, or {low: …, high: …, log: true}")


Space = Annotated[Range | tuple[Any, ...], BeforeValidator(_space)]


def _measures(words: Any) -> tuple[Measure, ...]:
    listed = words if isinstance(words, list | tuple) else [words]
    return tuple(Measure.parse(one) for one in listed)


class Search(Config):
    """A search over fields of the recipe, after which the winner and the base are run at seeds that it did not see."""

    over: dict[str, Space] = Field(min_length=1)
    """Fields of the recipe (`image_tokens`, `data_mix.text`), each with a list of values, or with `low`, `high` and
    perhaps `log: true`."""
    measure: Annotated[tuple[MeasureField, ...], BeforeValidator(_measures), Field(min_length=1)]
    """What is searched for: `4-shot`, `vqa 0-shot`, `loss captions` (less is better), …; several with `nsga2`, of
    which the first chooses the winner from the front."""
    sampler: Literal["tpe", "gp", "nsga2"] = "tpe"
    """Optuna's tree-structured Parzen estimator, Gaussian process, or genetic algorithm."""
    trials: int = Field(20, ge=2, le=10_000)
    at_a_time: int = Field(4, ge=1, le=1000)
    """Arms that are proposed together, from the scores of those before (of `nsga2`, a generation). As many can run at a
    time; the proposals do not depend on how many do."""
    prune: bool = False
    """Train each arm for a quarter of its steps first, and go on only if that is not worse than the median before."""
    confirm: int = Field(3, ge=2, le=1000)
    """Seeds that the search does not see, at which the winner is compared with the base."""

    @model_validator(mode="after")
    def _measures_fit(self) -> Self:
        if len(self.measure) > 1 and (self.sampler != "nsga2" or self.prune):
            raise ValueError("several measures need `sampler: nsga2` and no `prune`")
        return self


def _search(values: Any) -> Any:
    if not isinstance(values, dict):
        return values
    kind = Search if values.keys() & Search.model_fields.keys() else RateSearch
    return kind.model_validate(values)


AnySearch = Annotated[Search | RateSearch, BeforeValidator(_search)]
