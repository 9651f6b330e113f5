"""Files read with distrust and written to last."""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edge_bdl.errors import BundleError

BLOCK = 2**20


class PlainFile:
    """A file opened without following a link or waiting on a pipe, and never read beyond the size it had.

    Args:
        path: The file.

    Raises:
        BundleError: It cannot be opened, or is not a plain file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise BundleError(f"{path} cannot be read: {error.strerror}") from error
        status = os.fstat(self._descriptor)
        self.size = status.st_size
        if not stat.S_ISREG(status.st_mode):
            os.close(self._descriptor)
            raise BundleError(f"{path} is not a plain file")

    def __enter__(self) -> PlainFile:
        return self

    def __exit__(self, *exception: object) -> None:
        os.close(self._descriptor)

    def blocks(self) -> Iterator[bytes]:
        """The content, a piece at a time.

        Raises:
            BundleError: It cannot be read, or is shorter than it was.
        """
        left = self.size
        while left:
            try:
                block = os.read(self._descriptor, min(left, BLOCK))
            except OSError as error:
                raise BundleError(f"{self._path} cannot be read: {error.strerror}") from error
            if not block:
                raise BundleError(f"{self._path} became shorter while it was read")
            left -= len(block)
            yield block


def write_file(path: Path, data: bytes) -> None:
    """Write a file and wait until it is on the disk."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def flush_folder(folder: Path) -> None:
    """Wait until a folder's entries are on the disk: a new or renamed file lasts only then."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Hold a folder against other writers that ask; the lock ends with the process, however that ends."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        # A file system without locks: one writer at a time is then the caller's business.
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
