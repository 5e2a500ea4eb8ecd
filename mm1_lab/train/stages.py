"""The kinds of stages, and the one call that runs a stage from its inputs to its finished folder.

A new kind is a configuration in mm1_lab/config/kinds.py, a module here that trains it, and a line in `KINDS`.
"""

from collections.abc import Mapping
from pathlib import Path

from mm1_lab.config import Stage
from mm1_lab.data.types import Data
from mm1_lab.team import Dismissed
from mm1_lab.train.decoder import DECODER
from mm1_lab.train.encoder import ENCODER
from mm1_lab.train.kind import StageKind
from mm1_lab.train.multimodal import MULTIMODAL
from mm1_lab.train.progress import Report
from mm1_lab.train.recorder import CHECKPOINT
from mm1_lab.train.sft import SFT

KINDS: dict[type[Stage], StageKind] = {kind.config: kind for kind in (ENCODER, DECODER, MULTIMODAL, SFT)}


def run_stage(stage: Stage, folder: Path, inputs: Mapping[str, Path], data: Data, report: Report) -> None:
    """Runs a stage that leaves weights in `folder`, which exists, and goes on from a checkpoint there.

    `inputs` are the folders of the stages that it reads, by field name. Where torch.distributed has a process group,
    all of its processes make this call, and the first one writes. Raises Diverged, RequestError, or what data raise.
    """
    if type(stage) not in KINDS:
        raise TypeError(f"a stage of kind {stage.KIND!r} is not trained")
    try:
        KINDS[type(stage)].train(stage, folder, inputs, data, report)
    except Dismissed:
        return
    for checkpoint in folder.glob(CHECKPOINT + "*"):
        checkpoint.unlink()
