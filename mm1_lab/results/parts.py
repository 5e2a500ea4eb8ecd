"""Shipped parts: finished stages that come with the repository, so that a sweep starts from pre-trained parts."""

import os
from pathlib import Path

from mm1_lab import files


class Parts:
    """A folder of finished stages by fingerprint, in the store's format. They are read in place."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self._damage: dict[str, str | None] = {}
        self._names = set(os.listdir(folder)) if folder.is_dir() else set()
        """Listed once: most stages of a plan are not shipped, and `has` rejects those without disk access."""

    def has(self, fingerprint: str) -> bool:
        """Whether the stage was shipped and all its files are unchanged."""
        return (
            fingerprint in self._names
            and files.is_complete(f"{self.folder}/{fingerprint}")
            and self._damage_of(fingerprint) is None
        )

    def damaged(self) -> dict[Path, str]:
        folders = sorted(path.parent for path in self.folder.glob(f"*/{files.DONE}"))
        reasons = {folder: self._damage_of(folder.name) for folder in folders}
        return {folder: reason for folder, reason in reasons.items() if reason}

    def ship(self, fingerprint: str, stage: Path) -> None:
        with files.new_folder(self.folder / fingerprint, like=stage):
            pass
        self._damage.pop(fingerprint, None)
        self._names.add(fingerprint)

    def _damage_of(self, fingerprint: str) -> str | None:
        """Why the part cannot be used, or None. Cached, as a plan checks the same part many times."""
        if fingerprint not in self._damage:
            self._damage[fingerprint] = files.damage(self.folder / fingerprint)
        return self._damage[fingerprint]
