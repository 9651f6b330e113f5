"""How a posterior was made as JSON values, for the header of its file."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from edge_bdl_train.likelihoods.base import Likelihood
from edge_bdl_train.likelihoods.gaussian import Gaussian


def settings_of(config: Any, likelihood: Likelihood) -> dict[str, Any]:
    """A posterior's settings: the method's config, and under ``likelihood`` what the network's outputs mean."""
    return {**described(config), "likelihood": described(likelihood)}


def described(value: Any) -> Any:
    """Plain values as they are, an object by its class's name and fields, a tensor by its shape."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Tensor):
        return f"tensor {list(value.shape)}" if value.ndim else value.item()
    if isinstance(value, Mapping):
        return {str(key): described(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [described(item) for item in value]
    if isinstance(value, Gaussian):
        return {"class": type(value).__name__, "noise": float(value.noise.detach())}
    if dataclasses.is_dataclass(value):
        fields = {field.name: described(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return fields if type(value).__name__ == "Config" else {"class": type(value).__name__, **fields}
    return {"class": type(value).__name__}
