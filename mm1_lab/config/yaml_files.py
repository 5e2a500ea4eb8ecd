"""Reads YAML as plain values, never with a loader that can build Python objects."""

from pathlib import Path
from typing import Any

import yaml

from mm1_lab.config.errors import RequestError


def read_yaml(path: Path) -> dict[str, Any]:
    """Reads a YAML file that contains a mapping. Raises RequestError for anything else."""
    try:
        if path.exists() and not path.is_file():
            raise RequestError(f"{path}: is not a file")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RequestError(f"{path}: there is no such file") from None
    except (OSError, ValueError) as error:
        raise RequestError(f"{path}: cannot be read as text ({error})") from None
    values = parse_yaml(text, str(path))
    if not isinstance(values, dict):
        raise RequestError(f"{path}: must hold keys and values")
    return values


class _Loader(yaml.SafeLoader):
    """Rejects equal keys, of which PyYAML keeps the last: one of two arms of one name would be lost silently."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        seen: set[str] = set()
        key: Any
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    text = f"the key {key.value!r} appears twice; remove one"
                    raise yaml.MarkedYAMLError(problem=text, problem_mark=key.start_mark)
                seen.add(key.value)


def parse_yaml(text: str, where: str) -> Any:
    """Parses YAML into plain values. Raises RequestError if it is invalid or too deeply nested."""
    try:
        return yaml.load(text, _Loader)
    except RecursionError:
        raise RequestError(f"{where}: is nested too deeply") from None
    # all but the first by dates, numbers and characters that do not exist
    except (yaml.YAMLError, ValueError, KeyError, OverflowError, AttributeError, TypeError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or error
        raise RequestError(f"{where}{line}: is no plain YAML ({problem})") from None
