"""What each sweep resolves to at each scale, as a file: every value, so that a changed default shows up in review.

`UPDATE_GOLDEN=1 pytest tests/config` rewrites it. A changed fingerprint means that finished results no longer count.
"""

import json
import os
from pathlib import Path

import pytest

from mm1_lab.config import WORLD_DATA, load_scale, load_sweep, resolve_sweep

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "resolved"
CASES = [
    (sweep.stem, scale.stem)
    for sweep in sorted((ROOT / "sweeps").glob("*.yaml"))
    for scale in sorted((ROOT / "sweeps" / "scales").glob("*.yaml"))
    if scale.stem != "lab"  # its models are read from their folders
]


@pytest.mark.parametrize(("sweep", "scale"), CASES)
def test_a_sweep_resolves_as_it_did(sweep: str, scale: str) -> None:
    trials = resolve_sweep(
        load_sweep(ROOT / "sweeps" / f"{sweep}.yaml"),
        load_scale(scale, ROOT / "sweeps" / "scales"),
        (0,),
        WORLD_DATA,
    )
    first = trials[0].evaluation
    parts = first.model.architecture
    resolved = {
        "fingerprints": {trial.arm: trial.fingerprint for trial in trials},
        "stages of the first arm": [
            {"kind": stage.KIND, "version": stage.VERSION, **stage.model_dump(mode="json", exclude=set(stage.inputs))}
            for stage in (parts.encoder, parts.decoder, first.model, first)
        ],
    }
    path = GOLDEN / f"{sweep}-{scale}.json"
    if os.environ.get("UPDATE_GOLDEN"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(resolved, indent=1) + "\n", encoding="utf-8")
    assert resolved == json.loads(path.read_text(encoding="utf-8")), (
        "a sweep resolves to something else than before: if that is meant, run with UPDATE_GOLDEN=1"
    )
