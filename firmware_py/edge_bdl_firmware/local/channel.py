"""Messages between processes of one machine: Unix datagram sockets in one folder, a name per receiver.

A sender never waits: where nobody receives, or the receiver is behind, the message is lost and counted. A frame is
larger than a datagram may be, so it travels as a sealed memory file whose descriptor is sent; nothing is left behind
where it is lost.
"""

from __future__ import annotations

import array
import errno
import fcntl
import mmap
import os
import socket
import tempfile
import time
from pathlib import Path

from edge_bdl.errors import InputError
from edge_bdl_firmware.messages import AnyMessage, MessageError, decode, encode

_LARGEST_DATAGRAM = 32 * 1024
_LARGEST_FILE = 256 * 2**20
# What the kernel counts of files on their way, which is not their content: some forty. A receiver that hangs must not
# eat all memory, and a system's queue may be long.
_FILES_ON_THE_WAY_BYTES = 16 * 1024
_IN_A_FILE = b"\xc1"  # a byte that MessagePack never uses


def socket_folder() -> Path:
    """Where the sockets are if nobody says: ``EDGE_BDL_SOCKETS``, else a folder of this user's own."""
    named = os.environ.get("EDGE_BDL_SOCKETS")
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return Path(named) if named else Path(runtime or tempfile.gettempdir()) / f"edge-bdl-{os.getuid()}"


class Inbox:
    """Receives what is sent to one name. The name is this process's for as long as it lives, and free after.

    Args:
        folder: Of the sockets; made where it is absent, for this user alone.
        name: Of this receiver.

    Raises:
        InputError: Another process receives under this name, or the folder cannot be used.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / f"{name}.sock"
        self.refused = 0
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if folder.stat().st_uid != os.getuid():
                raise InputError(f"{folder} belongs to another user: name a folder of your own with EDGE_BDL_SOCKETS")
            # A lock, unlike the socket's file, ends with the process however that ends.
            self._lock = os.open(folder / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self.path.unlink(missing_ok=True)
                self._socket = _bound(self.path)
            except BaseException:
                os.close(self._lock)
                raise
        except BlockingIOError as error:
            raise InputError(f"another process already receives at {self.path}: stop it first") from error
        except OSError as error:
            raise InputError(f"cannot receive at {self.path}: {error.strerror or error}") from error

    def __enter__(self) -> Inbox:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the name back."""
        self._socket.close()
        self.path.unlink(missing_ok=True)
        os.close(self._lock)

    def fileno(self) -> int:
        """For select."""
        return self._socket.fileno()

    def receive(self, timeout_s: float | None = 0.0) -> AnyMessage | None:
        """The next message; None where none came in time. What is no message of ours is counted and passed over.

        Args:
            timeout_s: How long to wait; None: until one comes.
        """
        until_s = None if timeout_s is None else time.monotonic() + timeout_s
        self._socket.settimeout(timeout_s)
        while True:
            try:
                data, descriptors, _, _ = socket.recv_fds(self._socket, _LARGEST_DATAGRAM, 1)
            except (BlockingIOError, TimeoutError):
                return None
            try:
                if data == _IN_A_FILE and len(descriptors) == 1:
                    data = _read_file(descriptors[0])
                return decode(data)
            except (MessageError, OSError, ValueError):
                self.refused += 1
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)
            # Whoever floods us with what is none of ours must not keep us from what we do between two messages.
            if until_s is not None:
                left_s = until_s - time.monotonic()
                if left_s <= 0.0:
                    return None
                self._socket.settimeout(left_s)


class Outbox:
    """Sends to one name, whether anybody receives there or not.

    Args:
        folder: Of the sockets.
        name: Of the receiver.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.path = str(folder / f"{name}.sock")
        self.lost = 0
        self._socket = _unbound()
        self._files: socket.socket | None = None  # of its own: what waits there is counted apart

    def __enter__(self) -> Outbox:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Send no more."""
        self._socket.close()
        if self._files is not None:
            self._files.close()

    def send(self, message: AnyMessage) -> bool:
        """Send a message and return whether a receiver has it; never waits, whatever the receiver does."""
        data = encode(message)
        try:
            if len(data) <= _LARGEST_DATAGRAM:
                self._socket.sendto(data, self.path)
            else:
                self._send_file(data)
        except OSError as error:
            if error.errno == errno.EBADF:  # our own mistake: closed
                raise
            self.lost += 1
            return False
        return True

    def _send_file(self, data: bytes) -> None:
        if self._files is None:
            self._files = _unbound()
            self._files.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _FILES_ON_THE_WAY_BYTES)
        descriptor = os.memfd_create("edge-bdl", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.write(descriptor, data)
            # Sealed, so that it cannot be cut short under a reader that has it mapped.
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE)
            # socket.send_fds knows no address.
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))
            self._files.sendmsg([_IN_A_FILE], [rights], 0, self.path)
        finally:
            os.close(descriptor)


def _unbound() -> socket.socket:
    endpoint = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    endpoint.setblocking(False)
    return endpoint


def _bound(path: Path) -> socket.socket:
    endpoint = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        endpoint.bind(str(path))
    except BaseException:
        endpoint.close()
        raise
    return endpoint


def _read_file(descriptor: int) -> bytes:
    size = os.fstat(descriptor).st_size
    if not 0 < size <= _LARGEST_FILE:
        raise ValueError(f"a message of {size} bytes")
    if not fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK:
        raise ValueError("a message that its sender could cut short")
    with mmap.mmap(descriptor, size, prot=mmap.PROT_READ) as mapped:
        return mapped[:]
