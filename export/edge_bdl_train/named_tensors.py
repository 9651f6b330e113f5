"""Tensors by their names: how what was given differs from what is wanted."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def differences(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor], strange: str) -> list[str]:
    """One clause for each name, shape or dtype that differs; ``strange`` is said of a name that is not wanted."""
    return [
        *(f"{name} is missing" for name in sorted(wanted.keys() - given.keys())),
        *(f"{name} {strange}" for name in sorted(given.keys() - wanted.keys())),
        *(
            f"{name} is {given[name].dtype} {list(given[name].shape)}, expected {want.dtype} {list(want.shape)}"
            for name, want in sorted(wanted.items())
            if name in given and (given[name].shape != want.shape or given[name].dtype != want.dtype)
        ),
    ]


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """The names of those that hold something that is not finite."""
    return sorted(name for name, tensor in tensors.items() if not torch.isfinite(tensor).all())
