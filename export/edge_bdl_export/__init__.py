"""From a trained Bayesian network to a verified bundle. Workstation side: needs torch."""

from edge_bdl_export.exporter import export

__all__ = ["export"]
