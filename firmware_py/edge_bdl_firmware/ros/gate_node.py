"""The gate as a ROS 2 node: commands in, as much of them as is safe out.

All timers run on a steady clock: with ``use_sim_time`` and no /clock the zeros must not cease. What has to be timely,
the command and the heartbeat, goes out first in a tick; what people look at follows.
"""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.clock import Clock, ClockType
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.parameter import Parameter
from std_msgs.msg import Bool

from edge_bdl.bundle import identify
from edge_bdl_firmware.gate import Gate
from edge_bdl_firmware.gate_process import GateProcess
from edge_bdl_firmware.local.channel import socket_folder
from edge_bdl_firmware.messages import Opening, Step, boot_id
from edge_bdl_firmware.ros import gate_parameters, topics
from edge_bdl_firmware.ros.bundle import open_bundle
from edge_bdl_firmware.ros.conversions import ConversionError, assessment_of, diagnostics_of, status_of_step
from edge_bdl_firmware.ros.log import NodeLog
from edge_bdl_firmware.ros.neighbours import (
    NO_PUBLISHER_EVENTS,
    NO_SUBSCRIPTION_EVENTS,
    Publishers,
    Strangers,
    Subscribers,
)
from edge_bdl_firmware.ros.parameters import declare, values_of, watch
from edge_bdl_firmware.ros.people import People
from edge_bdl_firmware.ros.speed_limit import SpeedLimitOut
from edge_bdl_firmware.ros.topics import Topic
from edge_bdl_firmware.ros.velocity import velocity
from edge_bdl_firmware.state_file import StateFile, default_state_path

_LOCK_PERIOD_S, _LOOK_PERIOD_S = 0.1, 1.0
_DELIVERY_S = 0.2  # for the last zero


class GateNode(Node):  # type: ignore[misc]
    """``edge_bdl_gate``.

    Args:
        bundle: Folder of the bundle; None: the parameter says it.

    Raises:
        EdgeBdlError: A parameter makes no sense, or the bundle is not sound.
    """

    def __init__(self, bundle: Path | None = None) -> None:
        given = [] if bundle is None else [Parameter("bundle", value=str(bundle))]
        super().__init__(topics.GATE_NODE, parameter_overrides=given)
        self._log = NodeLog(self)
        declare(self, gate_parameters.START)
        start = values_of(self, gate_parameters.START)
        # All of a bundle that a gate needs: its weights may be larger than the rest of this process.
        self._folder, self._manifest, self._digest = open_bundle(start, "ros-gate", identify)
        self._tunable = gate_parameters.tunable(self._manifest)
        self._shown = (*gate_parameters.START, *self._tunable, *gate_parameters.thresholds(self._manifest))
        declare(self, self._shown[len(gate_parameters.START) :])
        self._velocity = velocity(
            ackermann=bool(start["ackermann"]),
            stamped=bool(start["enable_stamped_cmd_vel"]),
            now=lambda: self.get_clock().now().to_msg(),
        )
        self._advertise(bool(start["speed_limit"]))
        self._process = self._make_process(str(start["state_file"]), str(start["sockets"]))
        self.parts = {"tick": lambda: self._process.ticks}
        watch(self, self._tunable, lambda values: gate_parameters.meaning(self._manifest, values), self._reconfigure)
        self._listen(1.0 / float(start["rate_hz"]))

    def stop(self) -> None:
        """A last zero, delivered."""
        self._process.stop()
        self._out.wait_for_all_acked(Duration(seconds=_DELIVERY_S))
        self._log.finish()

    def _advertise(self, with_speed_limit: bool) -> None:
        self._neighbours: list[Publishers | Subscribers] = []
        self._out = self._publisher(self._velocity.message, topics.CMD_VEL_OUT)
        self._heartbeat, self._alive = self._publisher(Bool, topics.HEARTBEAT), Bool(data=True)
        self._lock = self._publisher(Bool, topics.LOCK)
        self._state = self._publisher(DiagnosticStatus, topics.STATE)
        self._diagnostics = self._publisher(DiagnosticArray, topics.DIAGNOSTICS)
        self._speed_limit = SpeedLimitOut(self) if with_speed_limit else None
        self._hardware_id = socket.gethostname()

    def _publisher(self, kind: Any, topic: Topic) -> Any:
        publisher = self.create_publisher(kind, topic.name, topic.qos, event_callbacks=NO_PUBLISHER_EVENTS)
        self._neighbours.append(Subscribers(self, self._log, publisher))
        return publisher

    def _make_process(self, state_file: str, sockets: str) -> GateProcess:
        spec, config = gate_parameters.meaning(self._manifest, values_of(self, self._tunable))
        store = StateFile(Path(state_file) if state_file else default_state_path())
        latch = store.read()
        gate = Gate(
            spec,
            self._digest,
            boot_id(),
            config,
            stopped=latch.reason if latch.latched else None,
            axes=self._velocity.axes,
        )
        folder = Path(sockets) if sockets else socket_folder()
        return GateProcess(gate, store, folder, self._opening(), self._publish, self._log.info)

    def _listen(self, period_s: float) -> None:
        """From here on things happen."""
        self._strangers = Strangers(self, self._out.topic_name, [topics.GUARD_NODE])
        self._warning: str | None = None
        self._dropped = 0
        self._told: tuple[object, ...] = ()
        self._next_lock_s = self._next_look_s = 0.0
        self._period_s, self._planned_s = period_s, time.monotonic() + period_s
        self._people = People(self, self._process)
        self._commanders = self._subscribe(self._velocity.message, topics.CMD_VEL_IN, self._on_command)
        self._subscribe(DiagnosticArray, topics.ASSESSMENT_IN, self._on_assessment)
        self.create_timer(period_s, self._tick, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _subscribe(self, kind: Any, topic: Topic, callback: Any) -> Publishers:
        events = NO_SUBSCRIPTION_EVENTS
        subscription = self.create_subscription(kind, topic.name, callback, topic.qos, event_callbacks=events)
        publishers = Publishers(self, self._log, subscription)
        self._neighbours.append(publishers)
        return publishers

    def _on_command(self, message: Any) -> None:
        self._process.command(self._velocity.read(message))

    def _on_assessment(self, message: Any) -> None:
        try:
            assessment = assessment_of(message)
        except ConversionError as error:
            self._process.refuse(str(error))
        else:
            self._dropped = assessment.dropped
            self._process.assess(assessment)

    def _publish(self, step: Step) -> None:
        whole = step.output == step.command and step.speed_factor >= 1.0 and not step.bypass
        self._out.publish(self._velocity.write(step.output, step.kept, whole))

    def _tick(self) -> None:
        now_s = time.monotonic()
        late_s = max(0.0, now_s - self._planned_s)
        # What was missed is not made up for, nor by rcl's timer.
        self._planned_s = now_s - late_s % self._period_s + self._period_s
        step = self._process.tick(late_s * 1e3)
        self._heartbeat.publish(self._alive)
        if now_s >= self._next_lock_s:
            # Half a period of grace: ticks are never quite on time.
            self._next_lock_s = now_s + _LOCK_PERIOD_S - self._period_s / 2
            self._lock.publish(Bool(data=step.human_in_control))
        look = now_s >= self._next_look_s
        if look:
            self._next_look_s = now_s + _LOOK_PERIOD_S
            self._look_around()
        self._tell(step, look)

    def _look_around(self) -> None:
        self._process.gate.object("second publisher", self._strangers.look())
        for neighbours in self._neighbours:
            neighbours.look()
        count = self._commanders.count
        self._warning = f"{count} nodes publish on {self._commanders.topic}" if count > 1 else None

    def _tell(self, step: Step, again: bool) -> None:
        """Say how things stand where that has changed, and once a second."""
        factor = self._process.gate.config.bypass_factor if step.bypass else step.speed_factor
        news = (step.level, step.reason, round(factor, 2), step.human_in_control, step.bypass, self._warning)
        if news == self._told and not again:
            return
        level_before, self._told = self._told[:1], news
        facts = {"clear": self._process.gate.clear, "dropped": self._dropped, "late_ms": f"{step.late_ms:.1f}"}
        status = status_of_step(step, facts, self._hardware_id, self._warning)
        self._state.publish(status)
        if again or news[:1] != level_before:
            self._diagnostics.publish(diagnostics_of(status, self.get_clock().now().to_msg()))
        if self._speed_limit is not None:
            self._speed_limit.tell(factor)

    def _reconfigure(self) -> None:
        spec, config = gate_parameters.meaning(self._manifest, values_of(self, self._tunable))
        self._process.reconfigure(spec, config, self._opening())
        self._log.info("reconfigured")

    def _opening(self) -> Opening:
        values = values_of(self, self._shown)
        spec, _ = gate_parameters.meaning(self._manifest, values)
        # What counts beside a slow camera is longer than what was set.
        values["assessment_timeout_s"] = spec.config.assessment_timeout_s
        parameters = {name: str(value) for name, value in values.items()}
        return Opening(
            process="gate",
            pid=os.getpid(),
            bundle=self._digest,
            bundle_path=str(self._folder),
            parameters=parameters,
        )
