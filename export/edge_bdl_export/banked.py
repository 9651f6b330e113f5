"""Banked: which operators take the weights of all members at once, and do it well.

A linear layer's are one banked matmul, which is as fast as one matrix product for each member. A convolution's would be
one grouped convolution, which is slower than a convolution for each member, and much slower where its weights are
inputs and not constants (docs/decisions/graphs.md).
"""

from __future__ import annotations

import torch
from torch import fx

from edge_bdl_export.capture import Capture

_CONVOLUTION = "conv"


def unbanked(captured: Capture, weights: set[fx.Node]) -> str | None:
    """The first operator that takes one of these parameters and has no good banked form; None where all have.

    Args:
        captured: A graph.
        weights: Parameters whose members differ.
    """
    for node in captured.graph.nodes:
        name = node.target.name() if isinstance(node.target, torch._ops.OpOverload) else ""
        if weights.intersection(node.all_input_nodes) and name.startswith(f"aten::{_CONVOLUTION}"):
            return name.removeprefix("aten::").partition(".")[0]
    return None
