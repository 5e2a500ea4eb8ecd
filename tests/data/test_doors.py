"""The forms in which users' data come in, and how images become square."""

import io
import json
import tarfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pytest
import yaml
from PIL import Image as Pillow

from mm1_lab.cli import main
from mm1_lab.data.pixels import ImageDecoder, StoredPicture
from mm1_lab.data.shards import Shards
from mm1_lab.data.shards.readers import READERS, Reader, Sample, stored_image
from mm1_lab.data.types import BrokenPicture
from mm1_lab.results import held_out
from tests.conftest import SCALES

COUNT = 12


def pairs_of(data: Shards, files: Any, name: str = "captions") -> set[int]:
    """The numbers of all captioned pictures, each checked against its colour."""
    collection = data.collections[name]
    numbers = set()
    for sample in range(len(collection)):
        _, caption = collection.texts(sample)
        number = int(str(caption).split()[-1])
        assert tuple(collection.pictures(sample)[0].pixels(2)[0, 0]) == files.colour(number)
        numbers.add(number)
    return numbers


def open_captions(files: Any, *patterns: Any) -> Shards:
    return files.open(captions=list(patterns))


def write_pictures(files: Any, folder: str) -> list[dict[str, str]]:
    files.pictures(COUNT, f"{folder}/pictures")
    return [{"file_name": f"pictures/{number}.png", "text": f"picture {number}"} for number in range(COUNT)]


def test_a_folder_of_pictures_with_a_table_beside_it(files):
    rows = [*write_pictures(files, "photos"), {"file_name": "", "text": "no picture"}]
    lines = ["file_name,text", *(",".join(row.values()) for row in rows)]
    (files.folder / "photos.csv").write_text("\n".join(lines), encoding="utf-8-sig")
    data = open_captions(files, {"folder": "photos"})
    assert pairs_of(data, files) == set(range(COUNT))
    assert data.collections["captions"].left_out() == {"no image": 1}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text\n" + "a line\n\ufffd\n" * 9 + "caf\xe9\n", r"line 20: is not UTF-8 text; save it in that encoding; 1 o"),
        ("text,caf\xe9\na,b\n", r"t\.csv: is not UTF-8 text; save it in that encoding"),
        ("file_name,text\n" + "1.png,a red dog, running\n" * 5, r"line 2: has more fields than the first line; quote"),
        ("text;id\na dog, red;1\n", r"line 1: its columns are divided by semicolons \(text;id\); separate them"),
        ('file_name,text\n1.png,"a red dog\n', r"no \.csv \(unexpected end of data"),
    ],
)
def test_a_csv_with_loose_quotes_or_in_another_encoding_is_refused(files, content, message):
    """No text is cut off at its comma, and no row vanishes in the text before it."""
    (files.folder / "t.csv").write_bytes(content.encode("utf-8").replace("\xe9".encode(), b"\xe9"))
    files.refused(message, text="t.csv")


def test_no_row_is_lost_in_silence(files):
    """One file for two columns; a key of a tar that occurs twice."""
    rows = [{"short": f"short {number}", "long": f"long {number}"} for number in range(9)]
    files.rows("t.jsonl", rows)
    columns = [{"file": "t.jsonl", "text": name} for name in ("short", "long")]
    assert len(files.open(text=columns).collections["text"]) == 18
    with tarfile.open(files.tar("t.tar", {"a.png": files.png(1), "a.txt": b"said"}), "a") as archive:
        archive.addfile(tarfile.TarInfo("a.txt"))
    files.refused(r"t\.tar, a: occurs twice in the tar", captions="t.tar")


def test_a_sparse_file_in_a_tar_is_not_read_as_one_piece(files):
    """Its bytes would be those of the members behind it."""
    with tarfile.open(files.captions("t.tar", range(COUNT)), "a") as archive:
        map_of_a_hole = {"GNU.sparse.map": "0,4", "GNU.sparse.size": "9000"}
        for info in (tarfile.TarInfo("sparse.txt"), tarfile.TarInfo("sparse.png")):
            info.size, info.pax_headers = 4, map_of_a_hole if info.name.endswith("txt") else {}
            archive.addfile(info, io.BytesIO(b"said"))
    captions = files.open(captions="t.tar").collections["captions"]
    assert len(captions) == COUNT and captions.left_out() == {"without a caption": 1}


def test_lines_with_coco_s_keys_beside_columns_of_their_own_are_lines(files):
    files.pictures(COUNT)
    rows = [{"image": f"{n}.png", "caption": f"said {n}", "images": 1, "annotations": []} for n in range(COUNT)]
    (files.folder / "lines.json").write_text("\n".join(map(json.dumps, rows)))
    assert len(open_captions(files, "lines.json").collections["captions"]) == COUNT


def test_coco_as_the_walk_through_names_it(files, monkeypatch):
    page = (Path(__file__).parents[2] / "docs" / "your-own-model.md").read_text(encoding="utf-8")
    monkeypatch.chdir(files.folder)
    Path("annotations").mkdir()
    files.pictures(COUNT, "train2014")
    coco = {
        "images": [{"id": 100 + number, "file_name": f"{number}.png"} for number in range(COUNT)],
        "annotations": [{"image_id": 100 + n, "caption": f"{said} {n}"} for n in range(COUNT) for said in "abcde"],
    }
    del coco["images"][-1]  # a part of the pictures, with the annotations of all
    Path("annotations/captions_train2014.json").write_text(json.dumps(coco))
    named = yaml.safe_load(page.partition("```yaml\n")[2].partition("```")[0])["captions"]
    data = open_captions(files, named)
    collection = data.collections["captions"]
    told = {tuple(collection.texts(sample)[1:]) for sample in range(len(collection))}
    assert told == {tuple(f"{said} {number}" for said in "abcde") for number in range(COUNT - 1)}
    assert collection.left_out() == {"no image": 1}


FORMS = """
captions:
  - captions-*.tar
  - hf://datasets/owner/plain
  - {file: hf://datasets/owner/plain, split: train}
  - {dataset: owner/name, split: train, revision: 12ab, image: picture, text: said}
  - {dataset: layout, split: train}
  - {dataset: one.parquet}
  - {folder: photos}
interleaved: [memory://bucket/pages-*.parquet]
instructions: [{file: llava.json, images: ../coco}]
text: [text.jsonl.zst]
"""


def test_every_form_of_an_entry_in_one_file(files, bucket, monkeypatch):
    def pairs(name: str, start: int, image: str = "image", text: str = "text") -> Path:
        numbers = range(start, start + 4)
        return files.parquet(name, {image: [files.png(n) for n in numbers], text: [f"picture {n}" for n in numbers]})

    def builder(name: str, config: str | None, **more: Any) -> Any:
        if not name.startswith("owner/"):
            return build(name, config, **more)
        asked.append((name, config, more["revision"]))
        return SimpleNamespace(config=SimpleNamespace(data_files={"train": [f"memory://bucket/{name[6:]}.parquet"]}))

    files.folder = files.folder / "mine"
    asked = []
    build = datasets.load_dataset_builder
    monkeypatch.setattr(datasets, "load_dataset_builder", builder)
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", lambda *_, **more: None)
    (files.folder / "layout" / "data").mkdir(parents=True)
    files.pictures(2, "../coco")
    files.captions("captions-0.tar", range(4))
    pairs("plain.parquet", 4)
    pairs("name.parquet", 8, "picture", "said")
    pairs("layout/data/train-00000-of-00001.parquet", 12)
    pairs("one.parquet", 16)
    files.rows("photos/metadata.jsonl", write_pictures(files, "photos")[:3])
    pages = {"images": [[files.png(n), None] for n in range(5)], "texts": [[None, f"page {n}"] for n in range(5)]}
    files.parquet("pages-0.parquet", pages)
    for name in ("plain", "name", "pages-0"):
        bucket.put(str(files.folder / f"{name}.parquet"), f"/bucket/{name}.parquet")
    turns = [{"from": "human", "value": "<image>What?"}, {"from": "gpt", "value": "Green."}]
    (files.folder / "llava.json").write_text(json.dumps([{"image": "1.png", "conversations": turns}]))
    (files.folder / "text.jsonl.zst").write_bytes(pa.compress(b'{"text": "some text"}\n', "zstd", asbytes=True))
    (files.folder / "data.yaml").write_text(FORMS)
    data = Shards(files.folder / "data.yaml", files.folder / "cache", files.scale())
    assert pairs_of(data, files) == {*range(20)} and len(data.collections["captions"]) == 23, "three pictures twice"
    assert asked == [("owner/plain", None, None)] * 2 + [("owner/name", None, "12ab")]
    assert [len(data.everything[name]) for name in ("interleaved", "text", "instructions.llava")] == [5, 1, 1]
    assert tuple(data.conversations["llava"].pictures(0)[0].pixels(2)[0, 0]) == files.colour(1)


def test_globs_are_relative_to_a_folder_of_any_name_and_a_range_of_numbers_is_every_file_in_it(files):
    files.folder = files.folder / "a [v2]"
    files.folder.mkdir()
    files.jsonl("t-1.jsonl", ["one"])
    files.jsonl("t-2.jsonl", ["another"])
    assert len(files.open(text="t-*.jsonl").collections["text"]) == 2
    assert len(files.open(text=str(files.folder.parent / "*/t-*.jsonl")).collections["text"]) == 2
    for number in (8, 9, 10, 11):
        files.captions(f"{number:02}.tar", range(number * 10, number * 10 + 10))
    assert pairs_of(open_captions(files, "{08..10}.tar"), files) == {*range(80, 110)}
    assert pairs_of(open_captions(files, "{0..0}{8..9}.tar"), files) == {*range(80, 100)}
    files.refused(r"captions: there is no file '12\.tar'", captions="{08..99999999999}.tar")


def test_a_saved_dataset_of_hugging_face(files):
    images = [{"bytes": files.png(number), "path": f"{number}.png"} for number in range(COUNT)]
    for split in ("train", "test"):
        files.dataset(f"all/{split}", {"image": images, "text": [f"picture {n}" for n in range(COUNT)]})
    assert pairs_of(open_captions(files, "all/train"), files) == set(range(COUNT))
    files.refused(r"has the splits train, test; name one of them: `{dataset", captions="all")


def test_a_source_and_a_reader_of_one_s_own(files, monkeypatch):
    def read_letter(row: dict[str, Any]) -> Sample:
        return Sample(f"letter {row['line']}", ["Dear", stored_image(f"{row['line']}.png"), row["line"]])

    monkeypatch.setitem(READERS, "letters", Reader(read_letter, {"line": ("line",)}))
    files.pictures(8)
    (files.folder / "post.csv").write_text("line\n" + "".join(f"{number}\n" for number in range(8)))
    data = files.open(sources={"letters": {"reader": "letters", "files": ["post.csv"]}})
    assert data.identity.sources == ("text", "letters")
    documents = list(data.source("letters", 0).documents(0))
    assert {document.text for document in documents} <= {f"Dear{number}" for number in range(8)}
    for document in documents:
        assert tuple(document.pictures[0].pixels(2)[0, 0]) == files.colour(int(document.text[4:])), "names may be equal"


def test_data_sets_that_cannot_be_read(files, monkeypatch):
    """A script beside the files of a folder in the hub's layout is not run."""
    folder = files.folder / "set"
    (folder / "data").mkdir(parents=True)
    for split in ("train", "test"):
        files.parquet(f"set/data/{split}-00000-of-00001.parquet", {"image": [files.png(1)], "text": ["a 1"]})
    (folder / "set.py").write_text("raise SystemExit('run')")
    entry = {"dataset": "set", "split": "train"}
    files.refused(r"Dataset scripts are no longer supported, but found set\.py", captions=entry)
    (folder / "set.py").unlink()
    assert pairs_of(open_captions(files, entry), files) == {1}
    files.rows("set/metadata.jsonl", [{"file_name": "data/1.png", "text": "of all splits"}])
    assert pairs_of(open_captions(files, entry), files) == {1}
    (folder / "metadata.jsonl").unlink()
    (files.folder / "empty").mkdir()
    for wrong, message in (
        ({"dataset": "set", "split": "valid"}, r"captions: has the splits train, test; name one of them"),
        ({**entry, "revision": "12ab"}, r"`revision` is for `dataset: OWNER/NAME` on the hub; leave '12ab'"),
        ({"file": "set/data/*", "split": "test"}, r"`split` and `config` are for data sets, but 'set/data/\*' is read"),
        ({"split": "train"}, r"needs exactly one of file, folder and dataset"),
        ({"folder": "~nobody-here/x"}, r"there is no folder '~nobody-here/x'; paths are relative to the data file"),
        ({"dataset": "nowhere"}, r"there is no folder 'nowhere', and it is not a hub name \(OWNER/NAME\)"),
        ("empty", r"captions: .*empty cannot be read as a data set .* metadata\.csv, \.jsonl or"),
    ):
        files.refused(message, captions=wrong)
    monkeypatch.setattr("mm1_lab.data.shards.finding.MOST_ENTRIES", 2)
    files.refused(r"'set' holds over 2 files and folders; .*\(`set/\*\*/\*\.parquet`\)", captions="set")
    files.refused(r"'/' holds over 2 files", captions="/")


@pytest.mark.parametrize(
    ("setting", "value", "why"),
    [("HF_HUB_OFFLINE", True, "offline"), ("ENDPOINT", "http://127.0.0.1:1", "Connection refused")],
)
def test_how_to_fetch_a_hub_set_is_told_where_there_is_no_network(files, monkeypatch, setting, value, why):
    monkeypatch.setattr(f"huggingface_hub.constants.{setting}", value)
    monkeypatch.setattr(datasets, "load_dataset_builder", pytest.fail)  # it would try for half a minute
    told = r"hub cannot be reached \(.*{}.*\); .* run `hf download owner/name --repo-type dataset{} --local-dir DIR`"
    for form, pin in (({"dataset": "owner/name"}, ""), ("hf://datasets/owner/name@12ab", " --revision 12ab")):
        files.refused(told.format(why, pin), captions=form)


def seen(image: Pillow.Image, ending: str, **options: Any) -> np.ndarray:
    """The middle of each quarter of a picture's first channel, read from a file as training reads it."""
    stream = io.BytesIO()
    image.save(stream, ending, **options)
    content = stream.getvalue()
    return StoredPicture("a picture", lambda: content, ImageDecoder(), key=content).pixels(40)[10::20, 10::20, 0]


def test_numbers_of_16_bits_are_brightness_up_to_65535():
    grey = np.repeat(np.repeat(np.array([[0, 65535], [16448, 32896]], np.uint16), 40, 0), 40, 1)
    for ending in ("PNG", "TIFF"):
        assert seen(Pillow.fromarray(grey), ending).tolist() == [[0, 255], [64, 128]]
    with pytest.raises(BrokenPicture, match=r"a picture \(its pixels are numbers of 32 bits; convert it to"):
        seen(Pillow.fromarray(grey.astype(np.float32)), "TIFF")


def test_what_is_transparent_is_white():
    """As a viewer shows it: black writing on nothing is black on white."""
    drawn = Pillow.new("RGBA", (80, 80), (0, 0, 0, 0))
    drawn.paste((0, 0, 0, 255), (0, 0, 40, 40))
    for image in (drawn, drawn.convert("LA"), drawn.quantize(8)):
        assert seen(image, "PNG").tolist() == [[0, 255], [255, 255]]


def test_a_photograph_is_upright_whatever_way_the_camera_was_held():
    """The upright picture has a white upper left quarter; the eight orientations are those of the EXIF standard."""
    upright = np.kron([[255, 0], [0, 0]], np.ones((40, 40))).astype(np.uint8)
    stored = [upright, upright[:, ::-1], upright[::-1, ::-1], upright[::-1], upright.T]
    stored += [np.rot90(upright), upright[::-1, ::-1].T, np.rot90(upright, -1)]
    for orientation, pixels in enumerate(stored, start=1):
        told = Pillow.Exif()
        told[0x112] = orientation
        found = seen(Pillow.fromarray(np.ascontiguousarray(pixels)), "JPEG", exif=told, quality=100)
        assert (abs(found.astype(int) - [[255, 0], [0, 0]]) < 9).all(), orientation
    assert seen(Pillow.new("L", (80, 80), 200), "JPEG", exif=b"Exif\0\0damaged").min() > 190


def test_an_arm_makes_images_square_as_a_data_file_that_says_so(files, monkeypatch, capsys):
    """In training, in its benchmarks, those of the scale too, and in what is exported of it."""
    monkeypatch.chdir(files.folder)
    files.captions("captions.tar", range(40))
    files.jsonl("text.jsonl", [files.prose(30, number) for number in range(40)])
    files.pictures(9)
    files.rows("asked.jsonl", [{"image": f"{n}.png", "question": "which?", "answers": [f"{n}"]} for n in range(9)])
    asked = {"questions": "asked.jsonl", "metric": "exact", "shots": [0]}
    mix = "data_mix: {interleaved: 0}"
    found = {}
    for name, shape, arm in (("one", "squeeze", "pictures: pad"), ("other", "pad", "data_order: 0")):
        arms = f"{{base: {{{mix}}}, padded: {{{mix}, {arm}}}}}"
        Path(f"{name}.yaml").write_text(f"title: T\nrecipe: base\narms: {arms}\n", encoding="utf-8")
        data = files.yaml(captions="captions.tar", text="text.jsonl", pictures=shape, benchmarks={"asked": asked})
        given = (f"{name}.yaml", "--scale", "smoke", "--data", data.rename(f"{name}-data.yaml").name)
        assert main(["run", *given, "--inline"]) == 0
        assert main(["export", *given, "--only", "padded", f"model-{name}"]) == 0
        (folder,) = Path("results/local/smoke").glob(f"{name},*")
        found[name] = held_out(folder).set_index(["arm", "source"])["loss"]
        assert json.loads(Path(f"model-{name}/processor_config.json").read_text())["shape"] == "pad"
    assert main(["show", "one.yaml", "padded", "base", "--scale", "smoke", "--data", "one-data.yaml"]) == 0
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["resolved.benchmarks.0.pictures", "pad", "squeeze"] in shown
    one, other = found["one"], found["other"]
    assert one["padded"].equals(other["padded"]) and not one["base"].equals(one["padded"])
    records = [json.loads(path.read_text()) for path in Path().glob("results/local/trials/*/record.json")]
    shapes = [(one["config"]["data"]["pictures"], one["config"]["benchmarks"][0]["pictures"]) for one in records]
    assert sorted(shapes, key=str) == [("pad", "pad"), (None, "pad"), (None, "squeeze")]

    # a scale is written and read again by every `--set`, which must not fix what a benchmark of it leaves open
    open_, fixed = {"name": "open", **asked}, {"name": "fixed", **asked, "pictures": "squeeze"}
    Path("scales").mkdir()
    smoke = (SCALES / "smoke.yaml").read_text(encoding="utf-8")
    Path("scales/mine.yaml").write_text(f"{smoke}benchmarks: {json.dumps([open_, fixed])}\n", encoding="utf-8")
    data = files.yaml(captions="captions.tar", text="text.jsonl", pictures="crop").name
    assert main(["show", "one.yaml", "padded", "base", "--scale", "mine", "--data", data, "--set", "retries=0"]) == 0
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["resolved.benchmarks.0.pictures", "pad", "crop"] in shown
    assert not any("resolved.benchmarks.1.pictures" in line for line in shown)
