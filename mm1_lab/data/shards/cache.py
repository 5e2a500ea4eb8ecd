"""What is derived from users' files and kept: in folders that are complete or not there."""

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def short_hash(*values: object) -> str:
    """A name for what is derived from `values`: 24 hexadecimal digits."""
    return hashlib.sha256(repr(values).encode()).hexdigest()[:24]


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder that becomes `folder` at the end; of several processes that make it, the first one wins."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
    try:
        yield temporary
        temporary.rename(folder)
    except OSError:
        if not folder.exists():
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
