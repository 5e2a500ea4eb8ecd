"""Reads YAML as plain values, never with a loader that can build Python objects, within limits of size and depth."""

from pathlib import Path
from typing import Any

import yaml

from mm1_lab.config.errors import RequestError, kind_of, short


def read_yaml(path: Path) -> dict[str, Any]:
    """Reads a YAML file that contains a mapping.

    Raises RequestError if it does not exist, is not valid YAML, contains a Python tag, or is not a mapping.
    """
    try:
        if path.exists() and not path.is_file():
            raise RequestError(f"{path}: is not a file")
        if path.stat().st_size > LARGEST_FILE:
            raise RequestError(f"{path}: has {path.stat().st_size} bytes; a file of settings has thousands")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RequestError(f"{path}: there is no such file") from None
    except (OSError, ValueError) as error:
        raise RequestError(f"{path}: cannot be read as text ({error})") from None
    values = parse_yaml(text, str(path))
    if not isinstance(values, dict):
        raise RequestError(f"{path}: must hold keys and values, but holds {kind_of(values)}")
    return values


class _Refused(yaml.YAMLError):
    """Valid YAML that is not accepted here."""

    def __init__(self, problem: str, mark: yaml.Mark) -> None:
        super().__init__(problem)
        self.problem, self.problem_mark = problem, mark


class _Loader(yaml.SafeLoader):
    """Rejects merge keys, since a few nested ones could use up all memory, and duplicate keys.

    PyYAML itself keeps the last of two equal keys, so one of two arms with the same name would silently be lost.
    """

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                raise _Refused("merge keys (<<) are not supported; write the keys out", key.start_mark)
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise _Refused(f"the key {short(key.value, str)!r} appears twice; remove one", key.start_mark)
                seen.add(key.value)


def parse_yaml(text: str, where: str) -> Any:
    """Parses YAML into plain values. Raises RequestError if it is invalid, too large or too deeply nested."""
    try:
        values = yaml.load(text, _Loader)
        _count_values(values, {})
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = short(getattr(error, "problem", error), str)
        if isinstance(error, _Refused):
            raise RequestError(f"{where}{line}: {problem}") from None
        what = "this is not YAML"
        if isinstance(error, yaml.constructor.ConstructorError):
            what = "only plain YAML is read here; remove the tag"
        raise RequestError(f"{where}{line}: {what} ({problem})") from None
    except RecursionError:
        raise RequestError(f"{where}: is nested too deeply") from None
    except (ValueError, KeyError, OverflowError, AttributeError, TypeError) as error:  # by dates, numbers, characters
        raise RequestError(f"{where}: holds a value that cannot be read ({short(error, str)})") from None
    return values


LARGEST_FILE = 1_000_000
"""Size limit of a YAML file in bytes. Parsing takes a second per 100,000; a sweep of a hundred arms has 10,000."""
MOST_VALUES, DEEPEST, LONGEST_NUMBER = 100_000, 50, 200
"""Limits of a YAML file: number of values with all aliases expanded, nesting depth, and bits of an integer."""


def _count_values(value: Any, known: dict[int, int], depth: int = 0) -> int:
    """Counts the values, aliases expanded; raises ValueError if a limit is exceeded."""
    if isinstance(value, int) and value.bit_length() > LONGEST_NUMBER:
        raise ValueError(f"an integer of {value.bit_length()} bits")
    if isinstance(value, str):
        value.encode()  # raises for an unpaired surrogate, which cannot be stored as UTF-8
    if depth > DEEPEST:
        raise ValueError(f"nested more than {DEEPEST} deep")
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in known:
        parts = [*value, *value.values()] if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_count_values(part, known, depth + 1) for part in parts)
    if known[id(value)] > MOST_VALUES:
        raise ValueError(f"more than {MOST_VALUES} values, with aliases written out")
    return known[id(value)]
