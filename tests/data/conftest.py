"""Users' files, as small as they can be: made where a test runs."""

import io
import json
import re
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from mm1_lab.config import RequestError, Scale, override, read_yaml
from mm1_lab.data.shards import Shards

SMOKE = Path(__file__).parents[2] / "sweeps" / "scales" / "smoke.yaml"
WORDS = ["river", "stone", "lantern", "orchard", "copper", "window", "feather", "market", "harbour", "winter"]


@cache
def smoke() -> Scale:
    """Read once, which takes longer than most tests."""
    return Scale.parse(read_yaml(SMOKE), str(SMOKE))


class Files:
    """Writes shards into a folder and opens them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def colour(self, number: int) -> tuple[int, int, int]:
        return (number * 4 % 256, 255 - number * 4 % 256, 60)

    def png(self, number: int) -> bytes:
        """A picture whose colour tells its number."""
        stream = io.BytesIO()
        Image.new("RGB", (10, 8), self.colour(number)).save(stream, "PNG")
        return stream.getvalue()

    def prose(self, words: int, start: int = 0) -> str:
        """Sentences of eight words, no two alike."""
        made = [f"{WORDS[(start + i) * 7 % 10]}{start + i}" for i in range(words)]
        return " ".join(word + ("." if i % 8 == 7 else "") for i, word in enumerate(made))

    def pictures(self, count: int, folder: str = ".") -> None:
        """Writes them as 0.png, 1.png, …"""
        (self.folder / folder).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            (self.folder / folder / f"{number}.png").write_bytes(self.png(number))

    def tar(self, name: str, members: Mapping[str, bytes]) -> Path:
        with tarfile.open(self.folder / name, "w") as archive:
            for member, content in members.items():
                described = tarfile.TarInfo(member)
                described.size = len(content)
                archive.addfile(described, io.BytesIO(content))
        return self.folder / name

    def captions(self, name: str, numbers: Sequence[int], words: str = "picture") -> Path:
        members = {}
        for number in numbers:
            described = {"caption": f"{words} {number}", "status": "success"}
            members[f"{number:06}.png"] = self.png(number)
            members[f"{number:06}.txt"] = f"{words} {number}\n".encode()
            members[f"{number:06}.json"] = json.dumps(described).encode()
        return self.tar(name, members)

    def parquet(self, name: str, columns: Mapping[str, Any]) -> Path:
        pq.write_table(pa.table(dict(columns)), self.folder / name)
        return self.folder / name

    def dataset(self, name: str, columns: Mapping[str, Any], parts: int = 2) -> Path:
        """A folder as `save_to_disk` of Hugging Face `datasets` writes it: Arrow streams and a state."""
        folder = self.folder / name
        folder.mkdir(parents=True)
        table = pa.table(dict(columns))
        names = [f"data-{part:05}-of-{parts:05}.arrow" for part in range(parts)]
        for part, file in enumerate(names):
            first, last = (table.num_rows * at // parts for at in (part, part + 1))
            with pa.OSFile(str(folder / file), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
                writer.write_table(table.slice(first, last - first), max_chunksize=5)
        (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": file} for file in names]}))
        return folder

    def rows(self, name: str, rows: Sequence[Any]) -> Path:
        """As JSON Lines."""
        (self.folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return self.folder / name

    def jsonl(self, name: str, texts: Sequence[str]) -> Path:
        return self.rows(name, [{"text": text} for text in texts])

    def yaml(self, **content: Any) -> Path:
        (self.folder / "data.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
        return self.folder / "data.yaml"

    def scale(self, *settings: str) -> Scale:
        return override(smoke(), settings)

    def open(self, *settings: str, cache: str = "cache", **content: Any) -> Shards:
        """Content without text gets one."""
        content.setdefault("text", self.jsonl("good.jsonl", ["some text"]).name)
        return Shards(self.yaml(**content), self.folder / cache, self.scale(*settings))

    def refused(self, message: str, **content: Any) -> None:
        """In one line that matches `message`; nothing half-made stays in the cache."""
        with pytest.raises(RequestError) as error:
            self.open(**content)
        assert re.search(message, str(error.value)) and "\n" not in str(error.value), error.value
        assert not list((self.folder / "cache").glob("index/*.*.*"))


@pytest.fixture
def files(tmp_path) -> Files:
    return Files(tmp_path)


@pytest.fixture
def everything(files) -> Callable[..., Shards]:
    """Opens data of every kind; settings override the scale."""
    files.captions("captions-0.tar", range(25))
    files.captions("captions-1.tar", range(25, 60))
    files.captions("dense.tar", range(60), words="a long and dense description of picture")
    pages = [[files.png(n), None, None, files.png(n + 1), None] for n in range(30)]
    prose = [[None, files.prose(6 + n * 5, n), files.prose(3, 900 + n), None, f"end of page {n}."] for n in range(30)]
    files.parquet("pages.parquet", {"id": [f"page {n}" for n in range(30)], "images": pages, "texts": prose})
    files.parquet("text.parquet", {"text": [files.prose(20 + 30 * n, 1000 + n) for n in range(15)]})
    files.jsonl("more.jsonl", [f"Line {n} says: {files.prose(9, n)}" for n in range(15)])

    def open_everything(*settings: str, cache: str = "cache") -> Shards:
        return files.open(
            *settings,
            cache=cache,
            captions=["captions-*.tar"],
            synthetic="dense.tar",
            interleaved=["pages.parquet"],
            text=["text.parquet", "more.jsonl"],
        )

    return open_everything


@pytest.fixture
def bucket() -> Iterator[Any]:
    """An empty file system at `memory://`."""
    system = fsspec.filesystem("memory")
    system.store.clear()
    yield system
    system.store.clear()
