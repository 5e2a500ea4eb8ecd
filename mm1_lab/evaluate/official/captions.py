"""COCO (Karpathy's split), NoCaps and TextCaps as they are published: images with several captions each."""

from collections.abc import Iterator

from mm1_lab.config import BenchmarkFiles, RequestError
from mm1_lab.evaluate.items import Item, field, load, named, one_each, rows_of


def read_coco(files: BenchmarkFiles) -> Iterator[Item]:
    """`dataset_coco.json`: {images: [{filename, filepath, cocoid, split, sentences: [{raw}]}]}.

    Karpathy's `restval` is part of training.
    """
    path, split = files.annotations, files.split or "test"
    images = rows_of(load(path), path, "images")
    if not any("cocoid" in image for image in images):
        raise RequestError(f"{path}: no image has a 'cocoid'; COCO is read in Karpathy's split, dataset_coco.json")
    wanted = {"train": ("train", "restval")}.get(split, (split,))
    for key, image in one_each(images, "cocoid", path).items():
        if field(image, "split", path, f"image {key}") in wanted:
            captions = tuple(
                str(sentence["raw"]).strip() for sentence in field(image, "sentences", path, f"image {key}")
            )
            name = field(image, "filename", path, f"image {key}")
            yield Item(key, (f"{image['filepath']}/{name}" if "filepath" in image else name,), answers=captions)


def read_nocaps(files: BenchmarkFiles) -> Iterator[Item]:
    """COCO's own form: {images: [{id, file_name, domain}], annotations: [{image_id, caption}]}; a kind per domain."""
    path = files.annotations
    content = load(path)
    images = one_each(rows_of(content, path, "images"), "id", path)
    captions: dict[str, list[str]] = {key: [] for key in images}
    annotations = rows_of(content, path, "annotations") if any("domain" in image for image in images.values()) else []
    for annotation in annotations:
        key = str(field(annotation, "image_id", path, "an annotation"))
        if key not in captions:
            raise RequestError(
                f"{path}: a caption is of image {key}, which is not among the images; fetch the file again"
            )
        captions[key].append(str(annotation["caption"]).strip())
    for key, image in images.items():
        name = str(field(image, "file_name", path, f"image {key}"))
        yield Item(key, (name,), answers=tuple(captions[key]), kind=str(image.get("domain", "caption")))


def read_textcaps(files: BenchmarkFiles) -> Iterator[Item]:
    """`TextCaps_0.1_*.json`: {data: [{image_id, reference_strs}]}, an entry per image or, in training, per caption."""
    path = files.annotations
    captions: dict[str, list[str]] = {}
    for number, row in enumerate(rows_of(load(path), path, "data")):
        of_image = captions.setdefault(str(field(row, "image_id", path, f"entry {number}")), [])
        said = row.get("reference_strs") or ([row["caption_str"]] if "caption_str" in row else [])
        of_image += [text for caption in said if (text := str(caption).strip()) not in of_image]
    for key, texts in captions.items():
        yield Item(key, (named(files, "{id}.jpg", id=key),), answers=tuple(texts))
