"""The black box: what happened around a fall of the level, written so that it can be seen and replayed."""
