"""Every fault on purpose: real monitor, gate and guard, a simulated base, and what must hold whatever happens."""
