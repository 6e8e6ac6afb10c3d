"""One writer in a folder."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from ..quoting import quoted

LOCK = ".lock"


class FolderLock:
    """Holds a folder while the process lives; the system lets go of it, however the process ends.

    Raises:
        ValueError: if another process holds it.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = open(folder / LOCK, "a+b")  # noqa: SIM115 - open as long as the lock is held
        try:
            self._take()
        except OSError:
            self._file.seek(0)
            holder = self._file.read(40).decode("ascii", "replace").strip() or "unknown"
            self._file.close()
            raise ValueError(
                f"Process {quoted(holder)} is writing to {quoted(folder, 120)}. Wait for it or end it, or choose another "
                "folder."
            ) from None
        self._file.truncate(0)
        self._file.write(str(os.getpid()).encode())
        self._file.flush()

    def _take(self) -> None:
        if sys.platform == "win32":
            import msvcrt

            self._file.seek(2**20)  # a byte behind the number, which others may read
            msvcrt.locking(self._file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def release(self) -> None:
        """Let go before the process ends."""
        self._file.close()
