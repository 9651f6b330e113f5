"""Networks as robots carry them, one kind per file; ``zoo`` shows all of them."""

from edge_bdl_train.models.pilotnet import PilotNet
from edge_bdl_train.models.small_cnn import SmallCnn

__all__ = ["PilotNet", "SmallCnn"]
