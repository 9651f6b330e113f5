"""Everything around the nodes under test: camera, controller, person, base and observer, as one rclpy node.

Camera and controller are threads of their own, so that no subscription holds them up. What an injection does is set
their attributes; `heal` takes all of it back.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import Twist, Vector3
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import CompressedImage, Image
from std_srvs.srv import SetBool, Trigger

from edge_bdl_firmware.local.channel import Inbox
from edge_bdl_firmware.messages import Assessment, Step
from edge_bdl_firmware.ros import topics
from edge_bdl_firmware.ros.conversions import ConversionError, assessment_of
from fault_campaign.base import Axes, Velocity
from fault_campaign.bounds import CAMERA_S, CONTROLLER_S
from fault_campaign.scenery import Pixels, Scenery, noisy

_SECOND_NS = 1_000_000_000
_ANSWER_S = 2.0
_STALL_S = 0.05  # longer than it takes to send a frame, or a burst of commands
MARK = 7.0  # linear.z of commands that are a stranger's and not the gate's


class Log:
    """What was sent and heard in one run, in order.

    Attributes:
        inputs: Commands that were sent to the gate.
        outputs: What the base heard of the gate and of the guard.
        strangers: What it heard of others.
        states: Time, level and message of the gate's state topic.
        assessments: Time of receipt, and what the monitor said.
        told: What the monitor told watchers, which DDS may have matched this node with later than the gate.
        refused: Messages on the assessment topic that were none.
        steps: Every step of the gate, as it told the watchers.
        acts: Time, and what a person did.
        starts: Time, and which process was started.
        ends: Time, and which process got a signal.
        stalls: From when until when DDS did not let the harness itself send anything.
        gate_was_silent: The fault of this run silences the gate.
    """

    def __init__(self) -> None:
        self.inputs: list[Velocity] = []
        self.outputs: list[Velocity] = []
        self.strangers: list[Velocity] = []
        self.states: list[tuple[float, str, str]] = []
        self.assessments: list[tuple[float, Assessment]] = []
        self.told: list[Assessment] = []
        self.refused = 0
        self.steps: list[Step] = []
        self.acts: list[tuple[float, str]] = []
        self.starts: list[tuple[float, str]] = []
        self.ends: list[tuple[float, str]] = []
        self.stalls: list[tuple[float, float]] = []
        self.gate_was_silent = False

    def next(self) -> Log:
        """An empty one, but for what the first moments of a run rest on."""
        log = Log()
        log.inputs, log.states, log.assessments = self.inputs[-50:], self.states[-1:], self.assessments[-10:]
        return log


class Robot(Node):
    """The harness's node.

    Args:
        scenery: What the camera may see.
        sockets: Folder in which the gate tells its steps.
        compressed: The camera sends JPEG files.
    """

    def __init__(self, scenery: Scenery, sockets: Path, *, compressed: bool = False) -> None:
        super().__init__("fault_campaign")
        self.scenery, self.compressed = scenery, compressed
        self.log = Log()
        self.rng = np.random.default_rng(0)
        self.speed, self.turn, self.phase = 0.5, 0.4, 0.0
        self.sequence_ns = 0
        self.heal()
        self._images = self.create_publisher(*_image_topic(compressed))
        self.commands = self.create_publisher(Twist, *topics.CMD_VEL_IN)
        self.create_subscription(Twist, topics.CMD_VEL_OUT.name, self._on_output, 50)
        gate = f"/{topics.GATE_NODE}"
        self.create_subscription(DiagnosticStatus, f"{gate}/state", self._on_state, topics.STATE.qos)
        self.create_subscription(DiagnosticArray, topics.ASSESSMENT_IN.name, self._on_assessment, 50)
        self._acknowledge = self.create_client(Trigger, f"{gate}/acknowledge")
        self._take_control = self.create_client(SetBool, f"{gate}/take_control")
        self._set_bypass = self.create_client(SetBool, f"{gate}/set_bypass")
        self._inbox = Inbox(sockets, "watch.1")
        self._ending = threading.Event()
        executor = SingleThreadedExecutor()
        executor.add_node(self)
        loops = (lambda: executor.spin_once(0.05), self._step_once)
        jobs = [*(lambda turn=turn: self._repeat(turn) for turn in loops)]
        jobs += [lambda: self._pace(CAMERA_S, self._shoot), lambda: self._pace(CONTROLLER_S, self._drive)]
        self._threads = [threading.Thread(target=job, daemon=True) for job in jobs]

    def start(self) -> None:
        """Let everything run."""
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """Stop everything."""
        self._ending.set()
        for thread in self._threads:
            thread.join(2.0)
        self._inbox.close()
        self.destroy_node()

    def heal(self) -> None:
        """No injection is active."""
        self.camera_paused = self.commands_paused = False
        self.heard = True  # whether what the controller says reaches anybody
        self.see(self.scenery.good)
        self.fresh_noise = True
        self.stamp: Callable[[int], int] = lambda now_ns: now_ns
        self.tamper: Callable[[Any], None] = lambda message: None
        self.axes: Callable[[float], Axes] = self._usual

    def see(self, frames: Pixels) -> None:
        """From now on the camera sees these, by turns."""
        self.frames: Callable[[int], Pixels] = lambda index: frames[index % len(frames)]

    def _usual(self, now_s: float) -> Axes:
        speed = self.speed * (1.0 + 0.1 * math.sin(3.0 * now_s + self.phase))
        return (speed, 0.0, 0.0, 0.0, 0.0, self.turn * math.sin(2.0 * now_s + self.phase))

    def send(self, axes: Axes) -> None:
        """Command the robot, once."""
        log, sent = self.log, Velocity(time.monotonic(), axes)
        if self.heard:
            log.inputs.append(sent)
        self.commands.publish(twist_of(axes))
        if self.heard:
            log.inputs[-1] = Velocity(sent.time_s, axes, time.monotonic())

    def acknowledge(self) -> bool:
        """A person acknowledges; returns whether the gate took it."""
        return self._ask(self._acknowledge, Trigger.Request(), "acknowledge")

    def take_control(self, take: bool) -> bool:
        """A person takes the wheel, or gives it back."""
        return self._ask(self._take_control, SetBool.Request(data=take), "take" if take else "release")

    def set_bypass(self, on: bool) -> bool:
        """A person sets the bypass, or ends it."""
        return self._ask(self._set_bypass, SetBool.Request(data=on), "bypass" if on else "end bypass")

    def _ask(self, client: Any, request: Any, act: str) -> bool:
        self.log.acts.append((time.monotonic(), act))
        if not client.wait_for_service(_ANSWER_S):
            return False
        answered = threading.Event()
        future = client.call_async(request)
        future.add_done_callback(lambda _: answered.set())
        return answered.wait(_ANSWER_S) and future.result().success

    def _repeat(self, turn: Callable[[], None]) -> None:
        while not self._ending.is_set() and rclpy.ok():
            turn()

    def _pace(self, period_s: float, act: Callable[[int], None]) -> None:
        index, next_s = 0, time.monotonic()
        while not self._ending.wait(max(0.0, next_s - time.monotonic())) and rclpy.ok():
            act(index)
            if (now_s := time.monotonic()) - next_s > _STALL_S:
                self.log.stalls.append((next_s, now_s))
            index += 1
            next_s = max(next_s + period_s, time.monotonic())

    def _shoot(self, index: int) -> None:
        if self.camera_paused:
            return
        pixels = self.frames(index)
        if self.fresh_noise:
            pixels = noisy(pixels, self.rng)
        message = _file_of(pixels) if self.compressed else _image_of(pixels)
        stamp_ns = self.stamp(self.get_clock().now().nanoseconds)
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp_ns, _SECOND_NS)
        self.tamper(message)
        self._images.publish(message)

    def _drive(self, index: int) -> None:
        if not self.commands_paused:
            self.send(self.axes(time.monotonic()))

    def _step_once(self) -> None:
        message = self._inbox.receive(0.05)
        if isinstance(message, Step):
            self.log.steps.append(message)
        elif isinstance(message, Assessment):
            self.log.told.append(message)

    def _on_output(self, message: Any, info: Any) -> None:
        # When DDS had it: how long this process then takes to look at it is no matter of a base's.
        now_s, now_ns = time.monotonic(), time.time_ns()
        received_s, sent_s = (
            now_s - (now_ns - info[name]) / _SECOND_NS for name in ("received_timestamp", "source_timestamp")
        )
        heard = Velocity(received_s, axes_of(message), sent_s)
        (self.log.strangers if heard.axes[2] == MARK else self.log.outputs).append(heard)

    def _on_state(self, message: Any) -> None:
        level = next((entry.value for entry in message.values if entry.key == "level"), "?")
        self.log.states.append((time.monotonic(), level, message.message))

    def _on_assessment(self, message: Any) -> None:
        try:
            self.log.assessments.append((time.monotonic(), assessment_of(message)))
        except ConversionError:
            self.log.refused += 1


def twist_of(axes: Axes) -> Any:
    """Axes as a message."""
    x, y, z, roll, pitch, yaw = map(float, axes)
    return Twist(linear=Vector3(x=x, y=y, z=z), angular=Vector3(x=roll, y=pitch, z=yaw))


def axes_of(message: Any) -> Axes:
    """A message's axes."""
    linear, angular = message.linear, message.angular
    return (linear.x, linear.y, linear.z, angular.x, angular.y, angular.z)


def _image_topic(compressed: bool) -> tuple[Any, str, Any]:
    if compressed:
        return CompressedImage, topics.IMAGE_COMPRESSED.name, topics.IMAGE_COMPRESSED.qos
    return Image, topics.IMAGE.name, topics.IMAGE.qos


def _image_of(pixels: Pixels) -> Any:
    height, width, channels = pixels.shape
    image = Image(encoding="rgb8", height=height, width=width, step=width * channels)
    image.data.frombytes(pixels.tobytes())
    return image


def _file_of(pixels: Pixels) -> Any:
    import io

    from PIL.Image import fromarray

    file = io.BytesIO()
    fromarray(pixels).save(file, "JPEG", quality=95)
    image = CompressedImage(format="jpeg")
    image.data.frombytes(file.getvalue())
    return image
