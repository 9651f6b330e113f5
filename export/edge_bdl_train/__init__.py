"""Training on the workstation: networks, recipes, checkpoints, and the simulated camera car."""
