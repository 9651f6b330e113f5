"""``edge-bdl VERB``: a literal table of verbs, each imported when it is called.

A verb is a function that takes its arguments and returns the exit code: 0 good, 1 the check that was asked for failed.
Everything else ends here: what edge-bdl raises becomes one line on stderr and exit code 2.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

from edge_bdl.errors import EdgeBdlError, InputError, MissingExtraError

_FAILED, _INTERRUPTED, _NOBODY_READS = 2, 130, 141


class Verb(NamedTuple):
    """Where a verb is, what it does, and the extra without which its module cannot be imported."""

    target: str
    summary: str
    extra: str | None = None


VERBS = {
    "train": Verb("edge_bdl_train.cli:train", "train a Bayesian network by one of the recipes", "train"),
    "evaluate": Verb("edge_bdl_train.evaluation.cli:evaluate", "judge a trained network on held-out data", "train"),
    "export": Verb("edge_bdl_export.cli:export", "turn a trained network into a proved bundle", "export"),
    "inspect": Verb("edge_bdl.commands.inspect:inspect", "say what a bundle is"),
    "verify": Verb(
        "edge_bdl.commands.verify:verify", "check a bundle's files and signature, and its outputs on this machine"
    ),
    "predict": Verb("edge_bdl.commands.predict:predict", "predict one frame, with its uncertainty"),
    "profile": Verb("edge_bdl.commands.profile:profile", "measure latency, memory and cold start on this machine"),
    "run": Verb("edge_bdl_firmware.commands.run:run", "monitor and gate over a camera, a folder or a recording"),
    "monitor": Verb("edge_bdl_firmware.commands.monitor:monitor", "frames in, assessments out (without ROS)"),
    "gate": Verb("edge_bdl_firmware.commands.gate:gate", "commands in, as much of them as is safe out (without ROS)"),
    "guard": Verb("edge_bdl_firmware.commands.guard:guard", "zeros when the gate's heartbeat is lost (without ROS)"),
    "ros-monitor": Verb("edge_bdl_firmware.commands.ros_monitor:ros_monitor", "the monitor as a ROS 2 node"),
    "ros-gate": Verb("edge_bdl_firmware.commands.ros_gate:ros_gate", "the gate as a ROS 2 node"),
    "ros-guard": Verb("edge_bdl_firmware.commands.ros_guard:ros_guard", "the guard as a ROS 2 node"),
    "doctor": Verb("edge_bdl_firmware.commands.doctor:doctor", "check a live ROS 2 system for what would go wrong"),
    "watch": Verb("edge_bdl_firmware.commands.watch:watch", "show what monitor and gate are doing"),
    "record": Verb(
        "edge_bdl_firmware.commands.record:record", "keep the seconds around what went wrong, as MCAP", "record"
    ),
    "replay": Verb("edge_bdl_firmware.commands.replay:replay", "decide a recording again, and compare", "record"),
    "recover": Verb("edge_bdl_firmware.commands.recover:recover", "rescue a recording that was cut short", "record"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code.

    Args:
        argv: Arguments without the program's name; None: the process's own.
    """
    try:
        code = _dispatch(sys.argv[1:] if argv is None else list(argv))
        sys.stdout.flush()
        return code
    except EdgeBdlError as error:
        print(f"edge-bdl: {error}", file=sys.stderr)
        return _FAILED
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        # The reader of a pipe left. Python flushes stdout once more at exit, and that must find somebody.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _NOBODY_READS


def _dispatch(argv: list[str]) -> int:
    if argv[:1] in (["-h"], ["--help"]):
        print(_usage())
        return 0
    if argv[:1] == ["--version"]:
        from importlib.metadata import version

        print(f"edge-bdl {version('edge-bdl')}")
        return 0
    if not argv:
        print(_usage(), file=sys.stderr)
        return _FAILED
    verb, *rest = argv
    if verb not in VERBS:
        raise InputError(f"there is no verb {verb!r}: choose one of {', '.join(VERBS)}")
    return _function(verb)(rest)


def _function(name: str) -> Callable[[Sequence[str]], int]:
    verb = VERBS[name]
    module, _, function = verb.target.partition(":")
    try:
        return cast(Callable[[Sequence[str]], int], getattr(importlib.import_module(module), function))
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        # One of our own modules that is not there is a broken installation, and no extra puts it right.
        if verb.extra is None or not package or package.startswith("edge_bdl"):
            raise
        raise MissingExtraError(package, verb.extra, f"by edge-bdl {name}") from error


def _usage() -> str:
    verbs = "\n".join(f"  {name:<12}{verb.summary}" for name, verb in VERBS.items())
    footer = "edge-bdl VERB --help says more. Exit codes: 0 good, 1 the check asked for failed, 2 bad usage or input."
    return f"usage: edge-bdl VERB ...\n\n{verbs}\n\n{footer}"


if __name__ == "__main__":
    sys.exit(main())
