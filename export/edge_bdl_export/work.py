"""Work: multiply-accumulates of a network and of its parts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from edge_bdl.findings import Flops
from edge_bdl_export.graphs import Network


def flops_of(network: Network) -> Flops:
    """Of one deterministic pass, and of its part before the cut."""
    counts = [work(module, network.frame) for module in (network.parts.deterministic, network.parts.trunk)]
    return Flops(total=counts[0], deterministic=min(counts))


def work(module: nn.Module, inputs: Sequence[Tensor]) -> int:
    """Multiply-accumulates."""
    # The counter does not look into oneDNN's recurrent layers; without it they are products of matrices.
    without_onednn = torch.backends.mkldnn.flags(enabled=False, allow_tf32=None)
    with torch.no_grad(), without_onednn, FlopCounterMode(display=False) as counter:
        module(*inputs)
    return counter.get_total_flops() // 2  # it counts a multiply-accumulate as two
