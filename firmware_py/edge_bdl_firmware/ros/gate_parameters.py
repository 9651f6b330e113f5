"""The gate's parameters, in one table, and what they mean together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from edge_bdl.manifest import Manifest
from edge_bdl.policy_spec import LONGEST_RAMP_S, LONGEST_TIMEOUT_S, PolicyConfig, PolicySpec
from edge_bdl_firmware.gate import GateConfig
from edge_bdl_firmware.ros.parameters import Row, Value, rows_of, struct_of

#: What is needed before the bundle is open, and does not change.
START = (
    Row("bundle", "", "Folder of the bundle whose assessments count, NAME.ebdl. Required.", read_only=True),
    Row("trusted_key", "", "File with the ed25519 public key that must have signed the bundle.", read_only=True),
    Row("state_file", "", "Where a latched STOP is kept; default: $STATE_DIRECTORY, else the home.", read_only=True),
    Row("sockets", "", "Folder of the sockets of recorder and watchers; default: $EDGE_BDL_SOCKETS.", read_only=True),
    Row("rate_hz", 20.0, "Ticks a second.", 10.0, 50.0, read_only=True),
    Row("enable_stamped_cmd_vel", False, "Commands are TwistStamped instead of Twist.", read_only=True),
    Row(
        "ackermann",
        False,
        "Commands are AckermannDriveStamped; only the speed is scaled.",
        read_only=True,
    ),
    Row("speed_limit", False, "Publish nav2_msgs/SpeedLimit for Nav2's controllers.", read_only=True),
)

_CAMERA = (Row("camera_rate_hz", 20.0, "Rate of the camera; evidence may be as old as two frames.", 5.0, 1000.0),)

_GATE = (
    Row("command_timeout_s", 0.0, "A command older than this is none.", 0.05, 1.0),
    Row("standstill_s", 0.0, "After so long a zero output the robot is taken to stand still.", 0.05, 10.0),
    Row("bypass_factor", 0.0, "Largest share of a command that passes while a human set the bypass.", 0.01, 0.5),
    Row("bypass_limit_s", 0.0, "The bypass ends by itself after this time.", 1.0, 120.0),
)

_POLICY = (
    Row("good_frames_to_start", 0, "Good assessments in a row that lead from HOLD to NOMINAL.", 1, 100),
    Row("hold_to_stop_s", 0.0, "HOLD this long after having driven becomes STOP.", 0.1, 600.0),
    Row("slow_votes", 0, "So many of the last slow_window frames over a SLOW threshold enter SLOW.", 1, 100),
    Row("slow_window", 0, "See slow_votes.", 1, 100),
    Row("slow_release_s", 0.0, "Time below the SLOW thresholds that ends SLOW.", 0.01, 60.0),
    Row("slow_factor", 0.0, "Speed factor of SLOW where no curve was calibrated.", 0.0, 1.0),
    Row("slow_budget_s", 0.0, "Time in SLOW that becomes HANDOFF; leaky.", 0.01, 60.0),
    Row("budget_recharge", 0.0, "Seconds of budget that come back per second outside SLOW.", 0.001, 10.0),
    Row("hold_ramp_s", 0.0, "HOLD ramps the limit to zero in this time; 0: at once.", 0.0, LONGEST_RAMP_S),
    Row("handoff_ramp_s", 0.0, "HANDOFF ramps the limit to zero in this time.", 0.01, 10.0),
    Row("handoff_to_stop_s", 0.0, "HANDOFF unanswered this long becomes STOP.", 0.1, 600.0),
    Row("loosen_per_s", 0.0, "How fast the speed factor may rise.", 0.01, 10.0),
    Row("assessment_timeout_s", 0.0, "Evidence older than this is late.", 0.05, LONGEST_TIMEOUT_S),
    Row("future_tolerance_s", 0.0, "Evidence from further ahead than this is from the future.", 0.001, 1.0),
)


def tunable(manifest: Manifest) -> tuple[Row, ...]:
    """What may change while the gate runs. The policy's defaults are the bundle's own."""
    return (*_CAMERA, *rows_of(GateConfig(), _GATE), *rows_of(manifest.policy.config, _POLICY))


def thresholds(manifest: Manifest) -> Iterator[Row]:
    """The bundle's thresholds at the largest number of samples, for people to see: what was calibrated is not set."""
    for score in manifest.policy.scores:
        limits = score.at(manifest.bank.members)
        if limits is not None:
            for name in ("slow", "handoff"):
                description = f"{name.upper()} threshold of {score.name} at {manifest.bank.members} samples."
                yield Row(f"threshold.{score.name}.{name}", getattr(limits, name), description, fixed=True)


def meaning(manifest: Manifest, values: Mapping[str, Value]) -> tuple[PolicySpec, GateConfig]:
    """What a gate works with.

    Raises:
        InputError: The values make no sense together.
    """
    spec = msgspec.structs.replace(manifest.policy, config=struct_of(PolicyConfig, values))
    return spec.at_rate(float(values["camera_rate_hz"])), struct_of(GateConfig, values)
