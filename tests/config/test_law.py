"""Sizes as people write them."""

import pytest

from mm1_lab.config import parse_count, short_count


def test_sizes_are_read_and_written() -> None:
    sizes = {"9M": 9e6, "302m": 302e6, "1200000000": 1.2e9, "3e10": 3e10, " .5k ": 500, "2T": 2e12}
    assert [parse_count(text) for text in sizes] == pytest.approx(list(sizes.values()))
    found = [short_count(value) for value in (512, 9_437_184, 999_999, 1.2e9, 2e12)]
    assert found == ["512", "9.44M", "1M", "1.2B", "2T"]
    for text in ("", "M", "9MB", "-9M", "0", "nine", "1,2B", "1e999", "nan"):
        with pytest.raises(ValueError, match="is not a size"):
            parse_count(text)
