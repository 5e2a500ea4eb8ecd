"""A copy of results in which nobody can see an effect, for looking at pages and pictures before a study is judged."""

import random
import shutil
from pathlib import Path

from mm1_lab.files import write_csv, write_json
from mm1_lab.results.manifest import read_manifest, read_trials
from mm1_lab.results.reading import list_variants
from mm1_lab.results.schema import TRIAL_COLUMNS

FOLDER = "masked"


def masked_copy(results: Path) -> Path:
    """`RESULTS/masked`: each sweep with its trials' arms shuffled within each seed, controls included.

    The trials themselves are those of `results`, by a link. Titles say that the arms are shuffled.
    """
    copy = results / FOLDER
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir()
    (copy / "trials").symlink_to("../trials", target_is_directory=True)
    for folder in list_variants(results):
        manifest, rows, chance = read_manifest(folder), read_trials(folder), random.Random(folder.name)
        by_seed: dict[int, list[str]] = {}
        for row in rows:
            by_seed.setdefault(row.seed, []).append(row.fingerprint)
        for fingerprints in by_seed.values():
            chance.shuffle(fingerprints)
        sweep = manifest.sweep.model_copy(update={"title": f"MASKED, arms shuffled: {manifest.sweep.title}"})
        target = copy / folder.relative_to(results)
        target.mkdir(parents=True)
        write_json(target / "sweep.json", manifest.model_copy(update={"sweep": sweep}).model_dump(mode="json"))
        write_csv(target / "trials.csv", TRIAL_COLUMNS, ((row.arm, row.seed, by_seed[row.seed].pop()) for row in rows))
    return copy
