"""Time until the first batch of users' data, new and cached, by their size; run by hand, as it takes minutes.

    python -m benchmarks.first_step 1 10        # gigabytes; the disk must have room for twice as many

Captioned images of about 65 kB, as in reading.py, in tars of 1 GB and in Parquet files of 1 GB, each opened twice in a
process of its own. What is measured is everything but the import: finding and indexing files, training a tokenizer,
tokenising, packing, and decoding a batch of 32 rows.
"""

import io
import json
import resource
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.reading import write_tar
from benchmarks.setting import SWEEP
from mm1_lab.config import load_scale
from mm1_lab.data.batches import MixtureBatches
from mm1_lab.data.mixture import Mixture
from mm1_lab.data.packing import Packer
from mm1_lab.data.shards import Shards

GIGABYTE = 1_000_000_000


def open_once(folder: Path) -> dict[str, float]:
    """Opens the data in `folder` and reads a batch: seconds, seconds of processor time, and the most memory."""
    begun = time.monotonic()
    data = Shards(folder / "data.yaml", folder / "cache", load_scale("mini", SWEEP.parent / "scales"))
    packer = Packer(data.tokenizer, data.limits, is_planned=True)
    batches = MixtureBatches(
        {"captions": data.source("captions", 0)}, Mixture({"captions": 1.0}, 0), packer, 32, 336, blind=False
    )
    batches(0)
    # not that of `resource`, which begins with the peak of the process that started this one
    peak = Path("/proc/self/status").read_text(encoding="utf-8").partition("VmHWM:")[2]
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return {
        "seconds": time.monotonic() - begun,
        "core seconds": sum(usage.ru_utime + usage.ru_stime for usage in usages),
        "megabytes": int(peak.split()[0]) / 1024,
    }


def write_data(folder: Path, gigabytes: int, ending: str) -> None:
    """Writes one file a gigabyte, all of the same pictures but with captions of their own."""
    write_tar(folder / "one", 100)
    with tarfile.open(folder / "one") as archive:
        contents = [archive.extractfile(member) for member in archive if member.name.endswith("jpg")]
        images = [content.read() for content in contents if content]
    (folder / "one").unlink()
    each = GIGABYTE // (sum(map(len, images)) // len(images))
    for number in range(gigabytes):
        captions = [f"picture {place} of file {number}, of coloured noise" for place in range(each)]
        stored = [images[place % len(images)] for place in range(each)]
        if ending == "parquet":
            pq.write_table(
                pa.table({"image": stored, "caption": captions}), folder / f"{number}.parquet", row_group_size=1000
            )
            continue
        with tarfile.open(folder / f"{number}.tar", "w") as archive:
            for place, (image, caption) in enumerate(zip(stored, captions, strict=True)):
                for kind, content in (("jpg", image), ("txt", caption.encode())):
                    member = tarfile.TarInfo(f"{number:04}{place:06}.{kind}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
    (folder / "text.jsonl").write_text("".join(json.dumps({"text": f"text {n}"}) + "\n" for n in range(99)))
    (folder / "data.yaml").write_text(f"captions: '*.{ending}'\ntext: text.jsonl\n")


def main() -> None:
    for gigabytes in map(int, sys.argv[1:]):
        for ending in ("tar", "parquet"):
            with TemporaryDirectory() as name:
                write_data(Path(name), gigabytes, ending)
                for state in ("new", "cached"):
                    command = [sys.executable, "-m", "benchmarks.first_step", name]
                    told = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
                    cache = sum(path.stat().st_size for path in (Path(name) / "cache").rglob("*")) / GIGABYTE
                    told = ", ".join(f"{value:.1f} {unit}" for unit, value in told.items())
                    print(f"{gigabytes} GB of {ending}, {state}: {told}; cache {cache:.2f} GB", flush=True)


if __name__ == "__main__":
    if Path(sys.argv[-1]).is_dir():
        print(json.dumps(open_once(Path(sys.argv[-1]))))
    else:
        main()
