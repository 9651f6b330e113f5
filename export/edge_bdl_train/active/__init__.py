"""Active learning: which unlabelled example to ask about next, and the loop that asks."""
