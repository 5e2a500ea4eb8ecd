"""What each sweep resolves to at each scale, as a file per scale: every value, so that a changed default shows up in
review.

`UPDATE_GOLDEN=1 pytest tests/config` rewrites it.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from mm1_lab.config import WORLD_DATA, load_scale, load_sweep, resolve_sweep

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "resolved"
SCALES = [
    scale.stem
    for scale in sorted((ROOT / "sweeps" / "scales").glob("*.yaml"))
    if scale.stem != "lab"  # its models are read from their folders
]


@pytest.mark.parametrize("name", SCALES)
def test_sweeps_resolve_as_they_did(name: str) -> None:
    scale = load_scale(name, ROOT / "sweeps" / "scales")
    fingerprints: dict[str, dict[str, str]] = {}
    stages: dict[str, Any] = {}
    for path in sorted((ROOT / "sweeps").glob("*.yaml")):
        trials = resolve_sweep(load_sweep(path), scale, (0,), WORLD_DATA)
        fingerprints[path.stem] = {trial.arm: trial.fingerprint for trial in trials}
        for stage in trials[0].evaluation.chain():
            values = stage.model_dump(mode="json", exclude=set(stage.inputs))
            stages[f"{stage.KIND} {stage.fingerprint}"] = {"version": stage.VERSION, **values}
    stored = GOLDEN / f"{name}.json"
    if os.environ.get("UPDATE_GOLDEN") == "1":
        content = {"fingerprints": fingerprints, "stages of first arms": dict(sorted(stages.items()))}
        stored.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    golden = json.loads(stored.read_text(encoding="utf-8"))
    assert fingerprints == golden["fingerprints"], (
        "a sweep is new, or has other fingerprints than before, and what is done no longer counts: if that is meant, "
        "run with UPDATE_GOLDEN=1"
    )
    assert stages == golden["stages of first arms"], (
        "a default was changed, which fingerprints do not show: old results would pass for new ones. If a field is new "
        "instead, run with UPDATE_GOLDEN=1"
    )
