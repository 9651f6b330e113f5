"""The gate without ROS: assessments, commands and people come in as datagrams, and so does the command go out."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from edge_bdl.bundle import Identity
from edge_bdl.errors import InputError
from edge_bdl.policy_spec import PolicySpec
from edge_bdl_firmware.gate import Gate, GateConfig
from edge_bdl_firmware.gate_process import GateProcess
from edge_bdl_firmware.local.channel import Inbox, Outbox
from edge_bdl_firmware.messages import AnyMessage, Assessment, Command, Human, Opening, boot_id
from edge_bdl_firmware.signals import StopSignals
from edge_bdl_firmware.state_file import StateFile
from edge_bdl_firmware.watchdog import Watchdog

SLOWEST_HZ, FASTEST_HZ = 10.0, 50.0


def run_gate(
    bundle: Identity,
    sockets: Path,
    state: Path,
    *,
    rate_hz: float = 20.0,
    camera_hz: float | None = None,
    axes: int = 6,
) -> int:
    """Be the gate until a signal ends it; returns the exit code.

    Args:
        bundle: Whose assessments count, with its thresholds.
        sockets: Folder of the sockets.
        state: Where a latched STOP is kept.
        rate_hz: Ticks a second.
        camera_hz: Rate of the camera.
        axes: Numbers of a command.

    Raises:
        InputError: A rate is not possible, or another gate runs here.
    """
    if not SLOWEST_HZ <= rate_hz <= FASTEST_HZ:
        raise InputError(f"a gate ticks at {SLOWEST_HZ:g} to {FASTEST_HZ:g} Hz, got {rate_hz:g}")
    spec = bundle.manifest.policy if camera_hz is None else bundle.manifest.policy.at_rate(camera_hz)
    signals = StopSignals()
    with Inbox(sockets, "gate") as inbox:
        state_file = StateFile(state)
        latch = state_file.read()
        gate = Gate(spec, bundle.digest, boot_id(), stopped=latch.reason if latch.latched else None, axes=axes)
        base = Outbox(sockets, "base")
        process = GateProcess(gate, state_file, sockets, opening_of(bundle, spec, gate.config), base.send, _log)
        watchdog = Watchdog({"tick": lambda: process.ticks})
        watchdog.ready()
        period_s = 1.0 / rate_hz
        planned_s = time.monotonic()
        try:
            while not signals.asked:
                now_s = time.monotonic()
                if now_s >= planned_s:
                    process.tick(late_ms=(now_s - planned_s) * 1e3)
                    watchdog.beat()
                    # A tick that was missed is not made up for: what counts is that the next one is on time.
                    planned_s += period_s * (1 + (now_s - planned_s) // period_s)
                else:
                    _take(process, inbox.receive(planned_s - now_s))
        finally:
            # The last zero goes first, whatever the reason is.
            watchdog.stopping()
            process.stop()
    return 0


def opening_of(bundle: Identity, spec: PolicySpec, config: GateConfig) -> Opening:
    """What a gate runs with, as text: times, and the thresholds at the bank's number of samples."""
    parameters = {name: str(getattr(spec.config, name)) for name in spec.config.__struct_fields__}
    parameters |= {name: str(getattr(config, name)) for name in config.__struct_fields__}
    for score in spec.scores:
        limits = score.at(bundle.manifest.bank.members)
        if limits is not None:
            parameters[f"threshold.{score.name}.slow"] = repr(limits.slow)
            parameters[f"threshold.{score.name}.handoff"] = repr(limits.handoff)
    return Opening(process="gate", bundle=bundle.digest, bundle_path=str(bundle.folder), parameters=parameters)


def _take(process: GateProcess, message: AnyMessage | None) -> None:
    if isinstance(message, Assessment):
        process.assess(message)
    elif isinstance(message, Command):
        process.command(message)
    elif isinstance(message, Human):
        process.human(message)


def _log(line: str) -> None:
    print(f"gate: {line}", file=sys.stderr, flush=True)
