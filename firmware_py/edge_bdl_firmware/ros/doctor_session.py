"""One visit of the doctor: start ROS, look, drive if asked, end."""

from __future__ import annotations

from collections.abc import Sequence

import rclpy
from rclpy.signals import SignalHandlerOptions

from edge_bdl.errors import InputError
from edge_bdl_firmware.doctor.observation import Observation
from edge_bdl_firmware.ros.doctor_drive import DriveOptions, drive
from edge_bdl_firmware.ros.doctor_node import DoctorNode
from edge_bdl_firmware.signals import StopSignals

# Fast DDS announces itself every 3 s: where the first greeting is lost, processes find each other so late (measured:
# up to 3.8 s). Who is not there by then is missing.
_DISCOVERY_S = 5.0


def look(argv: Sequence[str], duration_s: float, base_topic: str | None, plan: DriveOptions | None) -> Observation:
    """What is seen of the system in so many seconds.

    Args:
        argv: ROS arguments, ``--ros-args ...``.
        duration_s: How long to listen when everybody is found.
        base_topic: What the base listens to; None: where cmd_vel_out leads.
        plan: What to drive after that; None: nothing.

    Raises:
        InputError: ROS does not take the arguments.
        KeyboardInterrupt: A signal came; a base that was driven has been told to stop.
    """
    signals = StopSignals()

    def interrupted() -> bool:
        return signals.asked

    try:
        rclpy.init(args=list(argv), signal_handler_options=SignalHandlerOptions.NO)
    except RuntimeError as error:  # all that rcl raises
        raise InputError(f"ROS does not take these arguments: {str(error).strip().partition(chr(10))[0]}") from error
    try:
        node = DoctorNode()
        try:
            node.watch(_DISCOVERY_S + duration_s, interrupted)
            observation = node.observed(base_topic)
            if plan is None:
                return observation
            return node.observed(base_topic, drive(node, observation, plan, interrupted))
        finally:
            node.close()
    finally:
        rclpy.try_shutdown()
