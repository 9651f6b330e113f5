"""What the processes on the vehicle tell each other, with ROS and without.

One struct per message, frozen, encoded as MessagePack with a tag, so that a reader knows what it got. The same messages
go to the recorder and to whoever watches. Every time whose name ends in ``_s`` is CLOCK_MONOTONIC, which all processes
of one machine share and nobody can set; ``stamp_ns`` is whatever the camera calls time, and is compared with no more
than itself and the clock that the camera should have.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal

import msgspec

from edge_bdl.errors import EdgeBdlError

#: Encodings of a frame whose bytes are pixels, and those that are files.
RAW_ENCODINGS = ("rgb8", "bgr8", "mono8", "rgba8", "bgra8")
FILE_ENCODINGS = ("jpeg", "png")

#: Numbers of a prediction that travel with its assessment; a larger output stays with whoever infers.
LARGEST_MEAN = 16


class MessageError(EdgeBdlError):
    """What arrived is no message of ours."""


class Message(msgspec.Struct, frozen=True, kw_only=True, tag=True, forbid_unknown_fields=True):
    """Base of all messages."""


class Frame(Message, frozen=True, kw_only=True):
    """One camera frame, as it came.

    Attributes:
        sequence: Of the receiving process, from 0; frames that were never looked at count as well.
        stamp_ns: The camera's own time.
        received_s: When it came.
        encoding: One of ``RAW_ENCODINGS`` or ``FILE_ENCODINGS``; anything else is told to the gate as a fault.
        height: Pixels; 0 where the file says.
        width: Pixels; 0 where the file says.
        step: Bytes of one row with its padding; 0 where the file says.
        data: Pixels row by row, or the file.
    """

    sequence: int
    stamp_ns: int
    received_s: float
    encoding: str
    height: int = 0
    width: int = 0
    step: int = 0
    data: bytes


class Assessment(Message, frozen=True, kw_only=True):
    """What the monitor says of one frame.

    Attributes:
        sequence: The frame's.
        stamp_ns: The frame's.
        received_s: When the frame came; its age is counted from here, whoever waits in between.
        boot_id: Of the machine that counts these seconds.
        bundle: Digest of the bundle that assessed it.
        scores: One number per score, larger = worse; NaN where there is none.
        samples: Members used.
        fault: Why the scores mean nothing; None where they are valid.
        mean: The prediction, flattened, where it has at most ``LARGEST_MEAN`` numbers.
        stages_ms: Where the time went: ``wait`` in the slot, ``decode``, ``check`` of the pixels, ``engine``, and
            ``all`` from the frame's receipt to here.
        dropped: Frames since the monitor's start that newer ones replaced before they were looked at.
    """

    sequence: int
    stamp_ns: int
    received_s: float
    boot_id: str
    bundle: str
    scores: dict[str, float] = {}
    samples: int = 0
    fault: str | None = None
    mean: tuple[float, ...] = ()
    stages_ms: dict[str, float] = {}
    dropped: int = 0


class Command(Message, frozen=True, kw_only=True):
    """What a controller wants.

    Attributes:
        axes: Velocities that the gate scales, all alike; metres and radians a second.
        kept: Numbers that it passes on untouched, such as a steering angle.
    """

    axes: tuple[float, ...]
    kept: tuple[float, ...] = ()


class Human(Message, frozen=True, kw_only=True):
    """What a person did: acknowledged, took the wheel or gave it back, set the bypass or ended it."""

    act: Literal["acknowledge", "take_control", "release_control", "set_bypass", "end_bypass"]


class Step(Message, frozen=True, kw_only=True):
    """One step of the policy: everything that went in, and what came out. Replaying these reproduces every decision.

    Attributes:
        sequence: Of this gate's steps, from 0.
        now_s: The time that the policy was told.
        trigger: What the step was taken for.
        assessment: Sequence of the assessment that was new in this step; None where none was.
        age_s: Its age.
        fault: Evidence that the gate itself put in its place; None where it did not.
        acknowledged: A human acknowledged.
        human_in_control: A human drives.
        standstill: The robot is known to stand still.
        bypass: A human set the bypass: the command is limited by it, not by the level.
        level: The decision's.
        speed_factor: The decision's.
        reason: The decision's.
        command: The newest command as it came; None without a fresh one.
        output: The command that may pass: zeros where none may.
        kept: What passes untouched beside it: the newest valid command's.
        late_ms: How much later than planned this tick came.
    """

    sequence: int = 0
    now_s: float
    trigger: Literal["tick", "assessment", "command", "human"]
    assessment: int | None = None
    age_s: float = 0.0
    fault: str | None = None
    acknowledged: bool = False
    human_in_control: bool = False
    standstill: bool = False
    bypass: bool = False
    level: str
    speed_factor: float
    reason: str
    command: tuple[float, ...] | None = None
    output: tuple[float, ...]
    kept: tuple[float, ...] = ()
    late_ms: float = 0.0


class Snapshot(Message, frozen=True, kw_only=True):
    """All that the policy remembers, after the step of this time: where a replay may begin."""

    now_s: float
    state: bytes


class Opening(Message, frozen=True, kw_only=True):
    """What a process runs with, said at its start and once a second.

    Attributes:
        process: Which.
        pid: Of the process; another one has forgotten what this one knew.
        bundle: Digest.
        bundle_path: Where it was opened.
        parameters: By name, as text.
    """

    process: Literal["monitor", "gate"]
    pid: int = 0
    bundle: str
    bundle_path: str
    parameters: dict[str, str] = {}


class Heartbeat(Message, frozen=True, kw_only=True):
    """The gate lives: it has just ticked."""

    now_s: float


AnyMessage = Frame | Assessment | Command | Human | Step | Snapshot | Opening | Heartbeat

_ENCODER = msgspec.msgpack.Encoder()
_DECODER: msgspec.msgpack.Decoder[AnyMessage] = msgspec.msgpack.Decoder(AnyMessage)


def encode(message: AnyMessage) -> bytes:
    """A message as bytes."""
    return _ENCODER.encode(message)


def decode(data: bytes) -> AnyMessage:
    """Bytes as a message.

    Raises:
        MessageError: They are none of ours.
    """
    try:
        return _DECODER.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise MessageError(f"this is no message of edge-bdl: {error}") from error


@cache
def boot_id() -> str:
    """Which boot of which machine this is: CLOCK_MONOTONIC of two of them cannot be compared."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "unknown"
