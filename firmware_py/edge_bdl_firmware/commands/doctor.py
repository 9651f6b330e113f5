"""``edge-bdl doctor``: a live ROS 2 system, checked for what would go wrong."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from edge_bdl.commands.arguments import Parser, add_json, positive
from edge_bdl.commands.output import print_json
from edge_bdl.errors import InputError
from edge_bdl_firmware.doctor.base_timeout import LONGEST_STOP_S
from edge_bdl_firmware.doctor.checks import CHECKS, examine, passed
from edge_bdl_firmware.doctor.report import facts, text
from edge_bdl_firmware.ros import require_ros, split_arguments


def doctor(argv: Sequence[str]) -> int:
    """Run the verb; returns the exit code: 1 where a check failed.

    Raises:
        EdgeBdlError: Bad usage, nobody agreed to move the robot, or ROS is not installed.
    """
    own, ros = split_arguments(argv)
    options = _parser().parse_args(own)
    require_ros("doctor", "diagnostic_msgs", "geometry_msgs", "nav_msgs", "sensor_msgs", "std_msgs")
    if options.move:
        _ask(options)
    from edge_bdl_firmware.ros.doctor_drive import DriveOptions
    from edge_bdl_firmware.ros.doctor_session import look

    plan = DriveOptions(
        base_topic=options.base_topic, odometry=options.odom, speed=options.speed, seconds=options.seconds
    )
    observation = look(ros, options.duration, options.base_topic, plan if options.move else None)
    results = examine(observation, options.only or CHECKS)
    if options.json:
        print_json(facts(results))
    else:
        print(text(results))
    return 0 if passed(results) else 1


def _parser() -> Parser:
    parser = Parser("doctor", "Check a live ROS 2 system. Other names: --ros-args -r cmd_vel_in:=/cmd_vel_smoothed ...")
    parser.add_argument(
        "--duration",
        metavar="S",
        type=positive,
        default=5.0,
        help="how long to listen, after 5 s in which all are found (default: %(default)g)",
    )
    parser.add_argument(
        "--base-topic",
        metavar="TOPIC",
        help="what the base listens to (default: where cmd_vel_out leads); --move commands it past the gate",
    )
    parser.add_argument(
        "--only",
        metavar="CHECK",
        action="append",
        choices=tuple(CHECKS),
        help=f"one of {', '.join(CHECKS)}; repeatable",
    )
    moving = parser.add_argument_group("moving the robot")
    moving.add_argument(
        "--move", action="store_true", help="drive a little, fall silent, and time on odometry when the base stands"
    )
    moving.add_argument("--yes", action="store_true", help="do not ask before moving")
    moving.add_argument("--odom", metavar="TOPIC", default="odom", help="nav_msgs/Odometry (default: %(default)s)")
    moving.add_argument("--speed", metavar="M/S", type=positive, default=0.1, help="forward (default: %(default)g m/s)")
    moving.add_argument(
        "--seconds", metavar="S", type=positive, default=0.3, help="for so long (default: %(default)g s)"
    )
    add_json(parser)
    return parser


def _ask(options: argparse.Namespace) -> None:
    """Have a person agree; a base without a timeout drives on until it is told to stop."""
    reach_m = options.speed * (options.seconds + 2 * LONGEST_STOP_S)
    print(
        f"edge-bdl: THE ROBOT WILL MOVE: forward at {options.speed:g} m/s, up to {reach_m:.2g} m and its way to brake",
        file=sys.stderr,
    )
    if options.yes:
        return
    if not sys.stdin.isatty():
        raise InputError("nobody is there to agree that the robot moves: run it in a terminal, or with --yes")
    print("Is the way free, and a hand on the emergency stop? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise InputError("the robot was not moved: nobody agreed")
