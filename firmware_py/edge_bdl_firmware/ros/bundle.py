"""The bundle that a node's parameters name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from edge_bdl.errors import InputError
from edge_bdl_firmware.ros.parameters import Value

_Opened = TypeVar("_Opened")


def open_bundle(values: Mapping[str, Value], verb: str, opening: Callable[[str, bytes | None], _Opened]) -> _Opened:
    """Open it.

    Args:
        values: Of the parameters ``bundle`` and ``trusted_key``.
        verb: That starts the node, such as ``ros-gate``.
        opening: `Bundle.open`, or `identify` where no graph is run.

    Raises:
        InputError: None is named, or the key cannot be read.
        BundleError: It is not sound.
    """
    path, key = str(values["bundle"]), str(values["trusted_key"])
    if not path:
        raise InputError(f"which bundle? edge-bdl {verb} NAME.ebdl, or the parameter: --ros-args -p bundle:=NAME.ebdl")
    try:
        trusted_key = Path(key).read_bytes() if key else None
    except OSError as error:
        raise InputError(f"the parameter trusted_key: {key} cannot be read: {error.strerror}") from error
    return opening(path, trusted_key)
