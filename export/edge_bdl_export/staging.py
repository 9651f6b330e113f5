"""Staging: where a bundle is put together before anything of it is seen, on a disk that may be full."""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from edge_bdl.errors import BundleError

# What a disk answers that takes no more: full, over somebody's quota, a file over the limit, or not to be written.
_REFUSALS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EIO}


@contextmanager
def staging() -> Iterator[Path]:
    """A folder that is gone afterwards.

    Raises:
        BundleError: The disk refuses.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="edge-bdl-") as folder:
            yield Path(folder)
    except (OSError, SafetensorError) as error:
        # Safetensors has no number for it.
        if isinstance(error, OSError) and error.errno not in _REFUSALS:
            raise
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise BundleError(
            f"the bundle cannot be put together in {tempfile.gettempdir()} ({reason}), and nothing was written; free "
            "space there, or set TMPDIR to a folder that has some"
        ) from error
