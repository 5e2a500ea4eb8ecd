"""What the training of a stage is given."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from mm1_lab.config import Resources, Stage
from mm1_lab.data.batches import ALONE
from mm1_lab.data.types import Data
from mm1_lab.train.progress import Report

AnyStage = TypeVar("AnyStage", bound=Stage)


@dataclass(frozen=True)
class StageRun(Generic[AnyStage]):
    """A stage that is trained in `folder`, resuming from a checkpoint there."""

    stage: AnyStage
    folder: Path
    inputs: Mapping[str, Path]
    """The folders of its input stages, by field name."""
    data: Data
    report: Report
    resources: Resources = ALONE
