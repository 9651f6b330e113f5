"""Priors: what is believed of the weights before any data, one family per file."""
