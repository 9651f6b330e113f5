"""The verbs of ``edge-bdl`` that run on the vehicle, one module each."""
