"""Documents with the pictures of others: none keeps its own, text and places stay."""

from typing import Any

from mm1_lab.data.types import Document
from mm1_lab.train.multimodal import ShuffledImages
from tests.conftest import Squares


def test_each_document_has_the_pictures_of_the_next() -> None:
    source = Squares()
    true = list(source.documents(3))
    shuffled = list(ShuffledImages(source).documents(3))
    after = list(source.documents(4))
    assert [document.text for document in shuffled] == [document.text for document in true]
    assert [document.pictures for document in shuffled] == [one.pictures for one in (*true[1:], after[0])]
    assert [document.pictures for document in ShuffledImages(source).documents(3)] == [one.pictures for one in shuffled]
    assert ShuffledImages(source).epochs(100) == source.epochs(100)


def test_text_stays_as_it_is_and_pages_take_as_many_pictures_as_they_need() -> None:
    class Pages:
        name = "interleaved"

        def documents(self, row: int) -> list[Document]:
            first, second, third = (Squares().document(number).pictures[0] for number in (0, 1, 2))
            parts = (("a", first, "b", second, "c", third), ("d", second), ("e",), ("f", third, "g"))
            return [Document(str(number), part) for number, part in enumerate(parts)]

        def epochs(self, rows: int) -> float:
            return 0.0

    found = list(ShuffledImages(Pages()).documents(0))
    other = Squares().document(1).pictures[0]
    assert found[0].parts == ("a", other, "b", other, "c", other)
    assert [document.text for document in found] == ["abc", "e", "d", "fg"]
    assert found[2].pictures == Squares().document(2).pictures, "those after the text between"


def test_no_document_of_a_user_s_row_is_lost(files: Any) -> None:
    images = [[files.png(n), None] for n in range(12)]
    files.parquet("short.parquet", {"images": images, "texts": [[None, files.prose(60, n)] for n in range(12)]})
    files.parquet("long.parquet", {"images": images, "texts": [[None, files.prose(300, 9 * n)] for n in range(12)]})
    sources = {name: {"reader": "pages", "files": f"{name}.parquet"} for name in ("short", "long")}
    data = files.open(sources=sources)
    for name in sources:
        source = data.source(name, 0)
        for row in range(len(data.rows(name, data.limits))):
            true, shuffled = list(source.documents(row)), list(ShuffledImages(source).documents(row))
            found = {one.key: one.pictures for one in shuffled}
            assert len(shuffled) == len(true) == len(found)
            for one in true:
                assert len(found[one.key]) == len(one.pictures)
                assert not one.pictures or found[one.key] != one.pictures
