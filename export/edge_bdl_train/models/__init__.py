"""Networks whose trunk is deterministic and whose head is not."""

from edge_bdl_train.models.pilotnet import PilotNet
from edge_bdl_train.models.small_cnn import SmallCnn

__all__ = ["PilotNet", "SmallCnn"]
