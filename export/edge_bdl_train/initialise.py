"""A network's weights drawn anew."""

from __future__ import annotations

import copy

import torch
from torch import nn

from edge_bdl.errors import InputError
from edge_bdl_train.randomness import lent


def reinitialised(network: nn.Module, generator: torch.Generator) -> nn.Module:
    """A copy of the network with every parameter as its module's ``reset_parameters`` draws it.

    Raises:
        InputError: a module has parameters and no such method.
    """
    network = copy.deepcopy(network)
    resets = []
    for name, module in network.named_modules():
        reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
        if reset is not None:
            resets.append(reset)
        elif any(True for _ in module.parameters(recurse=False)):
            raise InputError(
                f"the parameters of {name or 'the network'} ({type(module).__name__}) cannot be drawn anew: "
                "give it a method reset_parameters()"
            )
    with lent(generator):
        for reset in resets:
            reset()
    return network
