"""Prove: a bundle is only written after its shipped graphs, under the shipped engines, have the posterior's moments.

``subject`` is what is proved, one file per kind of check beside it, ``proof`` runs them all.
"""
