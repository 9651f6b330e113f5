"""The folder of recordings: how they are named, and how much of the disk they may take."""

from __future__ import annotations

import re
import stat
import time
from pathlib import Path

#: Only what has such a name was written by a recorder, and may be removed by one.
_OWN = re.compile(r"edge-bdl-\d{8}T\d{6}\.\d{3}Z\.mcap(\.partial)?")


class Recordings:
    """Own recordings in a folder, the oldest of which make room for new ones. Files of others are never touched.

    Args:
        folder: Made when the first recording is.
        most_bytes: What all of them together may take.
    """

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self.folder = folder
        self.most_bytes = most_bytes

    def new(self, wall_ns: int) -> Path:
        """Where a recording that begins now belongs.

        Raises:
            OSError: The folder cannot be made.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        seconds, rest_ns = divmod(wall_ns, 10**9)
        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(seconds))
        return self.folder / f"edge-bdl-{stamp}.{rest_ns // 10**6:03d}Z.mcap"

    def make_room(self, more_bytes: int, writing: Path) -> None:
        """Remove the oldest until so much more fits. Those that a killed recorder left unfinished count as well.

        Args:
            more_bytes: How much is going to be written.
            writing: Stays, whatever its age.

        Raises:
            OSError: The folder cannot be read, or a recording cannot be removed.
        """
        sizes = self._sizes()
        excess = sum(sizes.values()) + more_bytes - self.most_bytes
        for path in sorted(sizes.keys() - {writing}):
            if excess <= 0:
                return
            path.unlink(missing_ok=True)
            excess -= sizes[path]

    def _sizes(self) -> dict[Path, int]:
        sizes = {}
        for path in self.folder.iterdir():
            if _OWN.fullmatch(path.name):
                status = path.lstat()
                if stat.S_ISREG(status.st_mode):
                    sizes[path] = status.st_size
        return sizes
