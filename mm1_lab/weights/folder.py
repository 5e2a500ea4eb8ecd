"""The folder of a pre-trained model: where it is, here or on the hub, and whether its weights are safe and complete.

Only safetensors are accepted, because pickled weights can run code.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

from mm1_lab.config import NotHere, RequestError
from mm1_lab.files import DONE, WEIGHTS
from mm1_lab.formatting import first_line

FILES = ("*.json", "*.safetensors", "*.txt", "*.model")
"""Files fetched from the hub."""
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
HUB_SECONDS = 5.0
"""Timeout for the hub's first response."""
SAMPLES, SAMPLE_BYTES = 64, 1 << 16
"""Number and size in bytes of the evenly spaced samples of a weight file that are hashed."""


def find_folder(name: str, fetch: bool = True) -> Path:
    """The folder of a model: a path, or a hub name, downloaded on first use if `fetch`.

    Raises RequestError, of the kind NotHere if there is none.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return path.resolve()
    unknown = NotHere(f"{name}: there is no such folder, and it is not a hub name (OWNER/NAME)")
    if name.startswith((".", "~", "/")) or name.count("/") != 1:
        raise unknown
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        path = Path(snapshot_download(name, allow_patterns=list(FILES), local_files_only=True))
        if not _missing_weights(path):
            return path
    except LocalEntryNotFoundError:
        pass
    except HFValidationError:
        raise unknown from None
    if not fetch:
        raise NotHere(f"{name}: is not in the Hugging Face hub's cache on this machine")
    print(f"{name}: fetching it from the Hugging Face hub (once)", file=sys.stderr)
    try:
        return Path(snapshot_download(name, allow_patterns=list(FILES), etag_timeout=HUB_SECONDS))
    except (OSError, ValueError) as error:  # of the hub's answer, or without one
        reason = first_line(error).removeprefix("Got: ")
        raise RequestError(
            f"{name}: is neither a folder here nor complete in the hub's cache, and cannot be fetched from the hub "
            f"({reason}); give the folder of a local copy"
        ) from None


def check_folder(folder: Path) -> None:
    """Raises RequestError for a folder with pickled weights, or without a file that was exported with it."""
    if pickled := _pickled(folder):
        raise RequestError(f"{folder}: {pickled[0]} is pickled and could run code when loaded; delete it")
    if (folder / DONE).exists():
        try:
            names = list(json.loads((folder / DONE).read_text(encoding="utf-8"))["files"])
            lacking = [name for name in names if not (folder / name).exists()]
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise RequestError(f"{folder / DONE}: is damaged ({first_line(error)}); export it again") from None
        if lacking:
            raise RequestError(f"{folder}: lacks {lacking[0]}; the copy is incomplete, export it again")


def _pickled(folder: Path) -> list[str]:
    return sorted(path.name for pattern in PICKLED for path in folder.glob(pattern))


def tensor_names(folder: Path) -> set[str]:
    """The names of all tensors in a folder's weights."""
    from safetensors import safe_open

    names: set[str] = set()
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "numpy") as file:
            names |= set(file.keys())
    return names


def _missing_weights(folder: Path) -> list[str]:
    """Weight files that a folder should have but lacks; some after an interrupted or partial download."""
    if (folder / WEIGHTS).exists():
        return []
    index = folder / f"{WEIGHTS}.index.json"  # if they are several
    try:
        files = (
            set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()) if index.exists() else {WEIGHTS}
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise RequestError(f"{index}: cannot be used ({first_line(error)}); fetch it again") from None
    return sorted(file for file in files if not (folder / file).exists())


def weights_digest(folder: Path, name: str) -> str:
    """16 hexadecimal digits over the configuration and the name, size and samples of each weight file.

    Raises RequestError for a folder without weights, with pickled ones alone, or with some missing.
    """
    weights = sorted(path for path in folder.glob("*.safetensors") if path.is_file())
    if not weights and (pickled := _pickled(folder)):
        raise RequestError(
            f"{name}: has only pickled weights ({pickled[0]}), which could run code when loaded; "
            "convert them to safetensors"
        )
    if not weights:
        raise RequestError(f"{name}: there are no weights in the folder (*.safetensors)")
    if missing := _missing_weights(folder):
        raise RequestError(f"{name}: lacks {missing[0]}; the copy is incomplete")
    digest = hashlib.sha256((folder / "config.json").read_bytes())
    for path in weights:
        size = path.stat().st_size
        digest.update(f"{path.name} {size}".encode())
        with path.open("rb") as file:
            for sample in range(SAMPLES):
                file.seek(sample * max(0, size - SAMPLE_BYTES) // (SAMPLES - 1))
                digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()[:16]
