"""The device's verbs of ``edge-bdl``, one per file: parse, do, print. See ``edge_bdl.cli``."""
