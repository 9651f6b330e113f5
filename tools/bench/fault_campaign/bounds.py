"""The times that a bound on distance is made of. Each is what the product promises; only the margin is ours."""

from __future__ import annotations

CAMERA_S = 0.04  # between two frames
CONTROLLER_S = 0.05  # between two commands
TICK_S = 0.05  # of the gate, and of the guard
EVIDENCE_S = 0.3  # assessment timeout
COMMAND_S = 0.5  # command timeout
HEARTBEAT_S = 0.25  # after which the guard takes the gate for dead
RAMP_S = 1.0  # HANDOFF's way to zero
FROZEN_FRAMES = 10  # identical ones that are a fault
BASE_TIMEOUT_S = 0.5  # of the base that has one

#: For all that lies between: engine, four ways through DDS, and the scheduler of a machine that does other things too.
MARGIN_S = 0.1

#: The next frame is bad, and is said to be bad.
BAD_FRAME_S = CAMERA_S + MARGIN_S
#: Nothing more is said: the newest frame's age is counted from its receipt, and looked at in every tick.
SILENCE_S = EVIDENCE_S + TICK_S + MARGIN_S
#: The promise: zero out of the gate within 0.5 s of the monitor's end.
assert SILENCE_S <= 0.5
NO_COMMAND_S = COMMAND_S + TICK_S + MARGIN_S
#: The gate is dead and the guard speaks; its clock runs from the last heartbeat.
GUARD_S = HEARTBEAT_S + TICK_S + MARGIN_S
FROZEN_S = (FROZEN_FRAMES + 1) * CAMERA_S + MARGIN_S
#: At full speed for as long as the way down a straight ramp is, in steps of a tick.
HANDOFF_S = BAD_FRAME_S + RAMP_S / 2 + TICK_S
#: Until everybody has found a new process: Fast DDS repairs what was lost of its discovery every 3 s, twice if need be.
DISCOVERY_S = 8.0
#: Until a process under test speaks, on a machine that is slow to start Python.
START_S = 15.0
#: Longest silence of the gate that nobody notices.
ZEROS_GAP_S = HEARTBEAT_S
