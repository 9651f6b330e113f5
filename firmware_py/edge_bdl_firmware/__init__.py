"""The device process: what runs on the vehicle beside the core. Never torch."""
