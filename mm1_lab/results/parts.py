"""Shipped parts: finished stages that come with the repository, so that a sweep starts from pre-trained parts."""

import os
import shutil
from pathlib import Path

from mm1_lab import files


class Parts:
    """A folder of finished stages by fingerprint, each as the store had it. They are read where they lie."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self._damage: dict[str, str | None] = {}
        self._names = set(os.listdir(folder)) if folder.is_dir() else set()
        """Most stages that a plan asks for are not shipped, which takes no look at the disk."""

    def has(self, fingerprint: str) -> bool:
        """Whether the stage was shipped and every file of it is as it was then."""
        return (
            fingerprint in self._names
            and files.is_complete(f"{self.folder}/{fingerprint}")
            and self._damage_of(fingerprint) is None
        )

    def damaged(self) -> dict[Path, str]:
        """The parts that cannot be used, and why."""
        folders = sorted(path.parent for path in self.folder.glob(f"*/{files.DONE}"))
        reasons = {folder: self._damage_of(folder.name) for folder in folders}
        return {folder: reason for folder, reason in reasons.items() if reason}

    def ship(self, fingerprint: str, stage: Path) -> None:
        """Copies the finished `stage` folder; one that was shipped before is replaced."""
        partial = self.folder / f"{fingerprint}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(stage, partial, ignore=shutil.ignore_patterns(files.DONE))
        files.commit(partial, self.folder / fingerprint)
        self._damage.pop(fingerprint, None)
        self._names.add(fingerprint)

    def size(self) -> int:
        """Bytes of all parts together."""
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())

    def _damage_of(self, fingerprint: str) -> str | None:
        """Read once a process: a plan asks for the same part again and again."""
        if fingerprint not in self._damage:
            self._damage[fingerprint] = files.damage(self.folder / fingerprint)
        return self._damage[fingerprint]
