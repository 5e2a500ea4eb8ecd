"""Documents with the pictures of others: none keeps its own, text and places stay."""

from typing import Any

from mm1_lab.data.types import Document
from mm1_lab.train.multimodal import ShuffledImages
from tests.conftest import Flat


class Pages:
    """Four in a row, of which the third has no picture."""

    name = "interleaved"
    pictures = tuple(Flat() for _ in range(9))

    def documents(self, row: int) -> list[Document]:
        first, second, third = self.pictures[3 * row : 3 * row + 3]
        parts = (("a", first, "b", second, "c", third), ("d", second), ("e",), ("f", third, "g"))
        return [Document(str(number), part) for number, part in enumerate(parts)]

    def epochs(self, rows: int) -> float:
        return rows / 3


def test_each_document_has_the_pictures_of_the_next_and_as_many_as_it_needs() -> None:
    """The last of a row has those of the next row's first."""
    shuffled, pictures = ShuffledImages(Pages()), Pages.pictures
    for _ in range(2):
        found = list(shuffled.documents(1))
        assert found[0].parts == ("a", pictures[4], "b", pictures[4], "c", pictures[4])
        assert [document.text for document in found] == ["abc", "e", "d", "fg"]
        assert found[2].pictures == (pictures[5],), "those after the text between"
        assert found[3].parts == ("f", pictures[6], "g")
    assert shuffled.epochs(100) == 100 / 3


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
