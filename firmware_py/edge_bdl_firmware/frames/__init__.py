"""Camera frames on their way to the network: decoded, checked, and never queued."""
