"""Adapters: models of other libraries, without depending on them. One library per file.

Every adapter is built from what it recognises by qualified class name, and then holds a deterministic ``network`` and
draws members of it; see ``base.Adapter``, which one may also write outside this project.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from edge_bdl.errors import ExportError
from edge_bdl_export.adapters.baal import Baal
from edge_bdl_export.adapters.base import Adapter, Member
from edge_bdl_export.adapters.bayesian_torch import BayesianTorch
from edge_bdl_export.adapters.blitz import Blitz
from edge_bdl_export.adapters.function import SampledBy
from edge_bdl_export.adapters.laplace import LaplaceTorch
from edge_bdl_export.adapters.posteriors import Posteriors
from edge_bdl_export.adapters.torch_uncertainty import TorchUncertainty
from edge_bdl_export.capture import GUIDE
from edge_bdl_train.posterior import Posterior
from edge_bdl_train.randomness import lent

__all__ = ["Adapter", "adapt", "draw_from", "members_of"]

# Tried in order: what a model is, and what its members are given as.
MODELS = (BayesianTorch, TorchUncertainty, Blitz, Baal, LaplaceTorch)
MEMBERS = (Posteriors, SampledBy)


def adapt(model: Any, members: Any = None, deterministic: Sequence[str] = ()) -> Adapter | None:
    """The adapter for a model, or for the members that it is given; None if it is a plain network as it stands.

    Args:
        model: What to export: a module, a posterior of some library, or an adapter.
        members: State dicts, states of a library, a function that draws, or None.
        deterministic: Qualified names of modules to hold at their mean.

    Raises:
        UnsupportedModelError: It is of a known library, but has no members.
        ExportError: The model has members of its own and is given others, or is no model at all.
    """
    chosen = model if isinstance(model, Adapter) else _of_model(model, deterministic)
    if chosen is not None:
        if members is not None:
            raise ExportError(f"{type(model).__name__} has members of its own; export it without members=")
        return chosen
    if isinstance(model, Posterior):
        return None
    if not isinstance(model, nn.Module):
        raise ExportError(
            f"the model is a {type(model).__name__}; give a torch.nn.Module, a fitted posterior of a known library, or "
            f"an Adapter ({GUIDE})"
        )
    return next((adapter(model, members) for adapter in MEMBERS if adapter.recognises(members)), None)


def _of_model(model: Any, deterministic: Sequence[str]) -> Adapter | None:
    return next((adapter(model, deterministic) for adapter in MODELS if adapter.recognises(model)), None)


def members_of(adapter: Adapter, samples: int, seed: int) -> list[Member] | None:
    """An adapter's members: independent draws, or those that there are; None where dropout is what is random.

    Args:
        adapter: From ``adapt``.
        samples: How many, or all where there are fewer.
        seed: Of the draws; the global generator neither matters nor moves.

    Raises:
        ExportError: Fewer than 2 members, or not as many as asked.
    """
    if adapter.size == 0:
        return None
    count = samples if adapter.size is None else min(samples, adapter.size)
    if count < 2:
        raise ExportError(f"samples must be at least 2, got {count}: one member knows nothing of its uncertainty")
    return draw_from(adapter, torch.Generator().manual_seed(seed), count)


def draw_from(adapter: Adapter, generator: torch.Generator, count: int) -> list[Member]:
    """An adapter's next ``count`` members; torch's global generator neither matters nor moves.

    Raises:
        ExportError: They are not as many as asked.
    """
    with lent(generator), torch.no_grad():
        members = adapter.sample(generator, count)
    if len(members) != count:
        raise ExportError(f"{type(adapter).__name__}.sample gave {len(members)} members, asked for {count}")
    return members
