"""Variational layers: deterministic ones whose parameters became Gaussian weights, one family per file."""
