"""Likelihoods: what a network's outputs say of the targets, one family per file."""
